"""Calls of the command `mtrl`, in this process or one of its own."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from typing import Any, NamedTuple

from mtrl.cli.main import MAX_LINE, main


class Finished(NamedTuple):
    code: int
    out: str
    error: str


def call(*arguments: str) -> Finished:
    """The command in this process."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = main(arguments)
    return Finished(code, out.getvalue(), error.getvalue())


def command(*arguments: str, **options: Any) -> Finished:
    """The command in a process of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60, **options}
    result = subprocess.run([sys.executable, "-m", "mtrl", *arguments], check=False, **options)
    return Finished(result.returncode, result.stdout, result.stderr)


def assert_refused(finished: Finished, *fragments: str) -> None:
    """One printable line of bounded length with the fragments, and exit code 2."""
    code, _, error = finished
    assert code == 2, error
    assert error.startswith("error: ")
    assert error.endswith("\n")
    assert error[:-1].isprintable(), error
    assert len(error) <= MAX_LINE + 1
    for fragment in fragments:
        assert fragment in error
