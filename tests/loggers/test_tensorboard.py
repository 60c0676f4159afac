"""TensorBoard curves can be read back, and a fault of TensorBoard harms no run."""

from __future__ import annotations

import logging
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mtrl.loggers.tensorboard import TensorBoardLogger

ROOT = Path(__file__).parents[2]


def test_tensorboard_curves_can_be_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = TensorBoardLogger(tmp_path / "tb")
    for env_steps in (10, 20):
        curves.on_metrics({"env_steps": env_steps, "train_return": {"reach-v3": env_steps / 2}})
    curves.close()
    points = EventAccumulator(str(tmp_path / "tb")).Reload().Scalars("train_return/reach-v3")
    assert [(point.step, point.value) for point in points] == [(10, 5.0), (20, 10.0)]


def test_points_after_the_checkpoint_of_a_resume_are_replaced(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resumed_at, steps in ((None, (10, 20, 30)), (15, (20, 40))):
        curves = TensorBoardLogger(tmp_path / "tb", resumed_at)
        for env_steps in steps:
            curves.on_metrics({"env_steps": env_steps, "loss": env_steps + (resumed_at or 0)})
        curves.close()
    points = EventAccumulator(str(tmp_path / "tb")).Reload().Scalars("loss")
    assert [(point.step, point.value) for point in points] == [(10, 10.0), (20, 35.0), (40, 55.0)]


def fill_the_disk() -> int:
    """No file may grow any more: what a full disk looks like to one process."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    return 0


def use_up_the_descriptors() -> int:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    return 0


@pytest.mark.parametrize("exhaust", [fill_the_disk, use_up_the_descriptors])
def test_a_full_disk_and_few_descriptors_are_one_warning(tmp_path: Path, exhaust: Callable[[], int]) -> None:
    script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import tensorboard.summary.writer.record_writer, tensorboard.compat.proto.event_pb2
from pathlib import Path
from tests.loggers.test_tensorboard import {exhaust.__name__}, TensorBoardLogger
curves = TensorBoardLogger(Path("tb"))
{exhaust.__name__}()
for env_steps in range(20):
    curves.on_metrics({{"env_steps": env_steps, "loss": 1.0}})
curves.close()
"""
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("no TensorBoard curves in 'tb': OSError")


def test_a_broken_tensorboard_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tb").write_text("in the way")
    curves = TensorBoardLogger(tmp_path / "tb")
    with caplog.at_level(logging.WARNING):
        for env_steps in range(3):
            curves.on_metrics({"env_steps": env_steps, "loss": 1.0})
    curves.close()
    assert len(caplog.records) == 1
    assert "no TensorBoard curves" in caplog.text
