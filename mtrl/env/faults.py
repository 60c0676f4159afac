"""Faults of environment code, named by the environment's class, its file and the line."""

from __future__ import annotations

import inspect
import os
import traceback


class WrongResult(Exception):
    """An environment broke its interface; the message goes on after the class: `returned None from step, ...`."""


def describe_fault(error: BaseException, environment: object) -> str:
    """One line, e.g. `MySlot (/home/me/drawers.py:12) raised LookupError: the drawer is stuck`.

    `environment` is an object, or the class or function that makes it. The line is the innermost one of its file, or
    where the file has no part in the error, the first line of its definition.
    """
    definition = environment if inspect.isclass(environment) or inspect.isroutine(environment) else type(environment)
    return f"{definition.__qualname__}{_place(error, definition)} {_complaint(error)}"


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
