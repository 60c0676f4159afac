"""Meta-World trained in EnvPool's environments. The tests that step it run where it is installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from envs.metaworld.envpool import EnvPoolEnvs, _envpool_name
from envs.metaworld.suite import HORIZON, MetaWorld
from envs.metaworld.tasks import MT50
from envs.workers.pool import WorkerPool
from mtrl.env.episodes import RandomEpisodes
from mtrl.env.vector_env import MultiTaskVectorEnv
from mtrl.errors import BadInput

CONFIG = MetaWorld.Config(env_backend="envpool")
needs_envpool = pytest.mark.skipif(importlib.util.find_spec("envpool") is None, reason="envpool is not installed")


def make(suite: MetaWorld, num_envs: int, seed: int = 1) -> MultiTaskVectorEnv:
    episodes = RandomEpisodes(suite.spec, num_envs, seed)
    return suite.make_envs(num_envs, episodes, mode="train", num_workers=1, worker_timeout=60.0)


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'mtrl-suite\[envpool\]'"):
        MetaWorld("mt3", CONFIG, 1)


@needs_envpool
def test_it_has_one_reward_function() -> None:
    with pytest.raises(BadInput, match="v2 only"):
        MetaWorld("mt3", MetaWorld.Config(env_backend="envpool", reward_function="v1"), 1)


@needs_envpool
def test_it_knows_every_task() -> None:
    import envpool

    assert {_envpool_name(task) for task in MT50} <= set(envpool.list_all_envs())


@needs_envpool
def test_results_carry_another_suite_name_and_say_where_the_agent_was_trained() -> None:
    spec = MetaWorld("mt3", CONFIG, 1).spec
    assert spec.name == "mt3-envpool"
    assert spec.settings["trained_in"].startswith("envpool 1.")
    assert "trained_in" not in MetaWorld("mt3", MetaWorld.Config(), 1).spec.settings


@needs_envpool
def test_evaluations_play_the_official_environments() -> None:
    suite = MetaWorld("mt3", CONFIG, 1)
    episodes = RandomEpisodes(suite.spec, 3, 1)
    with suite.make_envs(3, episodes, mode="evaluate", num_workers=0, worker_timeout=60.0) as envs:
        assert isinstance(envs, WorkerPool)
    with make(suite, 3) as envs:
        assert isinstance(envs, EnvPoolEnvs)


@needs_envpool
def test_episodes_follow_each_other_in_the_same_step_without_a_row_of_the_reset() -> None:
    suite = MetaWorld("mt3", CONFIG, 1)
    with make(suite, 3) as envs:
        first = envs.reset()
        goals = [first[:, 36:]]
        previous = first
        for step in range(2 * HORIZON + 1):
            result = envs.step(np.zeros((3, 4), np.float32))
            ends = (step + 1) % HORIZON == 0
            assert result.truncated.all() == result.truncated.any() == ends
            assert not result.terminated.any()
            assert len(result.episodes) == (3 if ends else 0)
            # Every row's successor remembers the hand of its own observation: no transition crosses a reset.
            np.testing.assert_array_equal(result.final_observation[:, 18:21], previous[:, :3])
            if ends:
                assert all(episode.length == HORIZON for episode in result.episodes)
                assert not np.array_equal(result.observation, result.final_observation)
                goals.append(result.observation[:, 36:])
            previous = result.observation
    assert (first[:, 36:] != 0).any(axis=1).all(), "the goal is visible"
    assert not np.array_equal(goals[0], goals[1]), "goals are drawn anew"


@needs_envpool
def test_a_restart_begins_new_episodes_with_other_goals() -> None:
    suite = MetaWorld("mt1-reach", CONFIG, 1)
    with make(suite, 2) as envs:
        first = envs.reset()
        envs.step(np.zeros((2, 4), np.float32))
        state = envs.state()
    with make(suite, 2, seed=2) as envs:
        restarted = envs.load_state(state)
        assert not np.array_equal(restarted[:, 36:], first[:, 36:])
        assert not envs.replays_exactly
    with make(suite, 2) as envs:
        np.testing.assert_array_equal(envs.reset(), first)
