"""The command under torchrun, as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtrl.cli.main import main
from mtrl.config.schema import dump_yaml
from tests.cli.commands import call
from tests.training.tiny_runs import final_state, log_rows, tiny_config


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "mtrl"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=300, check=False, env=environment
    )


@pytest.mark.slow
def test_a_run_is_trained_and_resumed(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(dump_yaml(tiny_config(total_env_steps=320, eval_interval=0)))
    run = str(tmp_path / "run")
    done = torchrun("train", "--config", str(config), "--run-dir", run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained for 320 env steps") == 1  # by rank 0 alone
    done = torchrun("train", "--resume", run, "--total-env-steps", "480")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained for 480 env steps") == 1
    assert final_state(tmp_path / "run")["step"] == 480
    assert [row.env_steps for row in log_rows(tmp_path / "run")[1]] == [320] * 4 + [480] * 4
    assert main(["eval", run, "--episodes-per-task", "2"]) == 0


THREADS_LEFT = """
from pathlib import Path
from mtrl.data_parallel.ranks import joined
with joined():
    import torch._dynamo  # as the first step of an optimiser does
print(*(thread.joinpath("comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the names of threads are read from /proc")
def test_a_rank_that_has_left_has_no_thread_of_the_group() -> None:
    """One that frees a tensor while Python ends would abort the process, after all work was done."""
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    environment = os.environ | ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "OMP_NUM_THREADS": "1"}
    threads = subprocess.check_output([sys.executable, "-c", THREADS_LEFT], text=True, env=environment)
    assert "python" in threads
    assert "gloo" not in threads


@pytest.mark.slow
def test_a_wrong_flag_is_one_line(tmp_path: Path) -> None:
    done = torchrun("train", "--suite", "point-mass", "--agent.batch-size", "0", "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 1  # what torchrun makes of it
    assert done.stderr.count("error: agent.batch_size: 0 is not allowed") == 1


@pytest.mark.parametrize("verb", ["eval", "report", "train"])
def test_what_is_no_single_run_is_refused(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    if verb == "train":
        from mtrl.cli.commands import train

        # As on a rank that has joined the others.
        monkeypatch.setattr(train, "launched", lambda: False)
        finished = call("train", "--suite", "point-mass", "--seeds", "1", "2")
    else:
        finished = call(verb, "runs/a")
    what = "--seeds" if verb == "train" else f"mtrl {verb}"
    line = f"error: torchrun trains one run with several processes; it cannot be combined with {what}\n"
    assert (finished.code, finished.error) == (2, line)
    monkeypatch.setenv("RANK", "1")  # which leaves it to rank 0
    assert call("eval", "runs/a") == (2, "", "")
