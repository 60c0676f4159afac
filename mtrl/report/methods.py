"""Methods: runs that differ in their seed alone, and what tells methods apart. Shapes: S seeds, M tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtrl.config.schema import REGISTRY_GROUPS
from mtrl.errors import BadInput
from mtrl.report.runs import Protocol, Run

NOT_OF_A_METHOD = {
    *("seed", "num_workers", "device", "cuda_graphs", "torch_threads", "max_hours", "worker_timeout"),
    *("eval_interval", "eval_episodes_per_task", "final_eval_episodes_per_task", "log_interval"),
    *("logger", "logger_settings", "callback", "callback_settings", "video_interval", "conflict_interval"),
    *("checkpoint_interval", "keep_checkpoints", "check_plugins", "plugins"),
}
"""Settings that change nothing, or last bits only, of what is learned."""

TOLERANCE = 0.01
"""Share of the env steps by which runs of equal length may differ: a run ends with a whole vector step."""

MARKS = {
    "*": "a run with fewer env steps than others",
    "†": "fewer seeds than others",
    "‡": "a run with fewer episodes per task in the evaluation than others",
    "§": "a run without its final evaluation: its last one during training",
}


@dataclass(frozen=True)
class Method:
    """Runs of one configuration, in the order of their seeds."""

    name: str
    settings: Mapping[str, Any]
    runs: Sequence[Run]

    @property
    def scores(self) -> np.ndarray:
        """(S, M) at the end."""
        return np.stack([run.scores for run in self.runs])

    @property
    def env_steps(self) -> int:
        """Of the seed with the fewest."""
        return min(run.env_steps for run in self.runs)

    @property
    def episodes(self) -> int:
        return min(run.episodes for run in self.runs)

    @property
    def num_parameters(self) -> int | None:
        return self.runs[0].meta.get("num_parameters")

    def curves(self) -> tuple[np.ndarray, np.ndarray]:
        """Env steps (T,) at which every seed was evaluated in training, and scores (S, T, M)."""
        steps = sorted(set[int].intersection(*({*run.curve[0].tolist()} for run in self.runs)))
        scores = [run.curve[1][np.isin(run.curve[0], steps)] for run in self.runs]
        return np.array(steps, np.int64), np.stack(scores)

    def of_tasks(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """A metric per task, mean over the seeds: env steps (T,) and values (T, M). None if a seed lacks it."""
        own = [(run.columns["env_steps"], run.of_tasks(name)) for run in self.runs]
        known = [
            (steps[np.isfinite(values).all(1)], values[np.isfinite(values).all(1)])
            for steps, values in own
            if values is not None
        ]
        if len(known) < len(own):
            return None
        shared = sorted(set[int].intersection(*({*steps.tolist()} for steps, _ in known)))
        return np.array(shared), np.mean([values[np.isin(steps, shared)] for steps, values in known], axis=0)


def by_protocol(runs: Sequence[Run]) -> dict[Protocol, list[Method]]:
    """The methods of every protocol. Raises BadInput for two runs of one method with the same seed."""
    sections: dict[Protocol, list[Run]] = {}
    for run in runs:
        sections.setdefault(run.protocol, []).append(run)
    return {protocol: _methods(own) for protocol, own in sections.items()}


def _methods(runs: Iterable[Run]) -> list[Method]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(repr((run.label, sorted(_settings(run).items()))), []).append(run)
    for group in groups.values():
        seeds: dict[int, Run] = {}
        for run in group:
            if (other := seeds.setdefault(run.seed, run)) is not run:
                raise BadInput(
                    f"{other.path} and {run.path} have the same settings and seed; give one a name: NAME={run.path}"
                )
    ordered = [sorted(group, key=lambda run: run.seed) for group in groups.values()]
    names = name_methods([_settings(group[0]) for group in ordered], [group[0].label for group in ordered])
    return [Method(name, _settings(group[0]), group) for name, group in zip(names, ordered, strict=True)]


def _settings(run: Run) -> dict[str, Any]:
    """Those that make the method. Of runs that it starts from or learns from, the names without their seeds."""
    own = {name: value for name, value in run.config.items() if name.partition(".")[0] not in NOT_OF_A_METHOD}
    return {
        name: re.sub(r"seed-\d+", "seed-N", str(value)) if name == "warm_start" or name.endswith(".teachers") else value
        for name, value in own.items()
    }


def name_methods(settings: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[str]:
    """Names by what differs: the labels, else the classes chosen, else the settings too.

    One method alone is called by its agent and its architecture.
    """
    groups = [f"{group.name}.name" for group in REGISTRY_GROUPS]
    classes = [name for name in groups if len({repr(own.get(name)) for own in settings}) > 1]
    names = []
    for own, label in zip(settings, labels, strict=True):
        chosen = classes or ["agent.name", "architecture.name"]
        names.append(label or ", ".join(str(own.get(name, "none")) for name in chosen))
    for name in dict.fromkeys(names):
        same = [index for index, other in enumerate(names) if other == name]
        if len(same) > 1:
            for key in differing([settings[index] for index in same]):
                for index in same:
                    names[index] += f", {key} {settings[index].get(key, '-')}"
    return names


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which some differ from others; those of another class do not count beside the class itself."""
    names = dict.fromkeys(name for own in settings for name in own)
    found = []
    for name in names:
        group = name.partition(".")[0]
        by_class: dict[Any, set[str]] = {}
        for own in settings:
            key = None if name.endswith(".name") or "." not in name else own.get(f"{group}.name")
            by_class.setdefault(key, set()).add(repr(own.get(name)))
        if any(len(values) > 1 for values in by_class.values()):
            found.append(name)
    return found


def marks(method: Method, methods: Sequence[Method]) -> str:
    """In which ways a method was not measured like the others, see `MARKS`."""
    fewer = (
        method.env_steps < (1 - TOLERANCE) * max(run.env_steps for other in methods for run in other.runs),
        len(method.runs) < max(len(other.runs) for other in methods),
        method.episodes < max(run.episodes for other in methods for run in other.runs),
        not all(run.is_final for run in method.runs),
    )
    return "".join(mark for mark, applies in zip(MARKS, fewer, strict=True) if applies)
