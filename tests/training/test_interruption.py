"""Which signals stop a run, and which were ignored from its start and stay so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mtrl.training import run
from mtrl.training.interruption import SIGNALS, Interruption
from tests.training.tiny_runs import final_state, in_child, tiny_config


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_a_run_in_good_order(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption
        os.kill(os.getpid(), number)
        assert interruption
        assert (interruption.reason, interruption.exit_code) == (number.name, 128 + number)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(tmp_path: Path, number: signal.Signals) -> None:
    config = tiny_config(total_env_steps=400, eval_interval=0, final_eval_episodes_per_task=0)

    def train() -> int:
        signal.signal(number, signal.SIG_IGN)
        return run.train(config, tmp_path / "run")

    assert in_child(train, at_progress=20, fault=number) == 0
    assert final_state(tmp_path / "run")["step"] == 400
    assert json.loads((tmp_path / "run" / "meta.json").read_text())["exit_code"] == 0


SENDS_ITSELF = """
import os, signal
from mtrl.training.interruption import Interruption
with Interruption() as interruption:
    os.kill(os.getpid(), signal.{name})
    print(bool(interruption))
"""


@pytest.mark.parametrize(
    ("name", "command"),
    [
        pytest.param("SIGHUP", 'nohup "$0" -c "$1" 2> /dev/null', marks=pytest.mark.slow),
        ("SIGINT", '"$0" -c "$1" & wait $!'),
        pytest.param("SIGINT", '"$0" -c "$1"', marks=pytest.mark.slow),
    ],
)
def test_nohup_and_the_background_of_a_script_ignore_what_they_are_known_to(name: str, command: str) -> None:
    script = SENDS_ITSELF.format(name=name)
    bash = ["bash", "-c", command, sys.executable, script]
    result = subprocess.run(bash, capture_output=True, text=True, timeout=60, check=True)
    ignores = "nohup" in command or "&" in command
    assert result.stdout == f"{not ignores}\n"
