"""The contract of a suite's environments, as a function that a suite's own tests call.

Shapes: N slots, M tasks, T vector steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from mtrl.env.episodes import IDLE, EpisodeSource, ListedEpisodes, RandomEpisodes
from mtrl.env.suite import Mode, Suite
from mtrl.env.vector_env import MultiTaskVectorEnv
from mtrl.errors import MtrlError
from mtrl.seeding import stream
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.generators import global_generators_untouched
from mtrl.types import EnvStep, SuiteSpec

MakeEnvs = Callable[[int, EpisodeSource, Mode], MultiTaskVectorEnv]
"""(num_envs, episodes, mode) -> new environments."""


def check_suite(
    family: type[Suite],
    name: str,
    config: Any = None,
    *,
    num_workers: int = 0,
    num_steps: int | None = None,
    worker_timeout: float = 60.0,
) -> None:
    """Plays the suite `name` of a family and raises AssertionError where it breaks the contract of its interface.

    `config` is an instance of the family's Config (default: its defaults), `num_steps` the vector steps of each run
    (default: one more than the longest episode, so that every slot is seen to end one; an endless suite takes fewer).
    """
    who = f"suite {name!r} ({family.__module__}.{family.__qualname__})"
    settings = family.Config() if config is None else config
    assert family.accepts(name), f"{who}: accepts({name!r}) is false; `--suite {name}` would not find it"
    with global_generators_untouched(who):
        suite, again = family(name, settings, 1), family(name, settings, 1)
        _check_description(who, suite.spec)
        first, second = leaves(_description(suite.spec)), leaves(_description(again.spec))
        assert first == second, f"{who}: made twice with one seed it differs: {differences(first, second)}"

        def make_envs(num_envs: int, episodes: EpisodeSource, mode: Mode) -> MultiTaskVectorEnv:
            return suite.make_envs(
                num_envs, episodes, mode=mode, num_workers=num_workers, worker_timeout=worker_timeout
            )

        steps = num_steps or suite.spec.max_episode_steps + 1
        try:
            _check_trajectories(who, suite.spec, make_envs, steps)
            _check_episodes_depend_on_nothing_else(who, suite.spec, make_envs, steps)
            _check_replay(who, suite.spec, make_envs, steps)
            _check_listed_episodes(who, suite.spec, make_envs)
        except MtrlError as error:
            raise AssertionError(f"{who}: {type(error).__name__}: {error}") from error


def _description(spec: SuiteSpec) -> dict[str, Any]:
    return {"tasks": [vars(task) for task in spec.tasks], "settings": dict(spec.settings), "mask": spec.action_mask}


def _check_description(who: str, spec: SuiteSpec) -> None:
    assert spec.num_tasks > 0, f"{who}: it has no task"
    assert len(set(spec.task_names)) == spec.num_tasks, f"{who}: two tasks share a name: {spec.task_names}"
    for task in spec.tasks:
        assert task.max_episode_steps > 0, f"{who}: task {task.name!r} has episodes of {task.max_episode_steps} steps"
        assert task.num_variations is None or task.num_variations > 0, (
            f"{who}: task {task.name!r} has {task.num_variations} variations; unlimited ones are None"
        )
    dtype = spec.observation_space.dtype
    assert dtype in (np.float32, np.uint8), f"{who}: observations are {dtype}; encoders take float32 or uint8"
    space = spec.action_space
    if isinstance(space, gym.spaces.Discrete):
        assert space.start == 0, f"{who}: actions begin at {space.start}; the suite counts them from 0"
    else:
        assert len(space.shape) == 1, f"{who}: actions have shape {space.shape}; a vector is needed"
        bounds = {*space.low.tolist(), *space.high.tolist()}
        assert bounds == {-1, 1}, f"{who}: actions are bounded by {sorted(bounds)}; rescale them to [-1, 1]"
    assert spec.protocol, f"{who}: `protocol` is empty; results of different protocols must not be mixed"
    try:
        json.dumps(dict(spec.settings))
    except TypeError as error:
        raise AssertionError(f"{who}: `settings` are not JSON: {error}") from error


def _legal_actions(spec: SuiteSpec, task_ids: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Random actions (N, A) or (N,) that the tasks (N,) allow."""
    space = spec.action_space
    if not isinstance(space, gym.spaces.Discrete):
        return generator.uniform(-1, 1, (len(task_ids), *space.shape)).astype(np.float32)
    if spec.action_mask is None:
        return generator.integers(int(space.n), size=len(task_ids))
    return np.array([generator.choice(np.flatnonzero(spec.action_mask[task])) for task in task_ids])


class _Trajectory(NamedTuple):
    """What a run of T vector steps gave."""

    first: np.ndarray  # (N, *observation)
    steps: list[EnvStep]
    task_ids: list[np.ndarray]  # (N,) after each step


def _play(envs: MultiTaskVectorEnv, num_steps: int) -> _Trajectory:
    """Random legal actions, the same for every call."""
    generator = stream(1, "check actions")
    first = envs.reset()
    steps, task_ids = [], [envs.task_ids.copy()]
    for _ in range(num_steps):
        steps.append(envs.step(_legal_actions(envs.spec, envs.task_ids, generator)))
        task_ids.append(envs.task_ids.copy())
    return _Trajectory(first, steps, task_ids)


def _check_trajectories(who: str, spec: SuiteSpec, make_envs: MakeEnvs, num_steps: int) -> None:
    num_envs = spec.num_tasks + 1
    played = []
    for _ in range(2):
        with make_envs(num_envs, RandomEpisodes(spec, num_envs, 1), "train") as envs:
            played.append(_play(envs, num_steps))
    _check_step_types(who, spec, num_envs, played[0])
    _check_auto_reset(who, played[0])
    first, second = leaves(played[0]), leaves(played[1])
    assert first == second, (
        f"{who}: played twice with one seed and the same actions it gives {differences(first, second)}"
    )


def _check_step_types(who: str, spec: SuiteSpec, num_envs: int, played: _Trajectory) -> None:
    observations = ((num_envs, *spec.observation_space.shape), spec.observation_space.dtype)
    expected: dict[str, tuple[tuple[int, ...], Any]] = {
        "observation": observations,
        "final_observation": observations,
        "reward": ((num_envs,), np.float32),
        "terminated": ((num_envs,), bool),
        "truncated": ((num_envs,), bool),
        "task_ids": ((num_envs,), np.int64),
    }
    found = (played.first.shape, played.first.dtype)
    assert found == observations, f"{who}: reset gives {found}, not {observations}"
    for step in played.steps:
        for field, (shape, dtype) in expected.items():
            value = getattr(step, field)
            assert value.shape == shape, f"{who}: a step's {field} has shape {value.shape}, not {shape}"
            assert value.dtype == dtype, f"{who}: a step's {field} is {value.dtype}, not {np.dtype(dtype)}"
    every_observation = [played.first, *(step.observation for step in played.steps)]
    assert all(np.isfinite(observation).all() for observation in every_observation), (
        f"{who}: an observation is not finite"
    )


def _check_auto_reset(who: str, played: _Trajectory) -> None:
    """Ends, final observations, task changes and the list of finished episodes agree with each other."""
    lengths = np.zeros(len(played.first), np.int64)
    returns = np.zeros(len(played.first))
    for number, step in enumerate(played.steps):
        before, after = played.task_ids[number], played.task_ids[number + 1]
        ended = step.terminated | step.truncated
        lengths += 1
        returns += step.reward
        assert np.array_equal(step.task_ids, before), f"{who}: a step's task_ids are not those that were playing"
        assert (ended | (before == after)).all(), f"{who}: a slot changed its task without an episode's end"
        same = (step.observation == step.final_observation).reshape(len(ended), -1).all(axis=1)
        assert (ended | same).all(), (
            f"{who}: where no episode ended, final_observation must be the observation to act on next"
        )
        listed = {episode.slot: episode for episode in step.episodes}
        assert sorted(listed) == np.flatnonzero(ended).tolist(), f"{who}: finished episodes and end flags disagree"
        for slot, episode in listed.items():
            assert episode.length == lengths[slot], f"{who}: an episode of {lengths[slot]} steps reports {episode}"
            assert np.isclose(episode.return_, returns[slot]), f"{who}: rewards sum to {returns[slot]}, not {episode}"
        lengths[ended] = returns[ended] = 0


def _check_episodes_depend_on_nothing_else(who: str, spec: SuiteSpec, make_envs: MakeEnvs, num_steps: int) -> None:
    """An episode is a function of (task, variation, actions), whichever slot plays it and whatever came before."""
    last = spec.tasks[-1]
    episodes = [(0, 0), (last.index, (last.num_variations or 2) - 1), (0, 0)]
    orders = [episodes, episodes[::-1], episodes[1:]]
    found: dict[tuple[int, int], list[np.ndarray]] = {}
    # Actions depend on the episode's step alone and are legal for both tasks.
    legal = np.flatnonzero(np.ones(1) if spec.action_mask is None else spec.action_mask[[0, last.index]].all(axis=0))
    if not legal.size:
        return
    generator = stream(1, "check actions")
    table = [
        _legal_actions(spec, np.array([0]), generator)[0] if spec.action_mask is None else generator.choice(legal)
        for _ in range(spec.max_episode_steps)
    ]
    with make_envs(len(orders), ListedEpisodes(orders), "train") as envs:
        if not envs.replays_exactly:
            return
        observation = envs.reset()
        traces: list[list[np.ndarray]] = [[row] for row in observation]
        positions = np.zeros(len(orders), np.int64)
        for _ in range(3 * num_steps):
            if not (envs.task_ids != IDLE).any():
                break
            actions = np.stack([table[min(len(trace), len(table)) - 1] for trace in traces])
            step = envs.step(actions)
            ended = step.terminated | step.truncated
            for slot in range(len(orders)):
                if step.task_ids[slot] == IDLE:
                    continue
                traces[slot].append(step.final_observation[slot])
                if ended[slot]:
                    key = orders[slot][positions[slot]]
                    found.setdefault(key, []).append(np.stack(traces[slot]))
                    traces[slot] = [step.observation[slot]]
                    positions[slot] += 1
    for (task, variation), copies in found.items():
        for copy in copies[1:]:
            assert leaves(copy) == leaves(copies[0]), (
                f"{who}: task {spec.tasks[task].name!r}, variation {variation} played twice with the same actions "
                "gives other observations; an episode must depend on (task, variation, actions) alone, not on the "
                "slot or on earlier episodes"
            )


def _check_replay(who: str, spec: SuiteSpec, make_envs: MakeEnvs, num_steps: int) -> None:
    num_envs = spec.num_tasks + 1
    generator = stream(1, "check actions")
    # Beyond the first ends if there is time for it, and then into the next episodes.
    until = num_steps + min(3, spec.max_episode_steps - 1)
    with make_envs(num_envs, RandomEpisodes(spec, num_envs, 1), "train") as envs:
        if not envs.replays_exactly:
            return
        observation = envs.reset()
        for _ in range(until):
            observation = envs.step(_legal_actions(spec, envs.task_ids, generator)).observation
        with make_envs(num_envs, RandomEpisodes(spec, num_envs, 2), "train") as resumed:
            restored = resumed.load_state(envs.state())
            assert restored.tobytes() == observation.tobytes(), (
                f"{who}: load_state does not lead to the observations that were saved; "
                "if it cannot, set `replays_exactly = False` on the environments"
            )
            for _ in range(min(num_steps, 20)):
                actions = _legal_actions(spec, envs.task_ids, generator)
                left, right = leaves(envs.step(actions)), leaves(resumed.step(actions))
                assert left == right, f"{who}: after load_state the next steps differ: {differences(left, right)}"
        resumed.close()  # a second time, which must be safe


def _check_listed_episodes(who: str, spec: SuiteSpec, make_envs: MakeEnvs) -> None:
    """In mode "evaluate" the listed episodes are played, each once, and the slots rest."""
    last = spec.tasks[-1]
    lists = [[(0, 0), (last.index, (last.num_variations or 2) - 1)], [], [(last.index, 0)]]
    generator = stream(1, "check actions")
    played: list[list[tuple[int, int]]] = [[] for _ in lists]
    with make_envs(len(lists), ListedEpisodes(lists), "evaluate") as envs:
        envs.reset()
        for _ in range(2 * spec.max_episode_steps):
            if not (envs.task_ids != IDLE).any():
                break
            tasks = np.maximum(envs.task_ids, 0)
            for episode in envs.step(_legal_actions(spec, tasks, generator)).episodes:
                played[episode.slot].append((episode.task, episode.variation))
        assert played == lists, f"{who}: in mode 'evaluate' the slots were to play {lists} and played {played}"
        assert (envs.task_ids == IDLE).all(), f"{who}: a slot whose list is over does not rest"
        step = envs.step(_legal_actions(spec, np.zeros(len(lists), np.int64), generator))
        ends = [*step.episodes, *np.flatnonzero(step.terminated | step.truncated)]
        assert not ends, f"{who}: a resting slot reports the end of an episode"
