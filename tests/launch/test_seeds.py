"""`mtrl train --seeds`: one run directory each, resumed by the same command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtrl import registry
from mtrl.checkpoints.store import CheckpointStore
from mtrl.cli.main import main
from mtrl.config.schema import dump_yaml
from mtrl.training import run
from tests.training.tiny_runs import differences, final_state, log_rows, tiny_config

TINY = [
    *("--suite", "point-mass", "--architecture", "mlp", "--architecture.width", "16", "--architecture.depth", "1"),
    *("--agent.batch-size", "32", "--agent.learning-starts", "80", "--num-envs", "8", "--num-workers", "0"),
    *("--torch-threads", "1", "--log-interval", "80", "--checkpoint-interval", "80", "--eval-interval", "400"),
    *("--eval-episodes-per-task", "2", "--final-eval-episodes-per-task", "2"),
]


def test_seeds_are_the_runs_that_each_of_them_would_be_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a folder"
    (folder / "seed-7").mkdir(parents=True)
    (folder / "seed-7" / "notes").write_text("of the user")
    seeds = ["--seeds", "7", "2", "--jobs", "2", "--run-dir", str(folder)]
    assert main(["train", *TINY, *seeds, "--total-env-steps", "160"]) == 2
    assert "has seed-7; use --resume" in capsys.readouterr().err
    assert main(["train", *TINY, *seeds, "--total-env-steps", "160", "--overwrite"]) == 2
    output = capsys.readouterr().out
    assert f"seed-7 failed (exit code 2): '{folder}/seed-7' is not empty and not a run directory" in output
    assert f"go on: mtrl train --resume '{folder}' --seeds 7" in output
    assert (folder / "seed-7" / "notes").read_text() == "of the user"
    assert "<h2>point-mass</h2>" in (folder / "report.html").read_text()
    alone = tiny_config(total_env_steps=160, seed=2, checkpoint_interval=80)
    assert run.train(alone, tmp_path / "alone") == 0
    assert differences(final_state(tmp_path / "alone"), final_state(folder / "seed-2")) == []
    assert log_rows(tmp_path / "alone") == log_rows(folder / "seed-2")


@pytest.mark.slow
def test_seeds_of_other_settings_are_not_added_to_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "seed-1").mkdir()
    (tmp_path / "seeds.yaml").write_text(dump_yaml(tiny_config(num_workers=1, max_hours=1.0, seed=1)))
    command = ["train", *TINY, "--run-dir", str(tmp_path), "--total-env-steps", "80", "--checkpoint-interval", "320"]
    assert main([*command, "--seeds", "2"]) == 2
    assert "seeds of other settings, where total_env_steps is 1600, not 80" in capsys.readouterr().err
    command += ["--total-env-steps", "1600"]
    assert main([*command, "--seeds", "2", "--agent.learning-rate", "0.01"]) == 2
    assert "seeds of other settings, where agent.learning_rate is 0.0003, not 0.01" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupt_stops_all_of_them_and_they_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = ["--seeds", "1", "2"]
    total = ["--total-env-steps", "100000", "--run-dir", str(tmp_path)]
    started = subprocess.Popen(
        [sys.executable, "-m", "mtrl", "train", *TINY, *seeds, "--jobs", "1", *total],
        stdout=subprocess.PIPE,
        text=True,
        # A signal that the test suite was started to ignore would stay ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "seed-1" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(started.pid, signal.SIGINT)
    output, _ = started.communicate(timeout=60)
    assert started.returncode == 130, output
    assert f"go on: mtrl train --resume {tmp_path} --seeds 1 2" in output
    assert not (tmp_path / "seed-2").exists()
    step = CheckpointStore(tmp_path / "seed-1" / "checkpoints").steps()[-1]
    assert 0 < step < 100_000
    resume = ["train", "--resume", str(tmp_path), *seeds, f"--total-env-steps={step + 80}"]
    assert main([*resume, "--jobs", "2"]) == 0
    for seed in (1, 2):
        assert final_state(tmp_path / f"seed-{seed}")["step"] == step + 80
    alone = tiny_config(total_env_steps=step + 80, checkpoint_interval=80)
    assert run.train(alone, tmp_path / "alone") == 0
    assert differences(final_state(tmp_path / "alone"), final_state(tmp_path / "seed-1")) == []
    # What is complete is left alone.
    capsys.readouterr()
    assert main(resume) == 0
    assert "seed-1 is complete\nseed-2 is complete\n" in capsys.readouterr().out


@pytest.mark.slow
def test_an_extension_whose_hours_are_over_goes_on_to_its_own_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TINY, "--seeds", "1", "--run-dir", str(tmp_path), "--total-env-steps", "160"]) == 0
    resume = ["train", "--resume", str(tmp_path), "--seeds", "1"]
    capsys.readouterr()
    assert main([*resume, "--total-env-steps", "240", "--max-hours", "1e-7"]) == 0
    output = capsys.readouterr().out
    assert "seed-1: stopped" in output
    assert f"go on: mtrl {' '.join(resume)} --total-env-steps 240 --max-hours 1e-07" in output
    assert "report:" not in output
    assert main([*resume, "--max-hours", "1"]) == 0
    assert "complete" not in capsys.readouterr().out
    assert final_state(tmp_path / "seed-1")["step"] == 240
    assert main(resume) == 0
    assert "seed-1 is complete" in capsys.readouterr().out


@pytest.mark.slow
def test_the_ways_on_name_the_plugins_and_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "_trusted_modules", {})
    (tmp_path / "own_net.py").write_text("from mtrl.networks import architectures\nOwn = architectures.get('mlp')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    new = ["--run-dir", "runs", "--architecture", "own_net:Own", "--no-check-plugins", "--total-env-steps", "160"]
    assert main(["train", *TINY, *new, "--seeds", "1", "--jobs", "2", "--max-hours", "1e-7"]) == 0
    told = "mtrl train --resume runs --seeds 1 --jobs=2 --plugin=own_net"
    assert f"go on: {told}\n" in capsys.readouterr().out
    log = tmp_path / "runs" / "seed-1.log"
    assert "go on: mtrl train --resume runs/seed-1 --plugin own_net\n" in log.read_text()
    assert main([*told.split()[1:], "--max-hours", "1"]) == 0
    assert "next: mtrl eval runs/seed-1 --plugin own_net\n" in log.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1", "1"], "--seeds: 1 1 is not allowed"),
        (["--seeds", "-1"], "seed"),
        (["--seeds", "one"], "invalid int value: 'one'"),
        (["--seeds", "1", "--seed", "2"], "--seed cannot be combined with --seeds"),
        (["--seeds", "1", "--jobs", "0"], "--jobs: 0"),
        (["--jobs", "2"], "--jobs needs --seeds"),
        (["--resume", "nowhere", "--seeds", "1"], "seeds.yaml"),
        (["--resume", "nowhere", "--jobs", "1"], "--jobs needs --seeds"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    suite = [] if "--resume" in arguments else ["--suite", "point-mass", "--run-dir", "runs"]
    assert main(["train", *suite, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
