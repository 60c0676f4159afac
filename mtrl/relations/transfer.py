"""Transfer between tasks from the results of finished runs (Standley et al., 2020, arXiv:1905.07553). Shapes: M tasks.

A task j helps a task i by what the score of i gains when j is trained along: score_i(S) - score_i(S without j), mean
over all sets of tasks S for which both were trained. With runs of single tasks and of pairs that is pairwise transfer;
with a run of all tasks and runs of all but one it is what each adds to the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtrl.errors import BadInput


@dataclass(frozen=True)
class Result:
    """What a run of some tasks has reached."""

    scores: Mapping[str, float]  # by task; all tasks of the run
    env_steps: int  # of all tasks together


@dataclass(frozen=True)
class Comparison:
    """A task trained with others against alone; means over seeds."""

    task: str
    trained_with: Sequence[str]
    alone: float
    together: float
    seeds: tuple[int, int]  # alone, together
    env_steps_per_task: tuple[int, int]

    @property
    def difference(self) -> float:
        """Negative: negative transfer."""
        return self.together - self.alone


def transfer(results: Sequence[Result]) -> tuple[list[str], np.ndarray, list[Comparison]]:
    """The tasks in the order of the largest run, their affinity (M, M), and every task of every set against alone.

    Row j, column i of the affinity is what i gains from j; NaN where no runs tell, the diagonal is 0. Raises BadInput
    where nothing can be compared.
    """
    by_set: dict[frozenset[str], list[Result]] = {}
    for result in results:
        by_set.setdefault(frozenset(result.scores), []).append(result)
    largest_first = sorted(results, key=lambda result: -len(result.scores))
    tasks = list(dict.fromkeys(task for result in largest_first for task in result.scores))
    if len(tasks) < 2:
        raise BadInput(f"all runs are of the one task {tasks[0]}; relations need two at least")
    means = {own: {task: _mean(found, task) for task in own} for own, found in by_set.items()}
    gains: dict[tuple[str, str], list[float]] = {}
    for own, scores in means.items():
        for helper in own:
            for task, score in means.get(own - {helper}, {}).items():
                gains.setdefault((helper, task), []).append(scores[task] - score)
    affinity = np.array([[np.mean(gains.get((helper, task), [np.nan])) for task in tasks] for helper in tasks])
    np.fill_diagonal(affinity, 0.0)
    comparisons = [
        Comparison(
            task,
            [other for other in tasks if other in own - {task}],
            means[alone][task],
            means[own][task],
            (len(by_set[alone]), len(by_set[own])),
            (by_set[alone][0].env_steps, by_set[own][0].env_steps // len(own)),
        )
        for own in sorted(means, key=lambda own: (-len(own), [tasks.index(task) for task in tasks if task in own]))
        for task in tasks
        if len(own) > 1 and task in own and (alone := frozenset([task])) in means
    ]
    if not gains and not comparisons:
        raise BadInput("no two runs can be compared: runs of several tasks need runs of the same tasks with one fewer")
    return tasks, affinity, comparisons


def _mean(results: Sequence[Result], task: str) -> float:
    return float(np.mean([result.scores[task] for result in results]))
