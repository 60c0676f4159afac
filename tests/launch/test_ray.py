"""`mtrl sweep --engine ray` on a local cluster of two nodes, one of which is killed while its run trains."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mtrl.checkpoints.store import CheckpointStore
from mtrl.cli.main import main
from mtrl.launch.processes import ChildRun, run_all
from mtrl.training import run
from tests.launch.sweep_files import write_sweep
from tests.training.tiny_runs import differences, final_state, log_rows, tiny_config

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

TOTAL = 4000
FLAGS = {"total-env-steps": TOTAL}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores, and two nodes with one core each."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or a token would be left in the home directory
    options = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **options})
    made.nodes = [made.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_run_whose_node_dies_ends_on_another_with_the_same_bits(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resources = {"cpus": 1, "memory_gib": 0.1}
    sweep = write_sweep(tmp_path, flags=FLAGS, seeds=[1, 2], resources=resources)
    killed: list[int] = []

    def kill_the_node_of_seed_1() -> None:
        run_dir = tmp_path / "runs" / "seed-1"
        store = CheckpointStore(run_dir / "checkpoints")
        deadline = time.monotonic() + 300
        while not store.steps() and time.monotonic() < deadline:
            time.sleep(0.02)
        node = next(node for node in cluster.nodes if is_below(pid_of(run_dir), raylet(node)))
        killed.append(store.steps()[-1])
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill_the_node_of_seed_1)
    killer.start()
    assert main(["sweep", str(sweep), "--engine", "ray", "--ray-address", cluster.address]) == 0
    killer.join()
    assert 0 < killed[0] < TOTAL
    log = (tmp_path / "runs" / "seed-1.log").read_text()
    assert log.count(": mtrl train ") == 2
    assert "mtrl train --resume" in log
    assert "report:" in capsys.readouterr().out
    for seed in (1, 2):
        alone = tiny_config(total_env_steps=TOTAL, checkpoint_interval=80, seed=seed)
        assert run.train(alone, tmp_path / f"alone-{seed}") == 0
        there = tmp_path / "runs" / f"seed-{seed}"
        assert differences(final_state(tmp_path / f"alone-{seed}"), final_state(there)) == []
        assert log_rows(tmp_path / f"alone-{seed}") == log_rows(there)


def pid_of(run_dir: Path) -> int:
    import json

    return int(json.loads((run_dir / "meta.json").read_text())["pid"])
