"""Command-line flags of dataclass fields. The values become a nested document, which is checked as YAML is."""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import textwrap
import tokenize
import types
import typing
from collections.abc import Collection, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

from mtrl.config.validation import SYNONYMS, describe, field_types, shown
from mtrl.config.yaml_io import load_mapping, scalar
from mtrl.errors import BadInput
from mtrl.registry import nearest

MAX_LISTED = 10
"""How many flags an error lists; more are for `--help`."""


class FlagParser(argparse.ArgumentParser):
    """An argument parser that raises BadInput, and reads `--batch_size` as `--batch-size`."""

    def __init__(self, command: str, description: str = "", *, unknown: str = "unknown flag {flag}", **options: Any):
        """command: what follows `mtrl`. unknown: what an error says of a flag that is not among those of the parser."""
        super().__init__(
            prog=f"mtrl {command}",
            description=description,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36),
            **options,
        )
        self._command, self._unknown = command, unknown
        self._flags: list[str] = []
        self._settings: dict[str, _Setting] = {}
        self._titles: dict[str, str] = {}  # of groups, by the prefix of their flags

    def add_flag(self, flag: str, help: str, group: Any = None, **options: Any) -> argparse.Action:
        """A flag that is no field of a dataclass."""
        self._flags.append(flag)
        return (group or self).add_argument(flag, help=help.replace("%", "%%"), **options)

    def add_plugin_flag(self, group: Any = None) -> None:
        self.add_flag(
            "--plugin", "module to import, may be repeated; its classes are MODULE:Class", group, action="append",
            metavar="MODULE",
        )  # fmt: skip

    def add_settings(
        self, cls: type, defaults: Any, group: Any = None, prefix: str = "", only: Collection[str] | None = None
    ) -> None:
        """A flag `--prefix.field-name` for every field of a dataclass, or for `only` some. defaults: an instance."""
        if prefix and group is not None:
            self._titles[prefix] = group.title
        for name, annotation in field_types(cls).items():
            if only is not None and name not in only:
                continue
            key = f"{prefix}.{name}" if prefix else name
            if is_dataclass(annotation):
                self.add_settings(typing.cast(type, annotation), getattr(defaults, name), group, key)
                continue
            start, _, last = f"--{key}".replace("_", "-").rstrip("-").rpartition(".")  # `import_` is `--import`
            flag = f"{start}.{last}" if start else last
            kinds = _kinds(annotation)
            if kinds == {bool}:
                off = f"{start}.no-{last}" if start else f"--no-{last[2:]}"
                action = (group or self).add_argument(flag, off, dest=key, action=_Switch)
                self._flags.append(off)
            else:
                many = "*" if kinds & {list, tuple, dict} else None
                action = (group or self).add_argument(flag, dest=key, nargs=many, metavar=_metavar(annotation))
            self._flags.append(flag)
            self._settings[key] = _Setting(action, cls, name, annotation, getattr(defaults, name))

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The flags that are given, as a nested document: `{"agent": {"batch_size": 64}}`.

        Prints the help and raises SystemExit for `--help`. Raises BadInput.
        """
        known, rest = self.parse_known_args(hyphenated(arguments))
        if rest and not rest[0].startswith("-"):
            raise BadInput(f"unexpected argument {shown(rest[0])}")
        if rest:
            raise BadInput(self._unknown_flag(rest[0].partition("=")[0]))
        document: dict[str, Any] = {}
        for key, value in vars(known).items():
            if key in self._settings:
                value = _value(value, self._settings[key].annotation, key)
            target, *inner, last = [document, *key.split(".")]
            for name in inner:
                target = target.setdefault(name, {})
            target[last] = value
        return document

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)  # argparse's own ignores that a disk is full

    def format_help(self) -> str:
        for setting in self._settings.values():
            setting.action.help = setting.help()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        raise BadInput(message.removeprefix("argument "))

    def _unknown_flag(self, flag: str) -> str:
        prefix, _, name = flag.lstrip("-").rpartition(".")
        name = SYNONYMS.get(name.replace("-", "_"), name).replace("_", "-")
        same = [known for known in self._flags if known.lstrip("-").rpartition(".")[2] == name]
        same.sort(key=lambda known: not known.startswith(f"--{prefix}."))
        hint = f" (did you mean {same[0]!r}?)" if same else nearest(flag, self._flags)
        owner = f" of {self._titles[prefix]}" if prefix in self._titles else ""
        few = len(self._flags) <= MAX_LISTED
        known = f"known: {', '.join(self._flags)}" if few else f"mtrl {self._command} --help lists all"
        return f"{self._unknown.format(flag=shown(flag))}{owner}{hint}; {known}"


def hyphenated(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--batch_size=a_b` as `--batch-size=a_b`."""
    parts = [argument.partition("=") if argument.startswith("--") else ("", "", argument) for argument in arguments]
    return [flag.replace("_", "-") + equals + value for flag, equals, value in parts]


class _Setting(NamedTuple):
    action: argparse.Action
    cls: type
    name: str
    annotation: Any
    default: Any

    def help(self) -> str:
        """The trailing comment of the field, what is allowed, and the default."""
        limits = describe(self.annotation) if not _kinds(self.annotation) & {bool, Literal} else ""
        default = " ".join(map(str, self.default)) or "none" if isinstance(self.default, tuple | list) else self.default
        notes = "; ".join(filter(None, [limits, f"default: {default}"])).replace("null", "None")
        return f"{_comments(self.cls).get(self.name, '')} [{notes}]".strip().replace("%", "%%")


class _Switch(argparse.Action):
    """`--flag` for true and, as the second of its names, `--no-flag` for false."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        setattr(namespace, self.dest, option == self.option_strings[0])


def _kinds(annotation: Any) -> set[Any]:
    """The plain types in an annotation: `{int, NoneType}` for `PositiveInt | None`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _kinds(arguments[0])
    if origin is Literal:
        return {Literal, *map(type, arguments)}
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(_kinds, arguments))
    return {origin or annotation}


def _metavar(annotation: Any) -> str:
    parts = (annotation, *typing.get_args(annotation))
    choices = next((typing.get_args(part) for part in parts if typing.get_origin(part) is Literal), ())
    words = {int: "INT", float: "FLOAT", str: "TEXT", dict: "NAME VALUE"}
    return f"{{{','.join(map(str, choices))}}}" if choices else " or ".join(
        word for kind, word in words.items() if kind in _kinds(annotation)
    ) or "VALUE"  # fmt: skip


def _value(given: Any, annotation: Any, key: str) -> Any:
    """The value of words on the command line, as YAML has it. Raises BadInput for a name without a value."""
    kinds = _kinds(annotation)
    if isinstance(given, bool):
        return given
    if given in ("None", "null", ["None"], ["null"]) and types.NoneType in kinds:
        return None
    if isinstance(given, str):
        return given if str in kinds else scalar(given)
    texts = kinds <= {list, tuple} and str in _kinds(typing.get_args(annotation)[0])
    values = list(given) if texts else [scalar(word) for word in given]
    if kinds == {dict} and given and given[0].startswith("{"):
        return load_mapping(" ".join(given), key)
    if dict not in kinds or (kinds & {list, tuple} and not any(isinstance(value, str) for value in values)):
        return values
    if len(values) % 2:
        raise BadInput(f"{key}: {shown(' '.join(given))} is not allowed; must be pairs of a name and a value")
    return dict(zip(given[::2], values[1::2], strict=True))


def _comments(cls: type) -> dict[str, str]:
    """The trailing comment of every field of a dataclass, inherited ones included, where there is source code."""
    comments: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            source = textwrap.dedent(inspect.getsource(base))
            body: Any = ast.parse(source).body[0]
        except (OSError, TypeError, SyntaxError, IndexError):
            continue
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        ends = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
        fields: list[Any] = [node for node in body.body if isinstance(node, ast.AnnAssign)]
        comments |= {node.target.id: ends.get(node.end_lineno, "") for node in fields}
    return comments
