"""Flags from dataclasses: tyro makes and reads them, and whatever it refuses becomes one line.

The first pass (`named_values`) reads the few flags that decide which dataclass there is; the second (`parse_flags`)
reads all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import tyro

from mtrl.config.validation import describe, field_types, shown
from mtrl.errors import BadInput
from mtrl.registry import nearest

T = TypeVar("T")

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_RULE = re.compile(r"─+|-{10,}")


def named_values(arguments: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Values of the flags `names`, in the order given. Raises BadInput if one has no value."""
    found: dict[str, list[str]] = {name: [] for name in names}
    position = 0
    while position < len(arguments):
        flag, equals, value = _split(arguments[position])
        position += 1
        if flag[2:] not in found or not flag.startswith("--"):
            continue
        if not equals:
            if position == len(arguments) or arguments[position].startswith("--"):
                raise BadInput(f"{flag}: a value is missing")
            value = arguments[position]
            position += 1
        found[flag[2:]].append(value)
    return found


def parse_flags(cls: type[T], arguments: Sequence[str], *, command: str, chosen: Mapping[str, str] | None = None) -> T:
    """An instance of the dataclass `cls` from the command line; a flag that is not given has the field's default.

    Prints the help and raises SystemExit for `--help`. Raises BadInput; `chosen` names the class behind a prefix
    (`{"agent": "sac"}`) for its messages. Ranges are not checked here.
    """
    flags = flag_types(cls)
    for argument in arguments:
        flag = _split(argument)[0]
        if flag.startswith("--") and flag not in flags and flag != "--help":
            prefix = flag[2:].partition(".")[0]
            owner = f" of {prefix} {chosen[prefix]!r}" if chosen and "." in flag and prefix in chosen else ""
            raise BadInput(f"unknown flag {shown(flag)}{owner}{nearest(flag, flags)}; mtrl {command} --help lists all")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(cls, args=list(arguments), prog=f"mtrl {command}", config=(tyro.conf.AvoidSubcommands,))
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise BadInput(_translated(complaint.getvalue(), arguments, flags)) from None


def flag_types(cls: Any, prefix: str = "--") -> dict[str, Any]:
    """The type behind every flag of a dataclass, nested dataclasses included; positional arguments are left out."""
    flags: dict[str, Any] = {}
    for field, annotation in field_types(cls).items():
        metadata = annotation.__metadata__ if typing.get_origin(annotation) is Annotated else ()
        bare = typing.get_args(annotation)[0] if metadata else annotation
        name = field.replace("_", "-")
        for item in metadata:
            name = getattr(item, "name", None) or name
        if dataclasses.is_dataclass(bare):
            inner = prefix if tyro.conf.OmitArgPrefixes in metadata else f"{prefix}{name}."
            flags |= flag_types(bare, inner)
        elif tyro.conf.Positional not in metadata:
            flags[prefix + name] = annotation
            if bare is bool and tyro.conf.FlagCreatePairsOff not in metadata:
                flags[f"{prefix}no-{name}"] = annotation
    return flags


def _split(argument: str) -> tuple[str, bool, str]:
    """`--a_b=c` as its flag, written with hyphens, whether a value is attached, and the value."""
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-"), bool(equals), value


def _translated(box: str, arguments: Sequence[str], flags: Mapping[str, Any]) -> str:
    """tyro's framed complaint as one sentence that names flag, value and what is allowed."""
    message = _complaint(_COLOUR.sub("", box).splitlines())
    unbroken = "".join(message.split())
    flag = next((flag for flag in sorted(flags, key=len, reverse=True) if flag in unbroken), None)
    if unbroken.startswith("Unrecognizedoptions:"):
        return f"unexpected argument {shown(_stray(arguments, message))}"
    if flag is None:
        return message.removeprefix("Error parsing ") or "these flags cannot be read"
    given = _values_of(flag, arguments)
    allowed = describe(flags[flag]).replace("null", "None")
    problem = f"{shown(' '.join(given))} is not allowed" if given else "a value is missing"
    return f"{flag}: {problem}; must be {allowed}" if allowed else f"{flag}: {problem}; {message}"


def _complaint(lines: Sequence[str]) -> str:
    """What is wrong: the first section of a box, which rules separate from the help text below it."""
    framed = any("│" in line for line in lines)
    sections: list[list[str]] = [[]]
    for line in lines:
        text = line.strip("│ ")
        if _RULE.fullmatch(text):
            sections.append([])
        elif text and text[0] not in "╭╰":
            sections[-1].append(text)
    # The title stands in the frame, or, where the terminal has no frames, in a section of its own.
    body = sections if framed else sections[1:]
    return " ".join(body[0]) if body else ""


def _values_of(flag: str, arguments: Sequence[str]) -> list[str]:
    """What followed the last use of `flag`."""
    given: list[str] = []
    for position, argument in enumerate(arguments):
        name, equals, value = _split(argument)
        if name == flag:
            rest = iter(arguments[position + 1 :])
            given = [value] if equals else []
            for following in () if equals else rest:
                if following.startswith("--"):
                    break
                given.append(following)
    return given


def _stray(arguments: Sequence[str], message: str) -> str:
    """The first argument that tyro lists as not understood."""
    listed = message.partition(":")[2]
    return next((argument for argument in arguments if argument and argument in listed), listed.strip())
