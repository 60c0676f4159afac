"""Results of one method on one suite over several seeds, read from a folder that `benchmarks.learning` wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.repeats import Repeats
from mtrl.config.schema import RunConfig, changed, parse_yaml
from mtrl.config.yaml_io import read_text
from mtrl.errors import BadInput
from mtrl.networks.size import num_parameters
from mtrl.runs.logs import EvaluationLog, EvaluationRow, MetricsLog
from mtrl.training.build import build_agent, build_suite


@dataclass(frozen=True)
class SeedResult:
    """What one seed left behind."""

    final: list[EvaluationRow]  # one row per task
    curves: list[dict]  # rows of metrics with `env_steps`, `train/...` and `time/wall_seconds`

    def success_rate(self, task: str) -> float:
        return next(row.success_rate for row in self.final if row.task == task)

    @property
    def mean_success_rate(self) -> float:
        return sum(row.success_rate for row in self.final) / len(self.final)

    @property
    def minutes(self) -> float:
        seconds = [row["time/wall_seconds"] for row in self.curves if "time/wall_seconds" in row]
        return seconds[-1] / 60 if seconds else float("nan")


@dataclass(frozen=True)
class Entry:
    """One method on one suite."""

    method: str
    config: RunConfig  # of the first seed
    seeds: Sequence[SeedResult]

    @property
    def suite(self) -> str:
        return self.config.suite.name

    @property
    def tasks(self) -> list[str]:
        return [row.task for row in self.seeds[0].final]

    @property
    def env_steps(self) -> int:
        """Of the seed with the fewest."""
        return min(result.final[0].env_steps for result in self.seeds)

    @property
    def episodes(self) -> int:
        """Per task in the final evaluation."""
        return min(row.episodes for result in self.seeds for row in result.final)

    @cached_property
    def num_parameters(self) -> int:
        suite = build_suite(self.config.suite, self.config.settings.seed)
        return num_parameters(build_agent(self.config, suite, torch.device("cpu")))

    def success_rate(self, task: str) -> Repeats:
        return self.over_seeds(lambda result: result.success_rate(task))

    def over_seeds(self, value: Callable[[SeedResult], float]) -> Repeats:
        return Repeats(tuple(value(result) for result in self.seeds))


def read_entry(folder: Path, method: str | None = None) -> Entry:
    """The results in a folder. Raises BadInput."""
    numbers = sorted(int(path.name.split("-")[1]) for path in folder.glob("seed-[0-9]*-eval.csv"))
    if not numbers:
        raise BadInput(f"{folder}: no results of benchmarks.learning (no seed-N-eval.csv)")
    configs, seeds = [], []
    for number in numbers:
        source = folder / f"seed-{number}-config.yaml"
        configs.append(changed(parse_yaml(read_text(source), str(source)), {"seed": 1}))
        rows = EvaluationLog(folder / f"seed-{number}-eval.csv").rows()
        final = final_rows(rows)
        if not final:
            raise BadInput(f"{folder}: seed {number} has no final evaluation")
        seeds.append(SeedResult(final, MetricsLog(folder / f"seed-{number}-curves.jsonl").rows()))
        if configs[-1] != configs[0]:
            raise BadInput(f"{folder}: seeds {numbers[0]} and {number} have different settings, and are no repeats")
        if {row.task for row in final} != {row.task for row in seeds[0].final}:
            raise BadInput(f"{folder}: seeds {numbers[0]} and {number} were evaluated on different tasks")
    return Entry(method or method_of(configs[0]), configs[0], seeds)


def final_rows(rows: Sequence[EvaluationRow]) -> list[EvaluationRow]:
    """The last final evaluation; a run that was extended has several."""
    final = [row for row in rows if row.kind == "final"]
    return [row for row in final if row.env_steps == final[-1].env_steps]


def method_of(config: RunConfig) -> str:
    """Agent and architecture by name, and whatever else was not left at its default."""
    named = [
        choice.name
        for part, choice in config.choices()
        if part.name in ("agent", "architecture") or (part.name != "suite" and choice.name != part.default)
    ]
    return ", ".join(named)
