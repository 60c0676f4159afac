"""Scenarios of ViZDoom as suites; what plays the game is skipped where it is not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import envs
from envs.gymnasium_suite.spaces import ImageObservation, observation_of
from envs.vizdoom.scenarios import FRAMES, SCENARIOS, SIZE, parse
from envs.vizdoom.screens import Screens
from envs.vizdoom.suite import ViZDoom
from mtrl.checkpoints.store import CheckpointStore
from mtrl.env.episodes import RandomEpisodes
from mtrl.env.suite import find_suite
from mtrl.errors import BadInput
from mtrl.training import run
from tests.training.tiny_runs import tiny_config

CONFIG = ViZDoom.Config()
BOTH = "vizdoom:basic,health-gathering"


class Grey(gym.Env[Any, Any]):
    """Screens of one shade, which gets lighter by 10 a step; black ones from the third on, as after an episode."""

    observation_space = gym.spaces.Dict({"screen": gym.spaces.Box(0, 255, (120, 160, 3), np.uint8)})
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observation(), 1.0, self.steps >= 3, self.steps == 3, {}

    def _observation(self) -> dict[str, np.ndarray]:
        shade = 10 * (self.steps + 1) if self.steps < 3 else 0
        return {"screen": np.full((120, 160, 3), shade, np.uint8)}


def shades(observation: np.ndarray) -> list[int]:
    assert observation.shape == (3 * FRAMES, SIZE, SIZE)
    assert all((frame == frame[0, 0]).all() for frame in observation)
    return observation[::3, 0, 0].tolist()


def test_an_observation_is_the_last_screens_and_a_time_limit_is_no_end() -> None:
    env = Screens(Grey())
    for _ in range(2):
        assert shades(env.reset(seed=1)[0]) == [0, 0, 0, 10]
        assert shades(env.step(0)[0]) == [0, 0, 10, 20]
        env.step(0)
        observation, _, terminated, truncated, _ = env.step(0)
        assert (terminated, truncated) == (False, True)
        assert shades(observation) == [10, 20, 30, 30]  # the last screen that there was
    _, _, terminated, truncated, _ = env.step(0)
    assert (terminated, truncated) == (True, False)


def test_observations_count_as_images() -> None:
    assert isinstance(observation_of(Screens(Grey()).observation_space), ImageObservation)


def test_a_suite_name_stands_for_scenarios() -> None:
    envs.register()
    assert find_suite(BOTH) is ViZDoom
    assert parse("vizdoom:health_gathering,basic") == ("health-gathering", "basic")
    with pytest.raises(BadInput, match=r"unknown scenario 'basik' \(did you mean 'basic'\?\)"):
        parse("vizdoom:basik")
    with pytest.raises(BadInput, match="names scenario 'basic' twice"):
        parse("vizdoom:basic,basic")
    with pytest.raises(BadInput, match="did you mean 'vizdoom:health-gathering'"):
        find_suite("health-gathering")


def test_a_game_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    monkeypatch.setitem(sys.modules, "vizdoom.gymnasium_wrapper", None)
    monkeypatch.setattr("gymnasium.registry", {})
    with pytest.raises(BadInput, match="environment 'VizdoomBasic-v1' needs the package vizdoom"):
        ViZDoom("vizdoom:basic", CONFIG, 1)


def test_a_suite_says_what_its_protocol_fixes() -> None:
    pytest.importorskip("vizdoom.gymnasium_wrapper")
    spec = ViZDoom("vizdoom:basic,deadly-corridor", ViZDoom.Config(frame_skip=8), 1).spec
    assert (spec.name, spec.protocol, spec.score) == ("vizdoom:basic,deadly-corridor", "vizdoom", "return")
    assert [task.max_episode_steps for task in spec.tasks] == [38, 263]  # of 300 and 2100 frames
    assert spec.frame_shape == (3, SIZE, SIZE)
    assert spec.action_mask is not None
    assert spec.action_mask.sum(1).tolist() == [4, 8]  # none or one of 3 and 7 buttons
    assert {"vizdoom", "gymnasium", "env_kwargs", "observation"} <= set(spec.settings)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_is_registered(scenario: str) -> None:
    pytest.importorskip("vizdoom.gymnasium_wrapper")
    assert gym.spec(SCENARIOS[scenario].environment)


def test_a_resumed_run_goes_on_in_mid_episode() -> None:
    pytest.importorskip("vizdoom.gymnasium_wrapper")
    suite = ViZDoom(BOTH, CONFIG, 1)
    arguments: dict[str, Any] = {"mode": "train", "num_workers": 0, "worker_timeout": 30.0}
    with (
        suite.make_envs(2, RandomEpisodes(suite.spec, 2, 1), **arguments) as played,
        suite.make_envs(2, RandomEpisodes(suite.spec, 2, 2), **arguments) as resumed,
    ):
        played.reset()
        for number in range(8):
            observation = played.step(np.array([number % 4, 3])).observation
        assert played.replays_exactly
        assert resumed.load_state(played.state()).tobytes() == observation.tobytes()


def test_ppo_trains_on_screens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vizdoom.gymnasium_wrapper")
    monkeypatch.chdir(tmp_path)
    config = tiny_config(
        BOTH,
        agent={"name": "ppo", "rollout_steps": 16, "minibatches": 1, "epochs": 1},
        encoder={"name": "impala", "channels": 2, "features": 8},
        num_envs=2,
        total_env_steps=64,
        log_interval=32,
        eval_interval=0,
        final_eval_episodes_per_task=0,
        checkpoint_interval=64,
    )
    assert run.train(config, tmp_path / "run") == 0
    assert CheckpointStore(tmp_path / "run" / "checkpoints").load("latest").step == 64
    assert not list(tmp_path.glob("*.ini"))  # the game's settings do not go to the current folder
