"""The live table while an evaluation plays, on suites without success, and its header."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from mtrl.loggers.console import success_table
from mtrl.loggers.live_table import LiveTable
from mtrl.runs.logs import EvaluationRow
from tests.loggers.conftest import Clock
from tests.loggers.test_console import SHARES, TASKS, drawn, episode, progress, result, rows, terminal

ABOUT = "mt3 (3 tasks), sac, multi-head with 12,345 parameters, cpu, runs/a"


def returns(env_steps: int, means: list[float]) -> list[EvaluationRow]:
    return [EvaluationRow(env_steps, task, 4, 0.0, mean, "periodic") for task, mean in zip(TASKS, means, strict=True)]


def test_rate_and_time_left_leave_the_time_of_evaluations_out(clock: Clock) -> None:
    table = LiveTable(TASKS, 10_000)
    table.on_progress(progress(4000), SHARES)
    clock.now += 30
    table.on_progress(progress(4600), SHARES)
    for ended in range(10):
        table.on_evaluation_progress(ended, 10)
        clock.now += 60
        assert "20 env steps/s  0:04:30 left" in drawn(table.render())
    table.on_evaluation(returns(4600, [0.0, 0.0, 0.0]), {})
    clock.now += 10
    table.on_progress(progress(4800), SHARES)
    text = drawn(table.render())
    assert "4,800 of 10,000 env steps (48.0%)  20 env steps/s  0:04:20 left  0:10:40 elapsed" in text


def test_an_evaluation_that_was_cut_short_is_left_out_too(clock: Clock) -> None:
    table = LiveTable(TASKS, 10_000)
    table.on_progress(progress(0), SHARES)
    clock.now += 10
    table.on_evaluation_progress(0, 10)
    clock.now += 1000
    table.on_progress(progress(200), SHARES)
    assert "20 env steps/s" in drawn(table.render())


def test_the_table_moves_while_an_evaluation_plays(clock: Clock) -> None:
    screen = terminal()
    with LiveTable(TASKS, 1000, screen) as table:
        table.on_progress(progress(100), SHARES)
        for ended in range(100):
            clock.now += 0.1
            table.on_evaluation_progress(ended, 100)
        text = screen.file.getvalue()  # type: ignore[attr-defined]
        assert 15 <= text.count("evaluating: ") <= 25
        assert "evaluating: 99 of 100 episodes" in text
        table.on_evaluation(returns(100, [0.0, 0.0, 0.0]), {})
        assert "evaluating" not in drawn(table.render())


def test_without_a_terminal_an_evaluation_says_how_far_it_is(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with LiveTable(TASKS, 1000) as table:
        table.on_progress(progress(100), SHARES)
        for ended in range(600):
            clock.now += 0.1
            table.on_evaluation_progress(ended, 600)
    lines = [line for line in capsys.readouterr().out.splitlines() if "evaluating: " in line]
    assert 4 <= len(lines) <= 6


def test_suites_whose_score_is_the_return_show_returns(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with LiveTable(TASKS, 1000, score="return") as table:
        table.on_progress(progress(10, [episode(0, False, 1200.0), episode(1, False, 100.0)]), SHARES)
        table.on_evaluation(returns(10, [1500.0, -2.5, 0.0]), {})
        text = drawn(table.render())
    lines = capsys.readouterr().out.splitlines()
    assert "mean return 650.0 in training" in lines[0]
    assert "[reach-v3 1,200.0, push-v3 100.0, drawer-close-v3 -]" in lines[0]
    assert lines[1] == (
        "evaluation at 10 env steps: mean return 499.2 [reach-v3 1,500.0, push-v3 -2.5, drawer-close-v3 0.0]"
    )
    assert "mean return 650.0 in training  499.2 in the evaluation at 10" in text
    assert rows(text)["reach-v3"] == ["1,200.0", "1", "1,500.0", "0.500"]
    assert "success" not in text + "".join(lines)


def test_many_tasks_without_success_are_a_range_of_returns(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"task-{index}" for index in range(11)]
    table = LiveTable(names, 1000, score="return")
    table.on_evaluation([EvaluationRow(5, name, 1, 0.0, float(len(name)), "final") for name in names], {})
    assert capsys.readouterr().out == "evaluation at 5 env steps: mean return 6.1 (6.0 to 7.0)\n"


def test_the_final_summary_of_a_suite_without_success_shows_returns(capsys: pytest.CaptureFixture[str]) -> None:
    success_table(
        dataclasses.replace(result(), score="return", target_scores=None), "runs/a, last checkpoint (step 20)"
    )
    text = capsys.readouterr().out
    assert "success" not in text
    assert rows(text) == {"reach-v3": ["0.0"], "push-v3": ["1.0"], "drawer-close-v3": ["2.0"]}
    assert text.splitlines()[0].rstrip() == "mt3: runs/a, last checkpoint (step 20)"


def test_what_is_trained_where_is_said_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveTable(TASKS, 1000, about=ABOUT):
        pass
    assert capsys.readouterr().out == f"{ABOUT}\n"


@pytest.mark.parametrize("width", [40, 120])
def test_what_is_trained_where_heads_the_table_in_one_line(width: int) -> None:
    names = [f"task-{index}" for index in range(40)]
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=20, color_system=None)
    table = LiveTable(names, 1000, console, about=ABOUT)
    lines = drawn(table.render(), width=width).splitlines()
    assert lines[0].rstrip() == (ABOUT if width == 120 else f"{ABOUT[:39]}…")
    if width == 120:
        assert len(lines) <= 20


def test_looking_at_an_evaluation_draws_no_random_number() -> None:
    before = np.random.get_state()[1].tolist()
    table = LiveTable(TASKS, 100, terminal())
    table.on_evaluation_progress(1, 2)
    drawn(table.render())
    assert np.random.get_state()[1].tolist() == before
