"""The command `mtrl`: dispatch to the verbs, error lines and exit codes.

This module imports nothing heavy; a verb is imported when it is called. Every failure is one line on stderr and an
exit code: 0 done, 2 bad input, 3 diverged, 4 an environment worker or another rank failed, 5 storage, 70 a bug; a run
that a signal stopped has 129 (hang-up), 130 (interrupt), 138 (SIGUSR1) or 143 (termination).
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from mtrl import __version__
from mtrl.api.limits import reached_limit
from mtrl.data_parallel.torchrun import refuse_torchrun
from mtrl.errors import BadInput, MtrlError, StorageFailure
from mtrl.faults import named_plugin_faults
from mtrl.optim.cpu import end_with_parent, keep_freed_memory
from mtrl.registry import nearest

HELP = f"""\
mtrl {__version__}: multi-task reinforcement learning

  mtrl train      train an agent on a suite of tasks, or continue a run
  mtrl eval       success rate per task of a trained agent, by the suite's protocol
  mtrl sweep      many runs: every combination of some flags and seeds, here or on a cluster
  mtrl status     how far the runs in a folder are
  mtrl report     compare runs: statistics over seeds, curves and matrices in one HTML file
  mtrl relations  how the tasks of a run are related, and which to train together
  mtrl export     the policy of a run as a file for other programs, with a model card
  mtrl push       an exported policy to the Hugging Face hub
  mtrl list       what can be chosen: suites, tasks, agents, architectures, ...
  mtrl doctor     what is installed here, and what is missing

  mtrl train --suite mt10 --agent sac --architecture multi-head --total-env-steps 2000000 --run-dir runs/a
  mtrl train --config FILE.yaml --seed 2      flags override the file
  mtrl train --resume runs/a                  from the last checkpoint
  torchrun --nproc-per-node 2 -m mtrl train --suite mt10    one run by two processes
  mtrl eval runs/a --episodes-per-task 50
  mtrl sweep FILE.yaml --dry-run              lists the commands; again without, to run them
  mtrl report runs --output report.html
  mtrl export runs/a --format onnx --output policy
  mtrl relations runs/a --measure tag --groups 3

mtrl VERB --help lists the flags of a verb; for train, those of the classes chosen.
"""

VERBS = {
    "train": "train",
    "eval": "evaluate",
    "sweep": "sweep",
    "status": "status",
    "report": "report",
    "relations": "relations",
    "export": "export",
    "push": "push",
    "list": "listing",
    "doctor": "doctor",
}
"""The module of each verb, in `mtrl.cli.commands`."""

MAX_LINE = 400
"""Characters of the one line that says what went wrong."""

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; nothing is raised."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    end_with_parent()
    keep_freed_memory()
    try:
        try:
            with named_plugin_faults():
                code = _run_verb(arguments)
        except SystemExit as stopped:  # the help has been printed
            code = 0 if stopped.code is None else stopped.code if isinstance(stopped.code, int) else 70
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        _discard_stdout()  # the reader (`mtrl list | head`) has what it wanted
        return 0
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except MtrlError as error:
        if not error.reported:
            _complain(str(error))
        return error.exit_code
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL_DISK:
            _discard_stdout()
            _complain(f"the output cannot be written: {error.strerror}")
            return StorageFailure.exit_code
        if (limit := reached_limit(error)) is not None:
            _complain(limit)
            return BadInput.exit_code
        traceback.print_exc()
        _complain(f"a bug of ours, the traceback is above: {type(error).__name__}: {error}")
        return 70


def _run_verb(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(HELP, end="")
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb == "--version":
        print(f"mtrl-suite {__version__}")
        return 0
    if verb in VERBS:
        if verb != "train":
            refuse_torchrun(f"mtrl {verb}")
        return importlib.import_module(f"mtrl.cli.commands.{VERBS[verb]}").main(rest)
    raise BadInput(f"unknown verb {verb!r}{nearest(verb, VERBS)}; known: {', '.join(VERBS)}")


def _discard_stdout() -> None:
    """Sends what is left of stdout nowhere, so that the interpreter's last flush does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str) -> None:
    """One line on stderr: no control characters, bounded length."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in f"error: {message}")
    print(line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 4]} ...", file=sys.stderr)
