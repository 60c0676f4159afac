"""Evaluation by a suite's protocol, in environments of its own.

Every task plays a fixed list of variations (with as many episodes as it has, each of them once) with the deterministic
action, or with actions drawn from the policy by a stream of the evaluation's own where the protocol says so. The policy
is called on chunks of M rows, one per task in task order, so that the numbers do not depend on how many slots play: the
last bits of a matrix product depend on its number of rows.

Shapes: M tasks, E episodes per task, C lanes: slots per task, over all crews.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

from mtrl.agent import Agent
from mtrl.env.episodes import IDLE, ListedEpisodes
from mtrl.env.scores import normalized_scores
from mtrl.env.suite import Suite
from mtrl.env.target_quality import target_quality
from mtrl.env.vector_env import MultiTaskVectorEnv
from mtrl.evaluation.protocol_policy import protocol_policy
from mtrl.optim.cpu import acting_threads
from mtrl.seeding import stream
from mtrl.types import Score, TaskSpec

MIN_SLOTS = 10
"""Slots an evaluation has at least, so that small suites keep several processes busy."""

MAX_SLOTS = 20
"""Slots up to which there are two crews: one steps while the policy acts for the other."""


class EvaluationStopped(Exception):
    """The caller asked to stop before the evaluation was complete."""


@dataclass(frozen=True)
class EvaluationResult:
    """Successes and returns of every episode, with the protocol they belong to."""

    suite: str
    protocol: str
    settings: Mapping[str, Any]
    task_names: tuple[str, ...]
    successes: np.ndarray  # (M, E) bool
    returns: np.ndarray  # (M, E) float64, raw rewards up to the end of the episode
    mean_scores: np.ndarray  # (M,) by which the suite judges its tasks: success rates or mean returns
    target_scores: np.ndarray | None  # (M,) at which a task counts as solved; None: the suite has no targets
    normalized: Mapping[str, np.ndarray] = field(default_factory=dict)  # scores (M,) of `mtrl.env.scores`, by name
    score: Score = "success"  # what an episode is judged by

    @property
    def episodes_per_task(self) -> int:
        return self.successes.shape[1]

    @property
    def success_rates(self) -> np.ndarray:
        """(M,) share of episodes with a success."""
        return self.successes.mean(1)

    @property
    def mean_returns(self) -> np.ndarray:
        """(M,)."""
        return self.returns.mean(1)

    @property
    def mean_success_rate(self) -> float:
        """Mean over tasks."""
        return float(self.success_rates.mean())

    @property
    def target_quality(self) -> Mapping[str, float]:
        """q_am, q_gm and q_hm of `mtrl.env.target_quality`; empty on a suite without targets."""
        return target_quality(self.mean_scores, self.target_scores)


def played_variations(task: TaskSpec, seed: int, episodes_per_task: int) -> list[int]:
    """Which variations a task plays: spread evenly over the finite ones, or drawn from a stream of their own.

    The first one does not depend on the number of episodes.
    """
    if task.num_variations is None:
        return stream(seed, "evaluation", task.index).integers(2**48, size=episodes_per_task).tolist()
    if episodes_per_task >= task.num_variations:
        return [episode % task.num_variations for episode in range(episodes_per_task)]
    return [episode * task.num_variations // episodes_per_task for episode in range(episodes_per_task)]


class _Crew:
    """Environments that step while the policy acts for another crew's."""

    def __init__(
        self, envs: MultiTaskVectorEnv, first_lane: int, num_lanes: int, successes: np.ndarray, returns: np.ndarray
    ):
        """Writes episode e of task i to `successes` and `returns` (M, E) at [i, e]."""
        self._envs = envs
        self._num_tasks = envs.spec.num_tasks
        self._first_lane = first_lane
        self._num_lanes = num_lanes
        self._successes = successes
        self._returns = returns
        self._ended = np.zeros(envs.num_envs, np.int64)
        self._sent = False

    def begin(self) -> None:
        self._observation = self._envs.reset()

    @property
    def num_ended(self) -> int:
        """Episodes played to their end."""
        return int(self._ended.sum())

    @property
    def playing(self) -> bool:
        return bool((self._envs.task_ids != IDLE).any())

    def take_turn(self, choose: Callable[[np.ndarray], np.ndarray]) -> None:
        """Takes the results of the step under way, and begins the next."""
        if self._sent:
            step = self._envs.recv()
            self._sent = False
            self._observation = step.observation
            for episode in step.episodes:
                lane = self._first_lane + episode.slot // self._num_tasks
                position = self._ended[episode.slot] * self._num_lanes + lane
                self._successes[episode.task, position] = episode.success
                self._returns[episode.task, position] = episode.return_
                self._ended[episode.slot] += 1
        if self.playing:
            chunks = np.split(self._observation, len(self._observation) // self._num_tasks)
            self._envs.send(np.concatenate([choose(chunk) for chunk in chunks]))
            self._sent = True


class Evaluator:
    """Evaluates agents on one suite; its environments start at the first use and stay until `close`."""

    def __init__(self, suite: Suite, seed: int, num_workers: int, worker_timeout: float = 60.0):
        self.suite = suite
        self.seed = seed
        self.num_workers = num_workers
        self.worker_timeout = worker_timeout
        self._envs: list[MultiTaskVectorEnv] = []  # of the crews
        num_tasks = suite.spec.num_tasks
        self._num_crews = 2 if 2 * num_tasks <= MAX_SLOTS else 1
        self._slots_per_task = -(-MIN_SLOTS // (self._num_crews * num_tasks))  # of each crew

    def evaluate(
        self,
        agent: Agent,
        episodes_per_task: int,
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[int], None] = lambda ended: None,
    ) -> EvaluationResult:
        """Plays E episodes of every task. Touches nothing of the agent but its training flags, which it puts back.

        `on_progress` is called with the number of episodes that have ended, after every turn.
        Raises WorkerFailure, and EvaluationStopped once `should_stop()` is true.
        """
        # Every module's own flag: an agent may keep a part of itself in evaluation mode for good.
        training = {module: module.training for module in agent.modules()}
        agent.eval()
        try:
            with acting_threads(self.suite.spec.observation_space.shape):
                successes, returns = self._play(agent, episodes_per_task, should_stop, on_progress)
        except BaseException:
            self.close()
            raise
        finally:
            for module, flag in training.items():
                module.training = flag
        spec = self.suite.spec
        return EvaluationResult(
            suite=spec.name,
            protocol=spec.protocol,
            settings=spec.settings,
            task_names=spec.task_names,
            successes=successes,
            returns=returns,
            mean_scores=spec.scores(returns, successes).mean(1),
            target_scores=spec.target_scores,
            normalized=normalized_scores(spec.tasks, returns.mean(1)),
            score=spec.score,
        )

    def _play(
        self,
        agent: Agent,
        episodes_per_task: int,
        should_stop: Callable[[], bool],
        on_progress: Callable[[int], None],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Successes (M, E) and returns (M, E)."""
        num_tasks = self.suite.spec.num_tasks
        num_lanes = self._num_crews * self._slots_per_task
        successes = np.zeros((num_tasks, episodes_per_task), bool)
        returns = np.zeros((num_tasks, episodes_per_task))
        played = [played_variations(task, self.seed, episodes_per_task) for task in self.suite.spec.tasks]
        # Lane c plays every C-th episode of each task, beginning with its c-th.
        plan = [
            [(task, variation) for variation in variations[lane::num_lanes]]
            for lane in range(num_lanes)
            for task, variations in enumerate(played)
        ]
        policy, one_of_each = protocol_policy(agent, self.suite.spec, self.seed), np.arange(num_tasks)
        crews = [
            _Crew(envs, first * self._slots_per_task, num_lanes, successes, returns)
            for first, envs in enumerate(self._start(plan))
        ]
        for crew in crews:
            crew.begin()
        while any(crew.playing for crew in crews):
            for crew in crews:
                if should_stop():
                    raise EvaluationStopped
                crew.take_turn(lambda chunk: policy(chunk, one_of_each))
                on_progress(sum(crew.num_ended for crew in crews))
        return successes, returns

    def _start(self, plan: list[list[tuple[int, int]]]) -> list[MultiTaskVectorEnv]:
        """The environments of every crew, to play their part of the plan: a list of episodes per slot."""
        num_envs = self._slots_per_task * self.suite.spec.num_tasks
        parts = [ListedEpisodes(plan[start : start + num_envs]) for start in range(0, len(plan), num_envs)]
        for crew, episodes in enumerate(parts):
            if crew < len(self._envs):
                self._envs[crew].episodes = episodes
                continue
            self._envs.append(
                self.suite.make_envs(
                    num_envs,
                    episodes,
                    mode="evaluate",
                    num_workers=self.num_workers,
                    worker_timeout=self.worker_timeout,
                )
            )
        return self._envs

    def close(self) -> None:
        """Ends the environments; the next evaluation starts new ones."""
        while self._envs:
            self._envs.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def evaluate(agent: Agent, suite: Suite, episodes_per_task: int, *, seed: int, num_workers: int) -> EvaluationResult:
    """One evaluation of `agent` on a suite, see `Evaluator`."""
    with Evaluator(suite, seed, num_workers) as evaluator:
        return evaluator.evaluate(agent, episodes_per_task)
