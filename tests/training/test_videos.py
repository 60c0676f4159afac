"""Videos during training: they show the policy of their step, change nothing, and no fault of theirs ends a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from envs.point_mass import PointMass
from mtrl.env.suite import RenderedEpisode
from mtrl.errors import BadInput
from mtrl.training import run
from tests.training.tiny_runs import differences, final_state, in_child, log_rows, tiny_config


def filmed(suite: PointMass, task: int, variation: int, act: Callable[[np.ndarray], np.ndarray]) -> RenderedEpisode:
    for step in range(5):
        act(np.full(suite.spec.observation_space.shape, 0.1 * step, np.float32))
    return RenderedEpisode([np.full((8, 8, 3), 40 * step, np.uint8) for step in range(3)], 1.5, task == 1)


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PointMass, "render_episode", filmed)


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("agent", ["sac", "ppo"])
def test_a_run_with_videos_ends_in_the_same_bits(tmp_path: Path, agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"name": "ppo", "rollout_steps": 7, "epochs": 1, "minibatches": 2} if agent == "ppo" else {}
    for name, interval in (("plain", 0), ("filmed", 150)):
        config = tiny_config(agent=settings, total_env_steps=400, video_interval=interval)
        assert run.train(config, tmp_path / name) == 0
    assert differences(final_state(tmp_path / "plain"), final_state(tmp_path / "filmed")) == []
    assert differences(log_rows(tmp_path / "plain"), log_rows(tmp_path / "filmed")) == []
    assert not (tmp_path / "plain" / "videos").exists()
    names = {path.stem for path in (tmp_path / "filmed" / "videos").iterdir()}
    tasks = ("goal-0.8-0.8", "goal-0.8+0.8", "goal+0.8-0.8", "goal+0.8+0.8")
    assert names == {
        f"{task}-step_{step}-{'success' if index == 1 else 'failure'}"
        for step in (152, 304)
        for index, task in enumerate(tasks)
    }


@pytest.mark.usefixtures("pictures")
def test_an_interrupted_run_makes_the_videos_of_an_uninterrupted_one(tmp_path: Path) -> None:
    config = tiny_config(total_env_steps=400, checkpoint_interval=80, video_interval=150)
    assert run.train(config, tmp_path / "whole") == 0
    assert in_child(lambda: run.train(config, tmp_path / "killed"), at_progress=39) < 0
    assert run.resume(tmp_path / "killed", {}) == 0
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "videos").iterdir()}
        for name in ("whole", "killed")
    )
    assert len(first) == 8
    assert first == second


def test_a_renderer_that_breaks_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> RenderedEpisode:
        raise RuntimeError("no display\nat all")

    monkeypatch.setattr(PointMass, "render_episode", broken)
    with caplog.at_level(logging.WARNING):
        assert run.train(tiny_config(total_env_steps=400, video_interval=80), tmp_path / "run") == 0
    assert caplog.messages == ["no more videos, the run goes on: RuntimeError: no display at all"]


def test_a_suite_without_pictures_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="video_interval: suite 'point-mass' has no pictures"):
        run.train(tiny_config(video_interval=100), tmp_path / "run")
    assert not (tmp_path / "run").exists()
