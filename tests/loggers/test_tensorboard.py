"""TensorBoard curves can be read back, and a fault of TensorBoard harms no run."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from mtrl.loggers.chosen import GuardedLogger
from mtrl.loggers.metric_logger import LoggedRun
from mtrl.loggers.tensorboard import CELL, TensorBoardLogger, cosines


def test_tensorboard_curves_can_be_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = TensorBoardLogger(LoggedRun(tmp_path, ""), None)
    for env_steps in (10, 20):
        curves.on_metrics({"env_steps": env_steps, "train/return/reach-v3": env_steps / 2})
    curves.close()
    points = EventAccumulator(str(tmp_path / "tb")).Reload().Scalars("train/return/reach-v3")
    assert [(point.step, point.value) for point in points] == [(10, 5.0), (20, 10.0)]


def test_cosines_are_a_picture(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    row = {"env_steps": 10, "critic/cosine/a": [1.0, -1.0], "critic/cosine/b": [-1.0, float("nan")]}
    (picture,) = cosines(row).values()
    assert picture[::CELL, ::CELL].tolist() == [[[0, 0, 255], [255, 0, 0]], [[255, 0, 0], [255, 255, 255]]]
    curves = TensorBoardLogger(LoggedRun(tmp_path, ""), None)
    curves.on_metrics(row)
    curves.close()
    assert EventAccumulator(str(tmp_path / "tb")).Reload().Tags()["images"] == ["critic/cosine"]


def test_a_broken_tensorboard_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tb").write_text("in the way")
    curves = GuardedLogger("tensorboard", TensorBoardLogger(LoggedRun(tmp_path, ""), None))
    with caplog.at_level(logging.WARNING):
        for env_steps in range(3):
            curves.on_metrics({"env_steps": env_steps, "loss": 1.0})
    curves.close()
    assert len(caplog.records) == 1
    assert "logger 'tensorboard' has stopped" in caplog.text


@pytest.mark.slow
def test_a_full_disk_is_one_warning_without_a_traceback(tmp_path: Path) -> None:
    program = """
import resource, signal, sys, time
from pathlib import Path
from mtrl.loggers.chosen import GuardedLogger
from mtrl.loggers.metric_logger import LoggedRun
from mtrl.loggers.tensorboard import TensorBoardLogger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
curves = GuardedLogger("tensorboard", TensorBoardLogger(LoggedRun(Path(sys.argv[1]), ""), None))
curves.on_metrics({"env_steps": 0, "loss": 1.0})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
start = time.time
time.time = lambda: start() + 1000  # long enough for TensorBoard's thread to write
for env_steps in range(60):
    curves.on_metrics({"env_steps": env_steps, **{f"loss_{index}": 1.0 for index in range(50)}})
    time.sleep(0.002)
curves.close()
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stderr.count("logger 'tensorboard' has stopped") == 1
    assert "Traceback" not in done.stderr


def test_tensorboard_shows_the_configuration_and_all_tasks_in_one_chart(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2

    curves = TensorBoardLogger(LoggedRun(tmp_path, "suite:\n  name: mt3\n"), None)
    curves.on_evaluation([], {"env_steps": 10, "eval/kind": "final", "eval/success_rate/reach-v3": 1.0})
    curves.close()
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert events.Scalars("eval/success_rate/reach-v3")[0].value == 1.0
    (config,) = events.Tensors("config/text_summary")
    assert config.tensor_proto.string_val[0].decode() == "    suite:\n      name: mt3\n"
    (stored,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(stored.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert charts["success rate"] == ["eval/success_rate/.*"]
