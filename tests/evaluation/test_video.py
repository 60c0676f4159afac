"""Videos show the policy that is evaluated."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agents.sac import SAC
from envs.point_mass import PointMass
from mtrl.env.suite import RenderedEpisode
from mtrl.evaluation.evaluator import played_variations
from mtrl.evaluation.protocol_policy import protocol_policy
from mtrl.evaluation.video import write_video, write_videos
from mtrl.testing.small_runs import make_agent


class Filmed(PointMass):
    """Shows the same observation in every frame and notes the actions."""

    def __init__(self, samples_policy: bool):
        super().__init__("point-mass", PointMass.Config(), 1)
        self.spec = dataclasses.replace(self.spec, samples_policy=samples_policy)
        self.actions: list[list[np.ndarray]] = []
        self.variations: list[int] = []

    def render_episode(self, task: int, variation: int, act: Callable[[np.ndarray], np.ndarray]) -> RenderedEpisode:
        observation = np.array([0.1, 0.2], np.float32)
        self.variations.append(variation)
        self.actions.append([act(observation) for _ in range(5)])
        return RenderedEpisode([np.full((8, 8, 3), 40 * frame, np.uint8) for frame in range(5)], 1.5, task == 1)


@pytest.mark.parametrize("samples_policy", [True, False])
def test_a_video_shows_the_evaluated_policy(
    tmp_path: Path, samples_policy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    suite = Filmed(samples_policy)
    agent = make_agent(SAC, SAC.Config(), suite.spec)
    paths = list(write_videos(agent, suite, 7, tmp_path, 400))
    assert [path.name for path in paths] == [
        "goal-0.8-0.8-step_400-failure.gif",
        "goal-0.8+0.8-step_400-success.gif",
        "goal+0.8-0.8-step_400-failure.gif",
        "goal+0.8+0.8-step_400-failure.gif",
    ]
    assert Image.open(paths[0]).n_frames == 5  # type: ignore[attr-defined]
    for task, actions in enumerate(suite.actions):
        policy = protocol_policy(agent, suite.spec, 7)
        observation = np.array([[0.1, 0.2]], np.float32)
        expected = [policy(observation, np.array([task]))[0] for _ in actions]
        np.testing.assert_array_equal(actions, expected)
        assert (np.ptp(actions, axis=0) > 0).any() == samples_policy


@pytest.mark.parametrize("num_variations", [None, 3])
def test_a_video_is_of_the_first_episode_that_an_evaluation_with_its_seed_plays(
    tmp_path: Path, num_variations: int | None
) -> None:
    suite = Filmed(samples_policy=False)
    tasks = tuple(dataclasses.replace(task, num_variations=num_variations) for task in suite.spec.tasks)
    suite.spec = dataclasses.replace(suite.spec, tasks=tasks)
    agent = make_agent(SAC, SAC.Config(), suite.spec)
    for seed in (7, 99):
        list(write_videos(agent, suite, seed, tmp_path, 400))
    assert suite.variations == [played_variations(task, seed, 50)[0] for seed in (7, 99) for task in tasks]
    assert len(set(suite.variations)) == (1 if num_variations else 8)


def test_a_video_is_an_mp4_with_a_caption_where_there_is_an_encoder(tmp_path: Path) -> None:
    encoder = pytest.importorskip("imageio_ffmpeg")
    frames = [np.full((210, 160, 3), 50 * index, np.uint8) for index in range(5)]
    caption = "a-task-with-quite-a-long-name-of-words-v3\nstep 400   return 1.5   success"
    path = write_video(frames, caption, tmp_path / "videos" / "reach-v3")
    assert path == tmp_path / "videos" / "reach-v3.mp4"
    reader = encoder.read_frames(str(path))
    about = next(reader)
    pictures = [np.frombuffer(picture, np.uint8).reshape(532, 366, 3) for picture in reader]
    assert about["codec"] == "h264"
    assert about["source_size"] == (366, 532)
    assert len(pictures) == 5
    for index, picture in enumerate(pictures):
        assert abs(int(picture[200, 180, 0]) - 50 * index) < 8
        # Two lines of text, and a margin on their right.
        assert picture[485:503].max() > 150
        assert picture[508:530].max() > 150
        assert picture[485:530, 360:].max() < 50
