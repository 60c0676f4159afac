"""The command line of `mtrl eval`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field, NonNegativeInt, PositiveInt

from mtrl.cli.flags import parse_flags
from mtrl.config.validation import plain, shown, validated
from mtrl.errors import BadInput
from mtrl.registry import nearest

_arg = tyro.conf.arg


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags:
    """Play the evaluation protocol of a suite with a trained agent, and print success rates per task."""

    run: Annotated[Path, tyro.conf.Positional, _arg(metavar="RUN")]  # run directory
    episodes_per_task: PositiveInt | None = None  # episodes per task; None: as in the run's final evaluation
    checkpoint: Annotated[str, _arg(metavar="best|latest|STEP")] = "latest"  # best: chosen on the goals of evaluation
    suite: Annotated[str | None, _arg(metavar="NAME")] = None  # another suite of tasks the run was trained on
    num_workers: NonNegativeInt | None = None  # environment processes; 0: in this process, None: one per core
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] | None = None  # of the suite's variations (goals); None: the run's
    video: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False  # also record one episode of each task
    plugin: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, _arg(metavar="MODULE")] = ()  # module to import


def parse_evaluate(arguments: Sequence[str]) -> EvaluateFlags:
    """The request on the command line. Prints the help and raises SystemExit for `--help`. Raises BadInput."""
    flags = parse_flags(EvaluateFlags, arguments, command="eval")
    request = validated(EvaluateFlags, plain(flags), "")
    if request.checkpoint not in ("best", "latest") and not request.checkpoint.isdecimal():
        hint = nearest(request.checkpoint, ["best", "latest"])
        raise BadInput(f"checkpoint: {shown(request.checkpoint)} is not allowed; must be best, latest or a step{hint}")
    return request
