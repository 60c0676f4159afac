"""Faults of plug-ins, named by the class, its file and the line.

An environment's fault is named where the environment is called. That of any other plug-in is found in the traceback of
what comes out of a run: its code is never wrapped.
"""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from mtrl.errors import BadInput, MtrlError
from mtrl.registry import plugin_packages

MAX_LINE = 300
"""Characters of an error in a warning."""


class WrongResult(Exception):
    """A plug-in broke its interface; the message goes on after the class: `returned None from step, ...`."""


class PluginFault(BadInput):
    """Code of a plug-in failed, or broke its interface."""


def describe_fault(error: BaseException, plugin: object) -> str:
    """One line, e.g. `MySlot (/home/me/drawers.py:12) raised LookupError: the drawer is stuck`.

    `plugin` is an object, or the class or function that makes it. The line is the innermost one of its file, or where
    the file has no part in the error, the first line of its definition.
    """
    definition = plugin if inspect.isclass(plugin) or inspect.isroutine(plugin) else type(plugin)
    return f"{definition.__qualname__}{_place(error, definition)} {_complaint(error)}"


def error_line(error: BaseException) -> str:
    """What went wrong, for a warning of one line; a plug-in that had a part in it is named."""
    named = error if isinstance(error, MtrlError) else plugin_fault(error)
    text = str(named or f"{type(error).__name__}: {error}")
    return "".join(character if character.isprintable() else " " for character in text)[:MAX_LINE]


@contextmanager
def named_plugin_faults() -> Iterator[None]:
    """Raises PluginFault in place of an exception, or `sys.exit`, that a plug-in had a part in. Also a decorator."""
    try:
        yield
    except (MtrlError, BrokenPipeError):
        raise
    except (Exception, SystemExit) as error:
        fault = plugin_fault(error)
        if fault is None:
            raise
        raise fault from error


def plugin_fault(error: BaseException) -> PluginFault | None:
    """What a plug-in has to do with an error, or None if none had a part in it.

    The plug-in is the innermost in the traceback: a frame belongs to it if its code does, or the function's first
    argument is its class or an object of it. So a function of ours that checks what a plug-in returned takes the
    plug-in first.
    """
    packages = plugin_packages()
    found = ""
    places: dict[str, str] = {}  # innermost, by module
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        cls = first if isinstance(first, type) else type(first)
        module = str(frame.f_globals.get("__name__"))
        is_code, is_method = _within(module, packages), _within(str(cls.__module__), packages)
        if is_code:
            places[module] = f" ({code.co_filename}:{line})"
            found = f"{cls.__qualname__ if is_method else code.co_qualname}{places[module]}"
        elif is_method:
            known = (places[base.__module__] for base in cls.__mro__ if base.__module__ in places)
            found = f"{cls.__qualname__}{next(known, None) or _place(error, cls)}"
    if found:
        return PluginFault(f"plug-in {found} {_complaint(error)}")
    return plugin_fault(error.__cause__) if error.__cause__ is not None else None


def _within(module: str, packages: Collection[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _complaint(error: BaseException) -> str:
    text = str(error).partition("\n")[0]
    if isinstance(error, WrongResult):
        return text
    return f"raised {type(error).__name__}{': ' if text else ''}{text}"


def _place(error: BaseException, definition: object) -> str:
    try:
        file = os.path.abspath(inspect.getfile(definition))  # type: ignore[arg-type]
    except (TypeError, OSError):  # built in, or of an interactive session
        return ""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if os.path.abspath(frame.f_code.co_filename) == file]
    if not lines:
        try:
            lines = [inspect.getsourcelines(definition)[1]]  # type: ignore[arg-type]
        except (TypeError, OSError):  # compiled, or the source is not there
            return f" ({file})"
    return f" ({file}:{lines[-1]})"
