"""Vector environment: N slots over K worker processes that step them in parallel.

Actions, results and next episodes lie in shared memory. With K = 0 the slots are stepped in this process, by the same
code; nothing about a trajectory depends on K.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.workers.in_process import InProcessGroup
from envs.workers.process_group import ProcessGroup
from envs.workers.slots import BEGIN, NOBODY, STEP, SlotArrays, SlotEnvFactory, SlotLayout
from mtrl.env.episodes import IDLE, EpisodeSource
from mtrl.env.vector_env import MultiTaskVectorEnv, RawStep
from mtrl.errors import BadInput
from mtrl.types import SuiteSpec


class WorkerPool(MultiTaskVectorEnv):
    """Slots of one suite, played in `num_workers` processes (0: in this one)."""

    def __init__(
        self,
        spec: SuiteSpec,
        num_envs: int,
        episodes: EpisodeSource,
        make_env: SlotEnvFactory,
        *,
        num_workers: int,
        worker_timeout: float = 60.0,
        step_costs: Sequence[float] | None = None,
    ):
        """`make_env` is called once per slot, in the process that steps it.

        The processes are started by the first `reset` or `load_state`. One that is at the same slot for more than
        `worker_timeout` seconds hangs. `step_costs` (M,), how long a step of each task takes in any unit, balances the
        workers by the tasks that their slots begin with; it changes no result.
        """
        super().__init__(spec, num_envs, episodes)
        self.num_workers = min(num_workers, num_envs)
        layout = SlotLayout(
            num_slots=num_envs,
            num_workers=max(1, self.num_workers),
            observation_shape=spec.observation_space.shape,
            observation_dtype=str(spec.observation_space.dtype),
            action_shape=self._actions.shape[2:],
            action_dtype=str(self._actions.dtype),
        )
        self._step_costs = np.asarray(step_costs if step_costs is not None else [1.0] * spec.num_tasks)
        self._group: ProcessGroup | InProcessGroup
        if self.num_workers:
            self._group = ProcessGroup(layout, make_env, spec.task_names, worker_timeout)
        else:
            self._group = InProcessGroup(layout, make_env, spec.task_names)

    @property
    def _arrays(self) -> SlotArrays:
        return self._group.arrays

    def _start(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
        costs = np.where(tasks == IDLE, self._step_costs.mean(), self._step_costs[tasks])
        self._group.start(costs.tolist())
        self._arrays.next_task[:] = tasks
        self._arrays.next_variation[:] = variations
        self._group.command(BEGIN)
        self._group.wait()
        return self._arrays.observation

    def _send(self, action: np.ndarray, next_tasks: np.ndarray, next_variations: np.ndarray) -> None:
        arrays = self._arrays
        arrays.action[:] = action
        np.not_equal(self.task_ids, IDLE, out=arrays.playing)
        arrays.next_task[:] = next_tasks
        arrays.next_variation[:] = next_variations
        self._group.command(STEP)

    def _recv(self) -> RawStep:
        self._group.wait()
        arrays = self._arrays
        return RawStep(
            observation=arrays.observation,
            reward=arrays.reward,
            terminated=arrays.terminated,
            truncated=arrays.truncated,
            success=arrays.success,
            final_observation=arrays.final_observation,
        )

    def _replay(self, tasks: np.ndarray, variations: np.ndarray, actions: list[np.ndarray]) -> np.ndarray:
        observation = self._start(tasks, variations)
        arrays = self._arrays
        lengths = np.array([len(played) for played in actions])
        arrays.next_task[:] = NOBODY
        for step in range(int(lengths.max(initial=0))):
            np.greater(lengths, step, out=arrays.playing)
            for slot in np.flatnonzero(arrays.playing):
                arrays.action[slot] = actions[slot][step]
            self._group.command(STEP)
            self._group.wait()
            ended = np.flatnonzero((arrays.terminated | arrays.truncated) & arrays.playing)
            if ended.size:
                raise BadInput(
                    f"task {self.spec.tasks[tasks[ended[0]]].name}: a stored episode ends after {step + 1} env steps "
                    "when it is replayed, so it was recorded in another environment"
                )
        return observation

    def close(self) -> None:
        self._group.close()
