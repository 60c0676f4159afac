"""A search over settings with Optuna (Akiba et al., 2019, arXiv:1907.10902) in place of a grid.

    search:
      agent.learning-rate: {low: 1e-5, high: 1e-2, log: true}    # a number; an integer where low and high are
      architecture.width: {low: 64, high: 512, step: 64}
      architecture: [mlp, film]                                  # one of

A trial is one run for each seed. Its value is the score of the final evaluation, mean over tasks and seeds. Optuna's
median pruner stops a trial that is worse, at one of its evaluations, than the median of the others there. The study
is `optuna.db` in the folder of the sweep.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.checkpoints.files import storage_faults
from mtrl.config.validation import shown, validated
from mtrl.errors import BadInput
from mtrl.launch.processes import ChildRun, run_all, stop
from mtrl.launch.seeds import say_failures
from mtrl.launch.sweep import Options, Placement, as_it_stands, sweep_command
from mtrl.launch.sweep_file import Sweep
from mtrl.launch.table import RunsTable
from mtrl.loggers.console import say
from mtrl.report.runs import Run, read_run
from mtrl.runs.run_directory import EVALUATIONS

STORAGE = "optuna.db"
STUDY = "sweep"


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included; integers where all of them are."""

    low: int | float
    high: int | float
    step: int | float | None = None  # between two values
    log: bool = False  # uniform in the logarithm


@dataclass
class Trial:
    """A trial of Optuna and its runs, one for each seed."""

    trial: Any  # optuna.Trial
    runs: list[ChildRun] = field(default_factory=list)  # those that were not done before
    run_dirs: list[Path] = field(default_factory=list)  # of all
    reported: set[int] = field(default_factory=set)  # env steps of the evaluations that Optuna knows
    evaluation_bytes: int = -1  # of all seeds, when they were read last


def run_search(sweep: Sweep, options: Options, num_trials: int) -> int:
    """Runs what is left of `num_trials`; returns the exit code. Raises MtrlError."""
    try:
        import optuna
    except ModuleNotFoundError:
        raise BadInput("a search needs the package optuna; pip install 'mtrl-suite[optuna]'") from None
    if sweep.settings.grid:
        raise BadInput(f"{sweep.path}: a search has ranges in 'search', and no 'grid'")
    if not sweep.settings.search:
        raise BadInput(f"{sweep.path}: 'search' has no ranges")
    spaces = {key: _distribution(optuna, sweep.path, key, value) for key, value in sweep.settings.search.items()}
    # Refuses what is no flag, or out of range, before anything starts.
    lowest = {key: _examples(space)[0] for key, space in spaces.items()}
    example = sweep.of_values("", lowest)
    for key, space in spaces.items():
        for value in _examples(space)[1:]:
            sweep.of_values("", {**lowest, key: value})
    with storage_faults(sweep.folder):
        sweep.folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=STUDY,
        storage=f"sqlite:///{(sweep.folder / STORAGE).absolute()}",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(),
    )
    # A repeated search draws other samples than the first one did.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials), constant_liar=True)
    placement = Placement(sweep, options, [plan.config for plan in example], num_trials * len(example))
    search = _Search(study, sweep, spaces, placement, num_trials)
    for known in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        search.begin(optuna.Trial(study, known._trial_id), known.params, {*known.intermediate_values})
    search.turn()
    with RunsTable(search.runs) as table:

        def turn() -> None:
            search.turn()
            table.update()

        code = run_all(search.runs, placement.engine, turn)
    say_failures(search.runs)
    finished = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    if finished < num_trials:
        say(f"go on: {sweep_command(sweep, options, '--search', 'optuna', '--trials', str(num_trials))}")
    _say_best(study)
    return code


class _Search:
    """Begins, prunes and ends trials; `turn` is called by the loop of the runs."""

    def __init__(self, study: Any, sweep: Sweep, spaces: Mapping[str, Any], placement: Placement, num_trials: int):
        self.runs: list[ChildRun] = []
        self._study, self._sweep, self._spaces, self._placement = study, sweep, spaces, placement
        self._left = num_trials - len(study.trials)
        self._trials: list[Trial] = []

    def begin(self, trial: Any, values: Mapping[str, Any], reported: set[int] | None = None) -> None:
        """Adds the runs of a trial."""
        own = Trial(trial, reported=reported or set())
        try:
            plans = self._sweep.of_values(f"trial-{trial.number:04d}", values)
        except BadInput:  # values that do not go together: without this every later search would begin it again
            self._study.tell(trial, state=_state("FAIL"))
            raise
        for plan in plans:
            own.run_dirs.append(plan.run_dir)
            found = as_it_stands(plan, retry_failed=True)
            if isinstance(found, ChildRun):
                own.runs.append(self._placement.fit(found, plan.config))
        self._trials.append(own)
        self.runs += own.runs

    def turn(self) -> None:
        for own in list(self._trials):
            self._report(own)
            if any(run.state in ("waiting", "running") for run in own.runs):
                continue
            self._trials.remove(own)
            states = {run.state for run in own.runs}
            if "stopped" in states:  # the trial goes on when the search is repeated, before others begin
                self._left = 0
            elif "failed" in states:
                self._study.tell(own.trial, state=_state("FAIL"))
            elif "pruned" in states:
                self._study.tell(own.trial, state=_state("PRUNED"))
            else:
                self._study.tell(own.trial, float(np.mean([_read(path).scores.mean() for path in own.run_dirs])))
        active = sum(run.state in ("waiting", "running") for run in self.runs)
        while self._left > 0 and active < min(self._placement.engine.slots, MAX_ACTIVE):
            try:
                trial = self._study.ask(self._spaces)
            except ValueError as error:
                hint = "a search with other choices needs another 'folder'"
                raise BadInput(f"{self._sweep.path}: search: {error}; {hint}") from error
            self.begin(trial, trial.params)
            self._left -= 1
            active = sum(run.state in ("waiting", "running") for run in self.runs)

    def _report(self, own: Trial) -> None:
        """Tells Optuna of evaluations that all seeds have made, and stops the trial if it says so."""
        num_bytes = sum(map(_size, own.run_dirs))
        if num_bytes == own.evaluation_bytes:
            return
        own.evaluation_bytes = num_bytes
        runs = [run for run in map(_read_early, own.run_dirs) if run is not None]
        if len(runs) < len(own.run_dirs):
            return
        curves = [dict(zip(run.curve[0].tolist(), run.curve[1].mean(1).tolist(), strict=True)) for run in runs]
        for env_steps in sorted(set.intersection(*map(set, curves)) - own.reported):
            own.reported.add(env_steps)
            own.trial.report(float(np.mean([curve[env_steps] for curve in curves])), env_steps)
            if own.trial.should_prune():
                for run in own.runs:
                    run.pruned = True
                    stop(run, self._placement.engine, signal.SIGTERM)
                return


MAX_ACTIVE = 64
"""Runs at a time where the engine has no limit: what a trial has shown is of use to the next."""


def _distribution(optuna: Any, path: Path, key: str, value: Any) -> Any:
    """The distribution of a key of `search`. Raises BadInput."""
    kinds = optuna.distributions
    try:
        if isinstance(value, list):
            if not value or not all(isinstance(choice, str | bool | int | float | None) for choice in value):
                raise ValueError("a list of names, numbers, true, false and null, not empty, is expected")
            return kinds.CategoricalDistribution(value)
        if not isinstance(value, Mapping):
            raise ValueError(f"{shown(value)} is not allowed; must be a list, or low and high")
        chosen = validated(Range, value, "")
        if all(isinstance(number, int) for number in (chosen.low, chosen.high, chosen.step or 1)):
            return kinds.IntDistribution(chosen.low, chosen.high, log=chosen.log, step=chosen.step or 1)
        return kinds.FloatDistribution(chosen.low, chosen.high, log=chosen.log, step=chosen.step)
    except (ValueError, TypeError, BadInput) as error:
        raise BadInput(f"{path}: search: {key}: {error}") from error


def _examples(space: Any) -> Sequence[Any]:
    """The ends of a range, or every choice."""
    return (space.low, space.high) if hasattr(space, "low") else space.choices


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def _size(run_dir: Path) -> int:
    try:
        return os.stat(run_dir / EVALUATIONS).st_size
    except OSError:
        return 0


def _read(run_dir: Path) -> Run:
    run = read_run(run_dir)
    if run is None:
        raise BadInput(f"{run_dir} has no evaluation, by which a search goes; final-eval-episodes-per-task is 0")
    return run


def _read_early(run_dir: Path) -> Run | None:
    """A run that may have just begun."""
    try:
        return read_run(run_dir)
    except BadInput:
        return None


def _say_best(study: Any) -> None:
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.values]
    if complete:
        best = max(complete, key=lambda trial: trial.value)
        values = ", ".join(f"{key} {value}" for key, value in best.params.items())
        say(f"best of {len(complete)} complete trials: trial-{best.number:04d}, score {best.value:.4g}: {values}")
