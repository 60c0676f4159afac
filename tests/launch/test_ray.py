"""`mtrl sweep --engine ray` on a local cluster of two nodes, one of which is killed while its run trains."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mtrl.checkpoints.store import CheckpointStore
from mtrl.cli.main import main
from mtrl.training import run
from tests.launch.sweep_files import write_sweep
from tests.training.tiny_runs import differences, final_state, log_rows, tiny_config

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

TOTAL = 2400


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores, and two nodes with a core each."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or a token would be left in the home directory
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()


def kill_the_node_of(run_dir: Path, steps: list[int]) -> None:
    """Once there is a checkpoint; its step is added to `steps`."""
    store, deadline = CheckpointStore(run_dir / "checkpoints"), time.monotonic() + 300
    while not store.steps() and time.monotonic() < deadline:
        time.sleep(0.02)
    trainer = psutil.Process(json.loads((run_dir / "meta.json").read_text())["pid"])
    (raylet,) = [parent for parent in trainer.parents() if parent.name() == "raylet"]
    raylet.kill()
    psutil.wait_procs([raylet], timeout=60)
    steps += store.steps()[-1:]


def test_a_run_whose_node_dies_ends_on_another_with_the_same_bits(
    tmp_path: Path, cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep(tmp_path, flags={"total-env-steps": TOTAL}, resources={"cpus": 1, "memory_gib": 0.1})
    run_dir, steps = tmp_path / "runs" / "seed-1", list[int]()
    killer = threading.Thread(target=kill_the_node_of, args=(run_dir, steps))
    killer.start()
    code = main(["sweep", str(sweep), "--engine", "ray", "--ray-address", cluster.address])
    killer.join()
    assert code == 0
    assert 0 < steps[0] < TOTAL
    first, second = [
        line for line in run_dir.with_name("seed-1.log").read_text().splitlines() if ": mtrl train" in line
    ]
    assert "--resume" not in first
    assert "--resume" in second
    assert "report:" in capsys.readouterr().out
    alone = tiny_config(total_env_steps=TOTAL, checkpoint_interval=80)
    assert run.train(alone, tmp_path / "alone") == 0
    assert differences(final_state(tmp_path / "alone"), final_state(run_dir)) == []
    assert log_rows(tmp_path / "alone") == log_rows(run_dir)


def test_an_address_without_a_cluster_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--engine", "ray", "--ray-address", "no-such-scheme://x"]
    assert main(["sweep", str(write_sweep(tmp_path)), *arguments]) == 2
    error = capsys.readouterr().err
    assert "cannot connect to Ray at 'no-such-scheme://x'" in error
    assert error.count("\n") == 1
