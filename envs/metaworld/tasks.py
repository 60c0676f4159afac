"""Task names, what their steps cost, and the tasks of a suite name; no simulator needed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mtrl.errors import BadInput
from mtrl.registry import nearest

MT10 = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)

MT25 = (
    *MT10,
    "coffee-pull-v3",
    "pick-out-of-hole-v3",
    "disassemble-v3",
    "pick-place-wall-v3",
    "basketball-v3",
    "stick-pull-v3",
    "button-press-wall-v3",
    "faucet-open-v3",
    "door-lock-v3",
    "lever-pull-v3",
    "sweep-into-v3",
    "faucet-close-v3",
    "coffee-button-v3",
    "button-press-topdown-wall-v3",
    "dial-turn-v3",
)

STEP_COSTS = {
    "assembly-v3": 1.3,
    "basketball-v3": 1.0,
    "bin-picking-v3": 1.3,
    "box-close-v3": 1.6,
    "button-press-topdown-v3": 0.8,
    "button-press-topdown-wall-v3": 0.8,
    "button-press-v3": 0.8,
    "button-press-wall-v3": 0.8,
    "coffee-button-v3": 0.9,
    "coffee-pull-v3": 1.2,
    "coffee-push-v3": 1.1,
    "dial-turn-v3": 0.9,
    "disassemble-v3": 1.3,
    "door-close-v3": 0.8,
    "door-lock-v3": 1.1,
    "door-open-v3": 1.1,
    "door-unlock-v3": 1.1,
    "hand-insert-v3": 1.0,
    "drawer-close-v3": 1.0,
    "drawer-open-v3": 1.0,
    "faucet-open-v3": 0.8,
    "faucet-close-v3": 0.8,
    "hammer-v3": 1.3,
    "handle-press-side-v3": 0.7,
    "handle-press-v3": 0.7,
    "handle-pull-side-v3": 0.8,
    "handle-pull-v3": 0.8,
    "lever-pull-v3": 0.8,
    "pick-place-wall-v3": 1.1,
    "pick-out-of-hole-v3": 1.0,
    "pick-place-v3": 1.0,
    "plate-slide-v3": 0.8,
    "plate-slide-side-v3": 0.8,
    "plate-slide-back-v3": 0.9,
    "plate-slide-back-side-v3": 0.8,
    "peg-insert-side-v3": 1.2,
    "peg-unplug-side-v3": 1.1,
    "soccer-v3": 1.0,
    "stick-push-v3": 1.4,
    "stick-pull-v3": 1.4,
    "push-v3": 1.0,
    "push-wall-v3": 1.1,
    "push-back-v3": 1.1,
    "reach-v3": 0.9,
    "reach-wall-v3": 0.8,
    "shelf-place-v3": 1.1,
    "sweep-into-v3": 1.0,
    "sweep-v3": 1.0,
    "window-open-v3": 0.8,
    "window-close-v3": 0.8,
}
"""How long an env step of each task takes; the mean task's is 1 (`python -m benchmarks.stepping.step_costs`).

Slots are shared out to workers by it. Wrong numbers would cost speed and change no result.
"""

MT50 = tuple(STEP_COSTS)

MT3 = ("reach-v3", "drawer-close-v3", "window-close-v3")

ML10_TRAIN = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "sweep-v3",
    "basketball-v3",
)

ML10_TEST = ("drawer-open-v3", "door-close-v3", "shelf-place-v3", "sweep-into-v3", "lever-pull-v3")

ML45_TRAIN = (
    "assembly-v3",
    "basketball-v3",
    "button-press-topdown-v3",
    "button-press-topdown-wall-v3",
    "button-press-v3",
    "button-press-wall-v3",
    "coffee-button-v3",
    "coffee-pull-v3",
    "coffee-push-v3",
    "dial-turn-v3",
    "disassemble-v3",
    "door-close-v3",
    "door-open-v3",
    "drawer-close-v3",
    "drawer-open-v3",
    "faucet-open-v3",
    "faucet-close-v3",
    "hammer-v3",
    "handle-press-side-v3",
    "handle-press-v3",
    "handle-pull-side-v3",
    "handle-pull-v3",
    "lever-pull-v3",
    "pick-place-wall-v3",
    "pick-out-of-hole-v3",
    "push-back-v3",
    "pick-place-v3",
    "plate-slide-v3",
    "plate-slide-side-v3",
    "plate-slide-back-v3",
    "plate-slide-back-side-v3",
    "peg-insert-side-v3",
    "peg-unplug-side-v3",
    "soccer-v3",
    "stick-push-v3",
    "stick-pull-v3",
    "push-wall-v3",
    "push-v3",
    "reach-wall-v3",
    "reach-v3",
    "shelf-place-v3",
    "sweep-into-v3",
    "sweep-v3",
    "window-open-v3",
    "window-close-v3",
)

ML45_TEST = ("bin-picking-v3", "box-close-v3", "hand-insert-v3", "door-lock-v3", "door-unlock-v3")

BENCHMARKS = {
    "MT10": MT10,
    "MT25": MT25,
    "MT50": MT50,
    "ML10-train": ML10_TRAIN,
    "ML10-test": ML10_TEST,
    "ML45-train": ML45_TRAIN,
    "ML45-test": ML45_TEST,
}
"""Task lists of the official benchmarks, in their order; `MT1-TASK` is the official benchmark of one task."""

_BY_SUITE = {benchmark.lower(): benchmark for benchmark in BENCHMARKS}


@dataclass(frozen=True)
class NamedTasks:
    """What a suite name stands for."""

    name: str  # the full spelling
    tasks: tuple[str, ...]
    benchmarks: tuple[str, ...]  # of each task: the official benchmark whose goals it has

    @property
    def hides_goals(self) -> bool:
        """Whether observations have zeros in place of the goal, as in the meta-learning benchmarks."""
        return self.benchmarks[0].startswith("ML")


def parse(name: str) -> NamedTasks:
    """The tasks of a suite name. Raises BadInput for one that is not Meta-World's.

    Goals depend on the list that they are drawn with: `mt10`, `mt25`, `mt50` and the splits of ML10 and ML45 have those
    of the benchmark, `mt3` those of its tasks in MT10, and `mt1-TASK` and lists those of MT1 of each task.
    """
    suite, colon, listed = name.partition(":")
    if suite in _BY_SUITE and (not colon or suite.startswith("ml")):
        benchmark = _BY_SUITE[suite]
        known = BENCHMARKS[benchmark]
        tasks = _task_list(name, listed) if colon else known
        for task in tasks:
            if task not in known:
                raise BadInput(f"suite {name!r}: {task!r} is not in {suite}, which has {', '.join(known)}")
        return NamedTasks(f"{suite}:{','.join(tasks)}" if colon else suite, tasks, len(tasks) * (benchmark,))
    if name == "mt3":
        return NamedTasks(name, MT3, len(MT3) * ("MT10",))
    if name.startswith("mt1-"):
        task = full_task_name(name.removeprefix("mt1-"))
        return NamedTasks(f"mt1-{task}", (task,), (f"MT1-{task}",))
    if name.startswith("metaworld:"):
        tasks = _task_list(name, listed)
        return NamedTasks("metaworld:" + ",".join(tasks), tasks, tuple(f"MT1-{task}" for task in tasks))
    raise BadInput(f"suite {name!r} is not one of Meta-World's")


def suggested_name(name: str) -> str | None:
    """The suite that is meant by `MT10`, `Meta-World/MT10`, `ML10`, `reach-v2`, `reach,push` or `MT1-reach`."""
    plain = name.rpartition("/")[2].lower()
    if plain in _BY_SUITE or plain == "mt3":
        return plain
    if f"{plain}-train" in _BY_SUITE:
        return f"{plain}-train"
    tasks = [re.sub(r"-v\d$", "", task) for task in plain.removeprefix("mt1-").split(",")]
    if not all(f"{task}-v3" in MT50 for task in tasks):
        return None
    return f"mt1-{tasks[0]}" if len(tasks) == 1 else f"metaworld:{','.join(tasks)}"


def full_task_name(name: str) -> str:
    """The official name of a task given with or without `-v3`. Raises BadInput for an unknown one."""
    full = name if name.endswith("-v3") else f"{name}-v3"
    if full not in MT50:
        raise BadInput(f"unknown Meta-World task {name!r}{nearest(full, MT50)}; known: {', '.join(sorted(MT50))}")
    return full


def _task_list(suite: str, listed: str) -> tuple[str, ...]:
    """The official names of `TASK,TASK`. Raises BadInput for an unknown one, or one that stands there twice."""
    tasks = tuple(full_task_name(task) for task in listed.split(","))
    for task in tasks:
        if tasks.count(task) > 1:
            raise BadInput(f"suite {suite!r} names task {task!r} twice")
    return tasks
