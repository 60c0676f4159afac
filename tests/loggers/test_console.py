"""What a person sees of a run, and that looking changes nothing."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from mtrl.evaluation.evaluator import EvaluationResult
from mtrl.loggers import live_table
from mtrl.loggers.console import render_success, say, success_table
from mtrl.loggers.live_table import RECENT_EPISODES, LiveTable
from mtrl.runs.logs import EvaluationRow
from mtrl.types import FinishedEpisode, Progress
from tests.loggers.conftest import Clock

TASKS = ("reach-v3", "push-v3", "drawer-close-v3")
SHARES = [0.5, 0.3, 0.2]


def episode(task: int, success: bool, return_: float = 100.0) -> FinishedEpisode:
    return FinishedEpisode(slot=0, task=task, variation=0, return_=return_, length=50, success=success)


def progress(env_steps: int, episodes: Sequence[FinishedEpisode] = ()) -> Progress:
    return Progress(env_steps, env_steps, {}, tuple(episodes))


def evaluation(env_steps: int, rates: list[float]) -> list[EvaluationRow]:
    return [EvaluationRow(env_steps, task, 4, rate, 0.0, "periodic") for task, rate in zip(TASKS, rates, strict=True)]


def result(num_episodes: int = 4) -> EvaluationResult:
    successes = np.zeros((3, num_episodes), bool)
    successes[1, :1], successes[2] = True, True
    returns = np.arange(3.0)[:, None] * np.ones(num_episodes)
    settings = {"horizon": 500, "reward_function": "v2"}
    rates = successes.mean(1)
    return EvaluationResult("mt3", "metaworld-plus", settings, TASKS, successes, returns, rates, np.ones(3))


def drawn(renderable: Any, width: int = 100, height: int = 40) -> str:
    output = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    output.print(renderable)
    return output.file.getvalue()  # type: ignore[attr-defined]


def rows(text: str) -> dict[str, list[str]]:
    """Cells of the lines that begin with a task, by task."""
    split = [line.split() for line in text.splitlines()]
    return {cells[0]: cells[1:] for cells in split if cells and cells[0] in TASKS}


def terminal(height: int = 40) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, height=height, color_system=None)


def test_the_table_shows_recent_training_and_the_last_evaluation_of_every_task() -> None:
    table = LiveTable(TASKS, 1000)
    episodes = [episode(0, True)] * 3 + [episode(0, False, 200.0), episode(1, False)]
    table.on_progress(progress(10, episodes), SHARES)
    assert rows(drawn(table.render())) == {
        "reach-v3": ["0.75", "125.0", "4", "0.500"],
        "push-v3": ["0.00", "100.0", "1", "0.300"],
        "drawer-close-v3": ["-", "-", "0", "0.200"],
    }
    table.on_evaluation(evaluation(20, [0.1, 0.2, 0.3]), {})
    assert rows(drawn(table.render()))["push-v3"] == ["0.00", "100.0", "1", "0.20", "0.300"]


def test_old_episodes_are_forgotten() -> None:
    table = LiveTable(TASKS, 1000)
    table.on_progress(progress(10, [episode(0, True)] * 100), SHARES)
    table.on_progress(progress(20, [episode(0, False)] * RECENT_EPISODES), SHARES)
    assert rows(drawn(table.render()))["reach-v3"][::2] == ["0.00", "120"]


def test_the_rate_counts_the_steps_of_this_process_and_gives_the_time_left(clock: Clock) -> None:
    table = LiveTable(TASKS, 10_000)
    table.on_progress(progress(4000), SHARES)  # a resumed run begins here
    clock.now += 30
    table.on_progress(progress(4600), SHARES)
    text = drawn(table.render())
    assert "4,600 of 10,000 env steps (46.0%)  20 env steps/s  0:04:30 left  0:00:30 elapsed" in text


def test_many_tasks_stand_side_by_side_where_the_terminal_is_low() -> None:
    names = [f"task-{index}" for index in range(50)]
    table = LiveTable(names, 1000, terminal(height=24))
    text = drawn(table.render(), width=200)
    assert len(text.splitlines()) <= 24
    assert all(f" {name} " in text for name in names)


def test_without_a_terminal_plain_lines_come_at_intervals_that_grow(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with LiveTable(TASKS, 10_000_000) as table:
        for second in range(7200):
            clock.now += 1
            table.on_progress(progress(second * 100, [episode(0, True)]), SHARES)
        table.on_evaluation(evaluation(720_000, [0.5, 1.0, 0.0]), {})
    lines = capsys.readouterr().out.splitlines()
    assert 120 < len(lines) < 220
    assert all("env steps" in line for line in lines)
    assert "100 env steps/s" in lines[-2]
    assert "[reach-v3 1.00, push-v3 -, drawer-close-v3 -]" in lines[-2]
    assert lines[-1] == (
        "evaluation at 720,000 env steps: mean success 0.50 [reach-v3 0.50, push-v3 1.00, drawer-close-v3 0.00]"
    )
    assert not any("\x1b" in line for line in lines)


def test_on_a_terminal_the_table_is_drawn_twice_a_second_and_left_standing(clock: Clock) -> None:
    screen = terminal()
    with LiveTable(TASKS, 1000, screen) as table:
        for step in range(100):
            clock.now += 0.01
            table.on_progress(progress(step), SHARES)
        drawings = screen.file.getvalue().count("env steps (")  # type: ignore[attr-defined]
        assert 2 <= drawings <= 4
        table.on_progress(progress(1000, [episode(2, True)]), SHARES)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "1,000 of 1,000 env steps (100.0%)" in text  # the last state, also if it came too early to be drawn
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back
    table.stop()


def test_the_success_table_ends_with_the_mean_and_the_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    success_table(result(), "runs/a, last checkpoint (step 20)")
    text = capsys.readouterr().out
    assert text.splitlines()[0].rstrip() == "mt3: runs/a, last checkpoint (step 20)"
    assert rows(text) == {
        "reach-v3": ["0.00", "0/4", "0.0"],
        "push-v3": ["0.25", "1/4", "1.0"],
        "drawer-close-v3": ["1.00", "4/4", "2.0"],
    }
    [mean] = [line.split() for line in text.splitlines() if line.startswith(" mean of 3 ")]
    assert mean == ["mean", "of", "3", "0.417", "5/12", "1.0"]
    assert "protocol metaworld-plus: horizon 500, reward_function v2" in " ".join(text.split())


def test_markup_in_names_is_shown_as_it_is() -> None:
    table = LiveTable(["[red]x[/red]", "[/]"], 10)
    table.on_progress(progress(1), [0.5, 0.5])
    text = drawn(table.render())
    assert "[red]x[/red]" in text
    assert "[/]" in text
    assert "[bold]" in drawn(render_success(result(), "[bold]"))


def test_watching_draws_no_random_number() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with LiveTable(TASKS, 100, terminal()) as table:
        table.on_progress(progress(50, [episode(0, True)]), SHARES)
        table.on_evaluation(evaluation(50, [0.0, 0.5, 1.0]), {})
        drawn(table.render())
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after


class HangsUp(io.StringIO):
    """A terminal that is gone."""

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "Input/output error")])
def test_a_terminal_that_hangs_up_ends_the_output_and_not_the_run(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", HangsUp(error))
    monkeypatch.setattr(live_table, "_REFRESH_SECONDS", 0.0)
    with LiveTable(TASKS, 100, Console(file=sys.stdout, force_terminal=True)) as table:
        for step in range(3):
            table.on_progress(progress(step), SHARES)
        table.on_evaluation(evaluation(3, [0.0, 0.5, 1.0]), {})
    say("stopped")
    success_table(result(), "title")


RUN = """
import sys, time
from mtrl.loggers import live_table
from mtrl.loggers.console import say, success_table
from mtrl.loggers.live_table import LiveTable
from mtrl.types import Progress
live_table._LINE_SECONDS = (0.0, 0.0)
with LiveTable(["a", "b"], 100) as table:
    for step in range(100):
        table.on_progress(Progress(step, step, {}, ()), [0.5, 0.5])
        time.sleep(0.005)
say("end")
print("survived", file=sys.stderr)
"""


def test_training_goes_on_when_the_reader_leaves() -> None:
    process = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert "env steps" in process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "survived\n"
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("closed", [">&-", "> /dev/full"])
def test_training_goes_on_without_a_usable_stdout(closed: str) -> None:
    command = f'exec "$0" -c "$1" {closed}'
    result = subprocess.run(["bash", "-c", command, sys.executable, RUN], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "survived\n")


def test_a_locale_without_unicode_still_shows_the_tables() -> None:
    script = RUN + "\nfrom tests.loggers.test_console import result\nsuccess_table(result(), 'Überschrift')\n"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.getcwd()}
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment, check=True
    )
    assert "?berschrift" in finished.stdout
    assert rows(finished.stdout.replace("|", " "))["push-v3"] == ["0.25", "1/4", "1.0"]
