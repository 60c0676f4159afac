"""N slots that play Atari games side by side on ale-py's native threads, without worker processes.

A slot owns a pool of one environment, and swaps it for a pool of its next game when an episode ends. Shapes: N slots,
M tasks, F frames per observation.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from envs.atari.emulation import Emulation
from envs.atari.legal_actions import NUM_ACTIONS
from envs.atari.pool import GamePool, PoolStock, emulator_seed
from mtrl.env.episodes import IDLE, EpisodeSource
from mtrl.env.vector_env import MultiTaskVectorEnv, RawStep
from mtrl.errors import BadInput, WorkerFailure
from mtrl.optim.cpu import available_cores
from mtrl.types import SuiteSpec


class AtariEnvs(MultiTaskVectorEnv):
    """All slots in this process; what computes are the emulators' threads, one per slot."""

    def __init__(
        self,
        spec: SuiteSpec,
        num_envs: int,
        episodes: EpisodeSource,
        emulation: Emulation,
        *,
        seed_every_episode: bool,
    ):
        """With `seed_every_episode` an episode is a function of (task, variation, actions) and can be replayed.

        Without, that is true of the first episode of a pool alone, and the others follow from what it played before.
        """
        super().__init__(spec, num_envs, episodes)
        self.replays_exactly = seed_every_episode
        self._stock = PoolStock(spec.task_names, emulation)
        self._pools: list[GamePool | None] = [None] * num_envs
        self._targets = np.array([np.inf if task.target_return is None else task.target_return for task in spec.tasks])
        space = spec.observation_space
        self._observation = np.zeros((num_envs, *space.shape), space.dtype)
        self._final_observation = np.zeros_like(self._observation)
        self._reward = np.zeros(num_envs, np.float32)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)
        self._closed = False

    def _start(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
        self._begin_episodes(np.arange(self.num_envs), tasks, variations)
        return self._observation

    def _send(self, action: np.ndarray, next_tasks: np.ndarray, next_variations: np.ndarray) -> None:
        self._next_episodes = next_tasks, next_variations
        slots = self.playing_slots
        # An emulator thread that meets an unknown action never answers.
        if slots.size and not 0 <= action[slots].min() <= action[slots].max() < NUM_ACTIONS:
            raise BadInput(f"actions must be 0 to {NUM_ACTIONS - 1}, not {action[slots].tolist()}")
        self._send_to(slots, action)

    def _recv(self) -> RawStep:
        slots = self.playing_slots
        self._recv_from(slots)
        ended = self._terminated | self._truncated
        # The score of an episode counts when it is over: in some games points are lost again.
        success = ended & (self._returns + self._reward >= self._targets[self.task_ids])
        self._observation[slots] = self._final_observation[slots]
        if ended.any():
            self._begin_episodes(np.flatnonzero(ended), *self._next_episodes)
        return RawStep(
            observation=self._observation,
            reward=self._reward,
            terminated=self._terminated,
            truncated=self._truncated,
            success=success,
            final_observation=self._final_observation,
        )

    def _replay(self, tasks: np.ndarray, variations: np.ndarray, actions: list[np.ndarray]) -> np.ndarray:
        self._begin_episodes(np.arange(self.num_envs), tasks, variations)
        lengths = np.array([len(played) for played in actions])
        for step in range(int(lengths.max(initial=0))):
            slots = np.flatnonzero(lengths > step)
            current = np.array([actions[slot][step] if step < lengths[slot] else 0 for slot in range(self.num_envs)])
            self._send_to(slots, current)
            self._recv_from(slots)
            ended = slots[(self._terminated | self._truncated)[slots]]
            if ended.size:
                raise BadInput(
                    f"task {self.spec.tasks[tasks[ended[0]]].name}: a stored episode ends after {step + 1} env steps "
                    "when it is replayed, so it was recorded in another environment"
                )
            self._observation[slots] = self._final_observation[slots]
        return self._observation

    def close(self) -> None:
        """Ends the emulators' threads."""
        self._closed = True
        self._pools = [None] * self.num_envs
        self._stock = PoolStock((), self._stock.emulation)

    def _send_to(self, slots: np.ndarray, action: np.ndarray) -> None:
        for slot in slots:
            pool = self._pools[slot]
            assert pool is not None
            pool.send(action[slot : slot + 1])

    def _recv_from(self, slots: np.ndarray) -> None:
        """Waits for a step of these slots; the others have neither reward nor end."""
        self._reward[:] = 0
        self._terminated[:] = self._truncated[:] = False
        for slot in slots:
            pool = self._pools[slot]
            assert pool is not None
            try:
                observation, reward, terminated, truncated, _ = pool.recv()
            except RuntimeError as error:  # what the emulator's thread raised
                raise WorkerFailure(f"task {pool.game}, slot {slot}: the emulator failed: {error}") from error
            self._final_observation[slot] = observation[0]
            self._reward[slot] = reward[0]
            self._terminated[slot] = terminated[0]
            self._truncated[slot] = truncated[0]

    def _begin_episodes(self, slots: np.ndarray, tasks: np.ndarray, variations: np.ndarray) -> None:
        """Starts an episode in each of `slots`, of `tasks` (N,) and `variations` (N,); IDLE: the slot rests.

        Raises WorkerFailure.
        """
        if self._closed:
            raise WorkerFailure("the environments are closed")
        begun = [int(slot) for slot in slots if tasks[slot] != IDLE]

        def begin(pool: GamePool, slot: int) -> np.ndarray:
            seeded = self.replays_exactly or not pool.seeded
            return pool.begin(emulator_seed(int(variations[slot])) if seeded else None)

        try:
            # In slot order, so that which pool a slot gets does not depend on timing.
            pools = [self._pool_of(slot, int(tasks[slot])) for slot in begun]
            if len(begun) == 1:
                self._observation[begun[0]] = begin(pools[0], begun[0])
            elif begun:
                with ThreadPoolExecutor(min(len(begun), available_cores())) as threads:
                    for slot, observation in zip(begun, threads.map(begin, pools, begun), strict=True):
                        self._observation[slot] = observation
        except RuntimeError as error:  # what the emulator raised, or no further thread
            games = ", ".join(dict.fromkeys(self.spec.tasks[tasks[slot]].name for slot in begun))
            raise WorkerFailure(f"an episode of {games} cannot begin: {error}") from error

    def _pool_of(self, slot: int, task: int) -> GamePool:
        pool = self._pools[slot]
        if pool is None or pool.game != self.spec.tasks[task].name:
            if pool is not None:
                self._stock.give_back(pool)
            pool = self._pools[slot] = self._stock.take(task)
        return pool
