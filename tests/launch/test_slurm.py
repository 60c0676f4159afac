"""The engine for Slurm with submitit's processes on this machine in place of a cluster."""

from __future__ import annotations

import re
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from mtrl.checkpoints.store import CheckpointStore
from mtrl.cli.main import main
from mtrl.errors import BadInput
from mtrl.launch.processes import ChildRun, run_all
from mtrl.launch.slurm_engine import SlurmEngine
from mtrl.launch.sweep import as_it_stands
from mtrl.launch.sweep_file import Sweep
from mtrl.training import run
from tests.launch.sweep_files import write_sweep
from tests.training.tiny_runs import differences, final_state, log_rows, tiny_config

pytest.importorskip("submitit")

TOTAL = 1600


@pytest.mark.slow
def test_a_preempted_job_is_queued_again_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    alone = tiny_config(total_env_steps=TOTAL, checkpoint_interval=80)  # also registers what the file names
    assert run.train(alone, tmp_path / "alone") == 0
    (planned,) = Sweep(write_sweep(tmp_path, flags={"total-env-steps": TOTAL})).runs()
    child = as_it_stands(planned)
    assert isinstance(child, ChildRun)
    engine = SlurmEngine(1, tmp_path / "runs" / "slurm", {}, cluster="local")
    preempted: list[int] = []

    def preempt() -> None:
        store, deadline = CheckpointStore(planned.run_dir / "checkpoints"), time.monotonic() + 300
        while not store.steps() and time.monotonic() < deadline:
            time.sleep(0.02)
        (task,) = [
            process
            for process in psutil.Process(engine._jobs["seed-1"]._process.pid).children(recursive=True)
            if "submitit.core._submit" in process.cmdline()
        ]
        task.send_signal(signal.SIGUSR2)
        preempted.append(store.steps()[-1])

    sender = threading.Thread(target=preempt)
    sender.start()
    assert run_all([child], engine) == 0
    sender.join()
    assert 0 < preempted[0] < TOTAL
    log = child.log.read_text()
    assert "stopped (SIGTERM)" in log
    first, second = re.findall(r"^\S+: mtrl train .*$", log, re.MULTILINE)
    assert "--resume" not in first
    assert "--resume" in second
    assert differences(final_state(tmp_path / "alone"), final_state(planned.run_dir)) == []
    assert log_rows(tmp_path / "alone") == log_rows(planned.run_dir)


def test_what_slurm_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = write_sweep(tmp_path, resources={"memory_gib": 1})
    assert main(["sweep", str(sweep), "--engine", "slurm"]) == 2
    assert capsys.readouterr().err.startswith("error: slurm: ")
    engine = SlurmEngine(None, tmp_path / "runs" / "slurm", {"partitoin": "gpu"}, cluster="local")
    with pytest.raises(BadInput, match="partitoin"):
        engine.start([as_it_stands(Sweep(sweep).runs()[0])])
