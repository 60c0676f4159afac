"""Environments of other packages, where they are installed: MiniGrid, DMControl (by Shimmy) and Gymnasium-Robotics."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from envs.gymnasium_suite.suite import GymnasiumSuite
from mtrl.env.episodes import RandomEpisodes
from mtrl.env.vector_env import MultiTaskVectorEnv
from mtrl.errors import BadInput
from mtrl.registry import trust_module

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "minigrid": (
        "gym:MiniGrid-Empty-5x5-v0,MiniGrid-DoorKey-5x5-v0",
        {"wrappers": ("minigrid.wrappers:ImgObsWrapper",), "max_episode_steps": 30},
        {"observations": 147, "score": "return"},
    ),
    "shimmy": (
        "gym:dm_control/cartpole-balance-v0,dm_control/point_mass-easy-v0",
        {"max_episode_steps": 20},
        {"observations": 5, "score": "return"},
    ),
    "gymnasium_robotics": (
        "gym:FetchReach-v4,FetchPush-v4",
        {"env_kwargs": {"max_episode_steps": 10}},
        {"observations": 31, "score": "success"},
    ),
}


def make_envs(suite: GymnasiumSuite, seed: int) -> MultiTaskVectorEnv:
    episodes = RandomEpisodes(suite.spec, 2, seed)
    return suite.make_envs(2, episodes, mode="train", num_workers=0, worker_timeout=30.0)


@pytest.mark.parametrize("package", CASES)
def test_environments_of_a_known_package_are_a_suite(package: str) -> None:
    pytest.importorskip("dm_control" if package == "shimmy" else package)
    name, settings, expected = CASES[package]
    for wrapper in settings.get("wrappers", ()):
        trust_module(wrapper.partition(":")[0])
    config = GymnasiumSuite.Config(**settings)
    suite = GymnasiumSuite(name, config, 1)
    assert suite.spec.observation_space.shape == (expected["observations"],)
    assert suite.spec.score == expected["score"]
    assert package.replace("_", "-") in suite.spec.settings
    with make_envs(suite, 1) as envs, make_envs(suite, 2) as resumed:
        envs.reset()
        for _ in range(5):
            observation = envs.step(np.full_like(envs._actions[:, 0], 0)).observation
        assert envs.replays_exactly
        assert resumed.load_state(envs.state()).tobytes() == observation.tobytes()


def test_minigrid_asks_for_a_wrapper_and_a_time_limit() -> None:
    pytest.importorskip("minigrid")
    with pytest.raises(BadInput, match=r"Dict \(with 'mission' MissionSpace\).*FilterObservation.*--suite\.wrappers"):
        GymnasiumSuite("gym:MiniGrid-Empty-5x5-v0", GymnasiumSuite.Config(), 1)


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("MiniGrid-Empty-5x5-v0", "minigrid"),
        ("dm_control/cartpole-balance-v0", "dm-control"),
        ("FetchReach-v4", "gymnasium-robotics"),
    ],
)
def test_a_package_that_is_not_installed_is_named(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in CASES:
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("gymnasium.registry", {})
    with pytest.raises(BadInput, match=rf"environment '{name}' needs the package .*mtrl-suite\[{extra}\]"):
        GymnasiumSuite(f"gym:{name}", GymnasiumSuite.Config(), 1)


def test_a_video_of_an_episode_of_minigrid() -> None:
    pytest.importorskip("minigrid")
    trust_module("minigrid.wrappers")
    config = GymnasiumSuite.Config(wrappers=("minigrid.wrappers:ImgObsWrapper",), max_episode_steps=3)
    suite = GymnasiumSuite("gym:MiniGrid-Empty-5x5-v0", config, 1)
    frames, _, success = suite.render_episode(0, 0, lambda observation: np.int64(2))
    assert not success
    assert len(frames) == 4
    assert frames[0].shape[2] == 3
    assert frames[0].dtype == np.uint8
