"""Behaviour of Gymnasium and Meta-World that this project leans on, or works around."""

from __future__ import annotations

import pickle
from collections import OrderedDict

import gymnasium as gym
import metaworld
import numpy as np
import pytest
from metaworld import env_dict
from metaworld.envs import SawyerReachEnvV3
from metaworld.policies import SawyerReachV3Policy
from metaworld.sawyer_xyz_env import SawyerXYZEnv

# Gymnasium.


class Counter(gym.Env):
    """Observes the number of its env steps; an episode is cut off after three."""

    observation_space = gym.spaces.Box(0, 100, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.steps = 0
        return np.zeros(1, np.float32), {"from": "reset"}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return np.full(1, self.steps, np.float32), 1.0, False, self.steps == 3, {"from": "step"}


@pytest.mark.parametrize("vector_class", [gym.vector.SyncVectorEnv, gym.vector.AsyncVectorEnv])
def test_same_step_autoreset_keeps_the_last_observation_in_final_obs(vector_class: type) -> None:
    envs = vector_class([Counter, Counter], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    envs.reset()
    for _ in range(3):
        observation, _, _, truncated, info = envs.step(np.zeros(2, int))
    envs.close()
    assert truncated.all()
    assert observation.tolist() == [[0], [0]]
    assert [row.tolist() for row in info["final_obs"]] == [[3], [3]]
    assert info["final_info"]["from"].tolist() == ["step", "step"]


# Meta-World.


def reach(goal: tuple[float, ...] = (0.0, 0.6, 0.02, 0.0, 0.85, 0.2)) -> SawyerXYZEnv:
    """The official reach environment with one goal, visible."""
    env = SawyerReachEnvV3()
    data = {"rand_vec": np.array(goal), "env_cls": SawyerReachEnvV3, "partially_observable": False}
    env.set_task(metaworld.Task(env_name="reach-v3", data=pickle.dumps(data)))
    return env


@pytest.fixture
def two_task_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """MT10 cut down to two tasks, so that it is made in a second; restores the number of goals."""
    tasks = OrderedDict((name, env_dict.MT10_V3[name]) for name in ("reach-v3", "window-close-v3"))
    monkeypatch.setattr(env_dict, "MT10_V3", tasks)
    monkeypatch.setattr(env_dict, "MT10_V3_ARGS_KWARGS", {name: env_dict.MT10_V3_ARGS_KWARGS[name] for name in tasks})
    monkeypatch.setattr(metaworld, "_N_GOALS", 5)


def test_metaworld_ignores_the_seed_of_a_reset() -> None:
    env = reach()
    first, _ = env.reset(seed=1)
    second, _ = env.reset(seed=2)
    np.testing.assert_array_equal(first, second)


def test_metaworld_resets_the_model_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    env, resets = reach(), []
    reset_model = env.reset_model
    monkeypatch.setattr(env, "reset_model", lambda: resets.append(1) or reset_model())
    env.reset()
    assert len(resets) == 2


def test_free_metaworld_goals_come_from_the_global_generator() -> None:
    env = reach()
    env._freeze_rand_vec = False
    state = np.random.get_state()
    try:
        env.reset()
        assert not np.array_equal(np.random.get_state()[1], state[1]) or np.random.get_state()[2] != state[2]
    finally:
        np.random.set_state(state)


def test_success_never_terminates_a_metaworld_episode_and_500_steps_truncate_it() -> None:
    env, policy = reach(), SawyerReachV3Policy()
    observation, _ = env.reset()
    successes = 0.0
    for step in range(1, 501):
        observation, _, terminated, truncated, info = env.step(np.clip(policy.get_action(observation), -1, 1))
        successes += info["success"]
        assert not terminated
        assert truncated == (step == 500)
    assert successes > 300
    with pytest.raises(ValueError, match="reset"):
        env.step(np.zeros(4, np.float32))


def test_metaworld_observations_are_39_float64_numbers_that_end_with_the_goal() -> None:
    observation, _ = reach().reset()
    assert (observation.shape, observation.dtype) == ((39,), np.float64)
    np.testing.assert_array_equal(observation[-3:], (0.0, 0.85, 0.2))


def test_metaworld_success_is_a_number_that_is_one() -> None:
    env = reach()
    env.reset()
    assert env.step(np.zeros(4, np.float32))[4]["success"] in (0.0, 1.0)


@pytest.mark.usefixtures("two_task_benchmark")
def test_all_environments_of_a_metaworld_benchmark_share_one_seed() -> None:
    envs = metaworld.make_mt_envs("MT10", seed=3)
    draws = [env.unwrapped.np_random.random(4).tolist() for env in envs.envs]
    envs.close()
    assert draws[0] == draws[1]


@pytest.mark.usefixtures("two_task_benchmark")
def test_the_number_of_goals_of_one_environment_changes_that_of_all_later_ones() -> None:
    gym.make_vec("Meta-World/MT10", vector_strategy="sync", seed=1, num_goals=2).close()
    assert metaworld._N_GOALS == 2
    assert len(metaworld.MT10(seed=1).train_tasks) == 2 * 2


@pytest.mark.usefixtures("two_task_benchmark")
def test_metaworld_benchmarks_put_the_global_generator_back() -> None:
    before = np.random.get_state()[1].copy()
    tasks = [metaworld.MT10(seed=1).train_tasks for _ in range(2)]
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert [task.data for task in tasks[0]] == [task.data for task in tasks[1]]


def test_metaworld_benchmarks_take_seeds_below_two_to_the_32() -> None:
    state = np.random.get_state()
    try:
        with pytest.raises(ValueError, match="Seed must be between 0 and 2"):
            metaworld.MT1("reach-v3", seed=2**32)
    finally:
        np.random.set_state(state)
