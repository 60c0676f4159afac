"""The benchmark of distillation measures students of one and of many teachers against SAC."""

from __future__ import annotations

from benchmarks.updates.distillation import measure_updates, report
from benchmarks.updates.sac import UpdateSizes


def test_every_student_is_measured_against_sac() -> None:
    small = UpdateSizes(suite="point-mass", batch_size=32)
    architecture = {"name": "mlp", "width": 16, "depth": 1}
    times = measure_updates(small, architecture, "point-mass:{task}", repeats=1, updates_per_repeat=1)
    assert times["sac"].ratio_to(times["sac"]).values == (1.0,)
    assert all(name in report(times) for name in ("distill", "distill, features", "distill, one teacher"))
