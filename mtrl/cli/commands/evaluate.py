"""`mtrl eval`: success rate per task of a trained agent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtrl.api.operations import EvaluationSettings, evaluate
from mtrl.cli.flags import FlagParser
from mtrl.config.validation import validated
from mtrl.training.interruption import Interrupted


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code. Raises MtrlError."""
    parser = FlagParser("eval", "Evaluate a trained agent by the protocol of its suite: success rate per task.")
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_settings(EvaluationSettings, EvaluationSettings())
    parser.add_plugin_flag()
    flags = parser.parse(arguments)
    run_dir, modules = Path(flags.pop("run")), flags.pop("plugin", [])
    try:
        evaluate(run_dir, validated(EvaluationSettings, flags, ""), modules, warm_up=True)
    except Interrupted as stopped:
        return stopped.exit_code
    return 0
