"""Teachers: the policies of other runs, frozen, which teach the tasks of a suite.

Shapes: B batch, M tasks, A action, d representation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mtrl.data_parallel.learning import learning
from mtrl.errors import BadInput
from mtrl.policies import ActionHead, AveragedPolicy, PolicyOutput
from mtrl.registry import nearest
from mtrl.training.load import load_trained, refuse_other_spaces
from mtrl.types import SuiteSpec


@dataclass(frozen=True, eq=False)
class Teacher:
    """The averaged policy of a run, which knows some tasks of the student's suite."""

    run: str
    average: AveragedPolicy
    spec: SuiteSpec
    sha256: str  # of its weights

    @property
    def head(self) -> ActionHead:
        return self.average.policy.head


class _Lesson(NamedTuple):
    """What one teacher says of its rows of a batch that is sorted by task."""

    teacher: Teacher
    rows: Tensor | slice
    output: PolicyOutput


class Teachers:
    """One teacher for each of the M tasks of a suite; one may teach several."""

    def __init__(
        self,
        runs: Sequence[str],
        spec: SuiteSpec,
        checkpoint: str,
        device: torch.device,
        flag: str = "--agent.teachers",
    ):
        """runs: directories of runs, which teach every task of the suite that they know, or `TASK=RUN`.

        checkpoint: "latest", "best" or a step. flag: that names the runs, for errors. Raises BadInput for a run that
        cannot teach, a task without a teacher and a task with two.
        """
        by_task: dict[str, Teacher] = {}
        loaded: dict[str, Teacher] = {}
        for task, run in (_split(text, spec) for text in runs):
            if run not in loaded:
                loaded[run] = load_teacher(run, spec, checkpoint, device)
            teacher = loaded[run]
            known = [name for name in spec.task_names if name in teacher.spec.task_names]
            if task is not None and task not in known:
                raise BadInput(f"teacher {run} was not trained on task {task!r}; it knows {known}")
            if not known:
                raise BadInput(
                    f"teacher {run} was trained on suite {teacher.spec.name!r} and knows no task of {spec.name!r}"
                )
            for name in known if task is None else [task]:
                if name in by_task:
                    raise BadInput(
                        f"task {name!r} has two teachers, {by_task[name].run} and {run}; TASK=RUN says which teaches it"
                    )
                _refuse_other_actions(teacher, spec, name)
                by_task[name] = teacher
        if missing := [name for name in spec.task_names if name not in by_task]:
            raise BadInput(f"no teacher for {', '.join(missing)}; name runs, or TASK=RUN, in {flag}")
        self.of_task = [by_task[name] for name in spec.task_names]
        self.sha256 = {f"the teacher of {name}": teacher.sha256 for name, teacher in by_task.items()}
        """By task, under the name that an error gives it."""
        self._device = device
        self._spec = spec
        # In the order of the tasks, whatever the order of the runs.
        self._tasks = {
            teacher: [task for task, own in enumerate(self.of_task) if own is teacher]
            for teacher in dict.fromkeys(self.of_task)
        }
        self._own_ids = torch.tensor(
            [teacher.spec.task_names.index(name) for teacher, name in zip(self.of_task, spec.task_names, strict=True)],
            device=device,
        )

    def by_modes(self, head: ActionHead) -> Tensor | bool:
        """For `imitation_loss`: tasks (M,) whose teacher has another kind of head, or whether all or none has."""
        others = [type(teacher.head) is not type(head) for teacher in self.of_task]
        return others[0] if len(set(others)) == 1 else torch.tensor(others, device=self._device)

    @torch.no_grad()
    def representation_sizes(self) -> list[int]:
        """Numbers in the representation of each task's teacher (M,); 0 where it has none."""
        return [representation_size(teacher.average.encoder, teacher.average.policy, self._spec, self._device)
                for teacher in self.of_task]  # fmt: skip

    @torch.no_grad()
    def columns(self, observation: Tensor, counts: Sequence[int], num_features: int = 0) -> dict[str, Tensor]:
        """What the teachers say of observations (B, *observation) sorted by task, by name; counts (M,) of the tasks.

        The tensors of the distributions (B, A), such as `mean` or `logits`, the actions they stand for where they are
        most likely as `mode` (B, A) or (B,), and `features` (B, num_features), representations filled up with zeros, if
        there are any.
        """
        found: dict[str, Tensor] = {}
        for teacher, rows, output in self._lessons(observation, counts):
            mode = teacher.head.to_environment(output.distribution.mode())
            own = {**vars(output.distribution), "mode": mode}
            if num_features:
                representation = output.network.representation
                assert representation is not None
                own["features"] = nn.functional.pad(representation, (0, num_features - representation.shape[-1]))
            for name, values in own.items():
                if len(self._tasks) == 1:
                    found[name] = values
                else:
                    target = found.setdefault(name, values.new_zeros(len(observation), *values.shape[1:]))
                    target[rows] = values
        return found

    @torch.no_grad()
    def actions(self, observation: Tensor, task_ids: np.ndarray, noise: Tensor) -> Tensor:
        """Actions (N, A) or (N,) sampled from the teachers, for observations (N, *observation) of tasks in any order.

        noise (N, A): the head's `sample_noise`.
        """
        order = torch.from_numpy(np.argsort(task_ids, kind="stable")).to(self._device)
        counts = np.bincount(task_ids, minlength=self._spec.num_tasks).tolist()
        found: Tensor | None = None
        for teacher, rows, output in self._lessons(observation[order], counts):
            own = order[rows]
            action = teacher.head.to_environment(output.distribution.sample(noise[own]))
            found = action.new_zeros(len(task_ids), *action.shape[1:]) if found is None else found
            found[own] = action
        assert found is not None
        return found

    def _lessons(self, observation: Tensor, counts: Sequence[int]) -> Iterator[_Lesson]:
        """One call of each teacher that has rows."""
        stops = list(accumulate(counts))
        task_ids = self._own_ids.repeat_interleave(
            torch.tensor(counts, device=self._device), output_size=len(observation)
        )
        for teacher, tasks in self._tasks.items():
            if not any(counts[task] for task in tasks):
                continue
            first, last = tasks[0], tasks[-1]
            rows: Tensor | slice = slice(stops[first] - counts[first], stops[last])
            if len(tasks) < last - first + 1:  # other teachers' rows lie between
                own_rows = [torch.arange(stops[task] - counts[task], stops[task]) for task in tasks]
                rows = torch.cat(own_rows).to(self._device)
            # A rank whose rows are of other tasks asks another number of teachers: none may wait for it.
            with learning(shared=False):
                features = teacher.average.encoder(observation[rows])
                output = teacher.average.policy(features, task_ids[rows])
            yield _Lesson(teacher, rows, output)


def load_teacher(run: str, spec: SuiteSpec, checkpoint: str, device: torch.device) -> Teacher:
    """The teacher in a run directory. Raises BadInput for one without a policy for the spaces of the suite `spec`."""
    try:
        trained = load_trained(run, checkpoint, None, device=device.type)
    except BadInput as error:
        raise BadInput(f"teacher {run}: {error}") from error
    refuse_other_spaces(trained.spec, spec, f"teacher {run}")
    average = trained.agent.averaged_policy()
    if average is None:
        raise BadInput(f"teacher {run}: agent {trained.config.agent.name!r} keeps no AveragedPolicy to learn from")
    return Teacher(run, average.eval().requires_grad_(False), trained.spec, _sha256(average))


@torch.no_grad()
def representation_size(encoder: nn.Module, policy: nn.Module, spec: SuiteSpec, device: torch.device) -> int:
    """Numbers in what the last layer of a policy reads; 0 where its architecture has no such layer."""
    space = spec.observation_space
    observation = torch.from_numpy(np.zeros((1, *space.shape), space.dtype)).to(device)
    output = policy(encoder(observation), torch.zeros(1, dtype=torch.int64, device=device))
    return 0 if output.network.representation is None else output.network.representation.shape[-1]


def _split(text: str, spec: SuiteSpec) -> tuple[str | None, str]:
    """The task and the run of `TASK=RUN`; no task for a run alone, whose path may have an equals sign."""
    task, equals, run = text.partition("=")
    if not equals or (task not in spec.task_names and Path(text).exists()):
        return None, text
    if task not in spec.task_names:
        raise BadInput(f"teacher {text}: unknown task {task!r}{nearest(task, spec.task_names)}; suite {spec.name!r}")
    return task, run


def _refuse_other_actions(teacher: Teacher, spec: SuiteSpec, task: str) -> None:
    """Raises BadInput if not the same actions are legal: then one of the two has none where the other acts."""

    def legal(of: SuiteSpec) -> list[bool] | None:
        return None if of.action_mask is None else of.action_mask[of.task_names.index(task)].tolist()

    if legal(teacher.spec) != legal(spec):
        raise BadInput(f"teacher {teacher.run} has other legal actions in task {task!r} than suite {spec.name!r}")


def _sha256(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()
