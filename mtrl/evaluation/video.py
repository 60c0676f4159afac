"""Videos of episodes: MP4 (H.264) where imageio-ffmpeg is installed, animated pictures (GIF) elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtrl.agent import Agent
from mtrl.checkpoints.files import storage_faults
from mtrl.env.suite import Suite
from mtrl.evaluation.evaluator import played_variations
from mtrl.evaluation.protocol_policy import ActionRule, protocol_policy

if TYPE_CHECKING:
    from PIL import Image

MILLISECONDS_PER_FRAME = 60
MP4_HEIGHT = 480
"""Pixels of the picture, above its caption."""
CAPTION_HEIGHT = 52
"""Pixels, of two lines."""
FONT_SIZES = range(16, 7, -1)


def write_videos(agent: Agent, suite: Suite, seed: int, folder: Path, env_steps: int) -> Iterator[Path]:
    """Films one episode of every task by the evaluated policy; yields each file written.

    It is on the variation that an evaluation with `seed` plays first. env_steps: of training, for caption and name
    (`TASK-step_N-success`). No random number of the training is drawn.
    Raises BadInput if the suite or this machine cannot render, StorageFailure.
    """
    for task in suite.spec.tasks:
        policy, task_ids = protocol_policy(agent, suite.spec, seed), np.array([task.index])

        def act(observation: np.ndarray, policy: ActionRule = policy, task_ids: np.ndarray = task_ids) -> np.ndarray:
            return policy(observation[None], task_ids)[0]

        (variation,) = played_variations(task, seed, 1)
        frames, return_, success = suite.render_episode(task.index, variation, act)
        outcome = "success" if success else "failure"
        caption = f"{task.name}\nstep {env_steps:,}   return {return_:,.1f}   {outcome}"
        yield write_video(frames, caption, folder / f"{task.name}-step_{env_steps}-{outcome}")


def write_video(frames: Sequence[np.ndarray], caption: str, path: Path) -> Path:
    """Frames (height, width, 3) uint8 and a caption of one or two lines, which an MP4 shows below the picture.

    Returns `path` with the suffix of the format. Raises StorageFailure.
    """
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    try:
        import imageio_ffmpeg
    except ImportError:
        return _write_gif(pictures, path.with_name(f"{path.name}.gif"))
    path = path.with_name(f"{path.name}.mp4")
    pictures = [_captioned(picture, caption) for picture in pictures]
    with storage_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = imageio_ffmpeg.write_frames(
            str(path), pictures[0].size, fps=1000 / MILLISECONDS_PER_FRAME, codec="libx264", macro_block_size=2
        )
        writer.send(None)
        for picture in pictures:
            writer.send(picture.tobytes())
        writer.close()
    return path


def _captioned(picture: Image.Image, caption: str) -> Image.Image:
    """As high as a video is, both sides even as H.264 has them, with the caption below."""
    from PIL import Image, ImageDraw

    width = 2 * round(picture.width * MP4_HEIGHT / picture.height / 2)
    canvas = Image.new("RGB", (width, MP4_HEIGHT + CAPTION_HEIGHT))
    # Whole multiples keep the pixels of small screens sharp.
    sharp = MP4_HEIGHT % picture.height == 0
    canvas.paste(picture.resize((width, MP4_HEIGHT), Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(canvas)
    boxes = {size: draw.textbbox((8, MP4_HEIGHT + 6), caption, font_size=size) for size in FONT_SIZES}
    size = next((size for size, box in boxes.items() if box[2] <= width - 8), FONT_SIZES[-1])
    draw.text((8, MP4_HEIGHT + 6), caption, font_size=size)
    return canvas


def _write_gif(pictures: Sequence[Image.Image], path: Path) -> Path:
    with storage_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=MILLISECONDS_PER_FRAME, loop=0)
    return path
