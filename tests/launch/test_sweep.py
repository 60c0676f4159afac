"""`mtrl sweep` on this machine: killed, repeated, and with what stands in the way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from mtrl.checkpoints.store import CheckpointStore
from mtrl.cli.main import main
from mtrl.launch.processes import ChildRun, Needs
from mtrl.launch.resources import needs, room
from mtrl.launch.run_status import read_status
from mtrl.launch.sweep import Options, as_it_stands, sweep_command
from mtrl.launch.sweep_file import Resources, Sweep
from mtrl.optim import cpu
from mtrl.training import run
from tests.launch.sweep_files import write_sweep
from tests.training.tiny_runs import differences, final_state, log_rows, tiny_config


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_when_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep, folder = write_sweep(tmp_path, flags={"total-env-steps": 1600}, seeds=[1, 2]), tmp_path / "runs"
    started = subprocess.Popen([sys.executable, "-m", "mtrl", "sweep", str(sweep), "--jobs", "1"])
    wait_for(lambda: CheckpointStore(folder / "seed-1" / "checkpoints").steps())
    started.kill()
    started.wait()
    # Its run died with it: the lock is free.
    with FileLock(folder / "seed-1" / "lock", timeout=60):
        step = CheckpointStore(folder / "seed-1" / "checkpoints").steps()[-1]
    assert 0 < step < 1600
    assert not (folder / "seed-2").exists()
    wait_for(lambda: read_status(folder / "seed-1").status == "interrupted")

    # Meanwhile the file says something else: fewer env steps are another run, more are not.
    write_sweep(tmp_path, flags={"total-env-steps": step + 80, "agent.discount": 0.5}, seeds=[1, 2])
    assert main(["sweep", str(sweep)]) == 2
    error = capsys.readouterr().err
    assert "has a run of another configuration: agent.discount is 0.99, not 0.5" in error
    assert error.count("\n") == 1
    write_sweep(tmp_path, flags={"total-env-steps": step + 80}, seeds=[1, 2])
    assert main(["sweep", str(sweep)]) == 2
    assert f"total_env_steps is 1600, not {step + 80}" in capsys.readouterr().err
    write_sweep(tmp_path, flags={"total-env-steps": 1680}, seeds=[1, 2])
    assert main(["sweep", str(sweep), "--jobs", "2"]) == 0
    output = capsys.readouterr().out
    assert "report:" in output
    assert "<h2>point-mass</h2>" in (folder / "report.html").read_text()
    alone = tiny_config(total_env_steps=1680, checkpoint_interval=80)
    assert run.train(alone, tmp_path / "alone") == 0
    assert differences(final_state(tmp_path / "alone"), final_state(folder / "seed-1")) == []
    assert log_rows(tmp_path / "alone") == log_rows(folder / "seed-1")

    # What is done is left alone; what has failed is said, and tried again on demand.
    log = (folder / "seed-1.log").read_text()
    meta = folder / "seed-2" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"status": "failed", "exit_code": 4}))
    capsys.readouterr()
    assert main(["sweep", str(sweep)]) == 4
    output = capsys.readouterr().out
    assert "1 of 2 runs is done already" in output
    assert "seed-2 has failed before (exit code 4)" in output
    assert main(["sweep", str(sweep), "--retry-failed"]) == 0
    assert (folder / "seed-1.log").read_text() == log
    assert json.loads(meta.read_text())["status"] == "done"
    capsys.readouterr()
    assert main(["sweep", str(sweep)]) == 0
    assert "2 of 2 runs are done already" in capsys.readouterr().out


def test_a_resumed_run_gets_the_settings_that_the_file_names_now(tmp_path: Path) -> None:
    tiny_config()  # registers what the file names
    (tmp_path / "base.yaml").write_text("device: cpu\nseed: 4\n")
    flags = {"max-hours": 2, "num-workers": 3, "worker-timeout": 9, "config": str(tmp_path / "base.yaml")}
    run = as_it_stands(Sweep(write_sweep(tmp_path, flags=flags)).runs()[0])
    assert isinstance(run, ChildRun)
    assert run.resume is not None
    given = ["--max-hours=2.0", "--num-workers=3", "--worker-timeout=9.0", "--device=cpu"]
    assert run.resume[2:] == [str(tmp_path / "runs" / "seed-1"), "--total-env-steps=160", *given]
    plain = as_it_stands(Sweep(write_sweep(tmp_path, flags={"num-workers": None})).runs()[0])
    assert isinstance(plain, ChildRun)
    assert plain.resume == [*run.resume[:3], "--total-env-steps=160"]


def test_the_way_on_has_the_flags_that_a_sweep_was_given(tmp_path: Path) -> None:
    sweep = Sweep(write_sweep(tmp_path), ["own_net"])
    assert sweep_command(sweep, Options()) == f"mtrl sweep {tmp_path}/sweep.yaml --plugin=own_net"
    told = sweep_command(sweep, Options("ray", 2, "head:6379", retry_failed=True), "--trials", "3")
    assert told == (
        f"mtrl sweep {tmp_path}/sweep.yaml --trials 3 "
        "--engine=ray --jobs=2 --ray-address=head:6379 --retry-failed --plugin=own_net"
    )


@pytest.mark.slow
def test_a_folder_of_the_user_is_left_alone_and_stops_no_other_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, folder = write_sweep(tmp_path, seeds=[1, 2]), tmp_path / "runs"
    (folder / "seed-1").mkdir(parents=True)
    (folder / "seed-1" / "notes").write_text("of the user")
    assert main(["sweep", str(sweep), "--jobs", "2"]) == 2
    output = capsys.readouterr().out
    assert f"seed-1 failed (exit code 2): '{folder}/seed-1' is not empty and not a run directory" in output
    assert (folder / "seed-1" / "notes").read_text() == "of the user"
    assert final_state(folder / "seed-2")["step"] == 160


def test_runs_are_as_many_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtrl.launch.resources.available_cores", lambda: 8)
    monkeypatch.setattr("mtrl.launch.resources.available_memory", lambda: 32 * 2**30)
    small, large = Needs(1, 0, 2**30), Needs(2, 0, 12 * 2**30)
    assert (room([small]), room([small, large]), room([Needs(16, 0, 2**40)])) == (8, 2, 1)
    tiny = needs(tiny_config(num_workers=3, torch_threads=2), Resources())
    assert (tiny.cpus, tiny.gpus) == (3, 0)
    assert 2**30 < tiny.num_bytes < 2**32
    asked = needs(tiny_config(), Resources(cpus=4, gpus=0.5, memory_gib=8))
    assert asked == Needs(4, 0.5, 8 * 2**30)


def test_a_run_that_is_lost_again_and_again_without_a_checkpoint_fails(tmp_path: Path) -> None:
    lost = ChildRun("a", tmp_path / "a", ["train"], tmp_path / "a.log", 100, ["train", "--resume"])
    for _ in range(2):
        lost.started, lost.exit_code = True, 137
        assert lost.again()
        assert (lost.state, lost.command()) == ("waiting", ["train"])
    lost.exit_code = 137
    assert not lost.again()
    assert lost.state == "failed"


def test_a_process_ends_with_its_parent() -> None:
    child = (
        "import os, time; from mtrl.optim.cpu import end_with_parent; end_with_parent();"
        "print(os.getpid(), flush=True); time.sleep(300)"
    )
    parent = (
        "import os, subprocess, sys, time;"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], env={{**os.environ, {cpu.PARENT!r}: str(os.getpid())}});"
        "time.sleep(300)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text())
