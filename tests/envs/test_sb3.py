"""stable-baselines3 trains on our suites, and evaluates our agents."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecMonitor

import agents
import envs
from envs.point_mass import EPISODE_STEPS, STEP_LENGTH
from envs.sb3 import SB3VecEnv, as_sb3_policy, make_sb3_env
from mtrl.agent import Agent
from mtrl.config.schema import resolve_config
from mtrl.env.episodes import ListedEpisodes
from mtrl.errors import BadInput
from mtrl.training.build import build_agent, build_suite


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Networks this small are slower with more, the more so the busier the machine is."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_agent(suite: str) -> Agent:
    agents.register()
    envs.register()
    config = resolve_config({"suite": suite, "architecture": {"name": "multi-head", "width": 16}})
    return build_agent(config, build_suite(config.suite, 1), torch.device("cpu"))


def play(vec_env: SB3VecEnv, vector_steps: int, seed: int = 0) -> list[tuple[np.ndarray, Any, Any, Any]]:
    generator = np.random.default_rng(seed)
    shape = (vec_env.num_envs, *vec_env.action_space.shape)
    return [vec_env.step(generator.uniform(-1, 1, shape).astype(np.float32)) for _ in range(vector_steps)]


def test_the_task_follows_the_observation_as_a_one_hot_vector() -> None:
    vec_env = make_sb3_env("point-mass", 8)
    observation = vec_env.reset()
    assert vec_env.observation_space.shape == (6,)
    assert observation.dtype == vec_env.observation_space.dtype == np.float32
    assert vec_env.observation_space.contains(observation[0])
    np.testing.assert_array_equal(observation[:, 2:].argmax(1), vec_env.environments.task_ids)
    assert [info["task_id"] for info in vec_env.reset_infos] == vec_env.get_attr("task_id")
    assert [info["task"] for info in vec_env.reset_infos] == vec_env.get_attr("task")


def test_without_the_task_the_observation_is_the_suites_own() -> None:
    vec_env = make_sb3_env("point-mass", 8, task_input="none")
    assert vec_env.reset().shape == (8, 2)
    assert vec_env.observation_space.shape == (2,)


def test_the_end_of_an_episode_is_told_as_monitor_and_time_limit_tell_it() -> None:
    vec_env = make_sb3_env("point-mass", 8)
    observation = vec_env.reset()
    vec_env.env_method("set_task_weights", np.array([0.0, 0.0, 0.0, 1.0]))  # the task of the next episodes
    steps = play(vec_env, EPISODE_STEPS)
    returns = sum(step[1].astype(np.float64) for step in steps)
    assert not any(step[2].any() for step in steps[:-1])
    next_observation, _, ended, infos = steps[-1]
    assert ended.all()
    for slot, info in enumerate(infos):
        assert info["TimeLimit.truncated"] is True
        assert info["episode"]["r"] == pytest.approx(returns[slot])
        assert info["episode"]["l"] == EPISODE_STEPS
        assert isinstance(info["is_success"], bool)
        # The last observation of the old episode, with the old task: one move away from the one before.
        final = info["terminal_observation"]
        np.testing.assert_array_equal(final[2:], observation[slot, 2:])
        assert np.abs(final[:2] - steps[-2][0][slot, :2]).max() <= STEP_LENGTH + 1e-6
        assert vec_env.reset_infos[slot]["task_id"] == next_observation[slot, 2:].argmax()
    assert (next_observation[:, 5] == 1).all()


def test_a_seed_gives_the_same_episodes_again() -> None:
    vec_env = make_sb3_env("point-mass", 6, seed=1)
    runs = []
    for seed in (7, 7, 8):
        vec_env.seed(seed)
        runs.append(np.stack([vec_env.reset(), *(step[0] for step in play(vec_env, 25))]))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()


def test_attributes_and_methods_reach_the_vector_environment() -> None:
    vec_env = make_sb3_env("point-mass", 4)
    assert vec_env.get_attr("spec", indices=[0, 2]) == 2 * [vec_env.environments.spec]
    assert not vec_env.has_attr("no_such_attribute")
    vec_env.env_method("set_task_weights", np.array([0.0, 0.0, 0.0, 1.0]))
    vec_env.reset()
    assert vec_env.get_attr("task_id") == [3, 3, 3, 3]
    vec_env.set_attr("note", "kept")
    assert vec_env.get_attr("note") == 4 * ["kept"]
    with pytest.raises(ValueError, match="one vector environment"):
        vec_env.set_attr("note", "kept", indices=[0])
    assert vec_env.env_is_wrapped(Monitor) == 4 * [True]
    assert vec_env.env_is_wrapped(VecMonitor, indices=1) == [False]
    assert vec_env.get_images() == 4 * [None]
    vec_env.close()


def test_reset_options_are_refused() -> None:
    vec_env = make_sb3_env("point-mass", 4)
    vec_env.set_options({"goal": 1})
    with pytest.raises(ValueError, match="no reset options"):
        vec_env.reset()


def test_slots_that_run_out_of_episodes_are_refused() -> None:
    environments = make_sb3_env("point-mass", 4).environments
    environments.episodes = ListedEpisodes([[(0, 0)]] * 3 + [[]])
    with pytest.raises(ValueError, match="endless"):
        SB3VecEnv(environments).reset()


def test_an_unknown_suite_or_setting_is_bad_input() -> None:
    with pytest.raises(BadInput, match="point-mass"):
        make_sb3_env("point-mas")
    with pytest.raises(BadInput, match="reward_function"):
        make_sb3_env("mt1-reach", config={"reward_function": "v3"})


def test_sac_stores_time_outs_and_true_successors() -> None:
    vec_env = make_sb3_env("point-mass", 4)
    model = SAC("MlpPolicy", vec_env, learning_starts=40, buffer_size=4000, batch_size=32, seed=1, device="cpu")
    model.learn(4 * 3 * EPISODE_STEPS, log_interval=1)
    buffer = model.replay_buffer
    assert buffer.timeouts[: buffer.pos].sum() == buffer.dones[: buffer.pos].sum() == 4 * 3
    ends = np.flatnonzero(buffer.timeouts[: buffer.pos].all(1))
    np.testing.assert_array_equal(ends, EPISODE_STEPS * np.arange(1, 4) - 1)
    # The successor of a last row is not the next row's observation, which belongs to the next episode.
    assert np.abs(buffer.next_observations[ends, :, :2] - buffer.observations[ends, :, :2]).max() <= STEP_LENGTH + 1e-6
    assert np.abs(buffer.next_observations[ends[:-1], :, :2] - buffer.observations[ends[:-1] + 1, :, :2]).max() > 0.3
    assert len(model.ep_success_buffer) == len(model.ep_info_buffer) == 4 * 3


def test_ppo_learns_the_task_it_is_told() -> None:
    vec_env = make_sb3_env("point-mass", 16)
    model = PPO(
        "MlpPolicy",
        vec_env,
        n_steps=40,
        batch_size=160,
        n_epochs=8,
        learning_rate=3e-3,
        seed=1,
        gamma=0.9,
        device="cpu",
    )
    before, _ = evaluate_policy(model, make_sb3_env("point-mass", 16, seed=2), n_eval_episodes=32)
    model.learn(12_000)
    after, _ = evaluate_policy(model, make_sb3_env("point-mass", 16, seed=2), n_eval_episodes=32)
    best = np.mean([task.target_return for task in vec_env.environments.spec.tasks])
    assert after > before + 0.75 * (best - before)


@pytest.mark.parametrize("suite", ["point-mass", "point-mass-discrete", "point-mass-conflict"])
def test_our_agent_answers_predict(suite: str) -> None:
    agent, vec_env = make_agent(suite), make_sb3_env(suite)
    observation = vec_env.reset()
    action, state = as_sb3_policy(agent).predict(observation, deterministic=True)
    own, _ = np.split(observation, [2], axis=1)
    np.testing.assert_array_equal(action, agent.act(own.copy(), vec_env.environments.task_ids, explore=False).action)
    assert state is None
    assert agent.training
    one, _ = as_sb3_policy(agent).predict(observation[1], deterministic=True)
    np.testing.assert_allclose(one, action[1], rtol=1e-5, atol=1e-7)
    explored, _ = as_sb3_policy(agent).predict(observation)
    assert explored.shape == action.shape


def test_evaluate_policy_takes_our_agent() -> None:
    agent = make_agent("point-mass")
    finished: list[dict[str, Any]] = []

    def keep(variables: dict[str, Any], _: dict[str, Any]) -> None:
        if variables["done"]:
            finished.append(variables["info"])

    returns, lengths = evaluate_policy(
        as_sb3_policy(agent), make_sb3_env("point-mass", 8), 16, callback=keep, return_episode_rewards=True
    )
    assert lengths == 16 * [EPISODE_STEPS]
    assert returns == [info["episode"]["r"] for info in finished]
    assert sorted(info["task_id"] for info in finished) == sorted(4 * [0, 1, 2, 3])


def test_an_observation_without_its_task_is_refused() -> None:
    policy = as_sb3_policy(make_agent("point-mass"))
    with pytest.raises(ValueError, match="one-hot vector must follow"):
        policy.predict(np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="must be a one-hot task"):
        policy.predict(np.zeros((3, 6), np.float32))


def test_sac_runs_on_meta_world() -> None:
    vec_env = make_sb3_env("metaworld:reach-v3", 2)
    try:
        assert vec_env.observation_space.shape == (40,)
        model = SAC("MlpPolicy", vec_env, learning_starts=20, buffer_size=1000, batch_size=16, seed=1, device="cpu")
        model.learn(60)
        stored = model.replay_buffer.observations[: model.replay_buffer.pos]
        assert (stored[..., 39] == 1).all()
        assert (stored[..., 36:39] != 0).any()  # the goal is visible
        assert np.isfinite(stored).all()
    finally:
        vec_env.close()


def test_registering_the_worlds_does_not_import_stable_baselines3() -> None:
    code = "import sys, envs; envs.register(); print('stable_baselines3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
