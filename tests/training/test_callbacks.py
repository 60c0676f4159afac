"""What a run reports and saves as it goes: metrics, evaluations, the best checkpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtrl.checkpoints.store import CheckpointStore
from mtrl.evaluation.evaluator import EvaluationResult, Evaluator
from mtrl.loggers.metric_logger import MetricLogger
from mtrl.runs.logs import EvaluationRow
from mtrl.training import run
from mtrl.types import Progress
from tests.training.tiny_runs import differences, final_state, in_child, log_rows, tiny_config

QUIET = {"eval_interval": 0, "final_eval_episodes_per_task": 0}


class Recorder(MetricLogger):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.progress: list[int] = []
        self.metrics: list[Mapping[str, Any]] = []
        self.evaluations: list[EvaluationRow] = []
        self.closed = 0

    def on_progress(self, progress: Progress, shares: Sequence[float]) -> None:
        assert sum(shares) == pytest.approx(1)
        self.progress.append(progress.env_steps)

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        self.metrics.append(row)

    def on_evaluation(self, rows: Sequence[EvaluationRow], metrics: Mapping[str, Any]) -> None:
        self.evaluations += rows

    def close(self) -> None:
        self.closed += 1


@pytest.mark.slow
def test_a_logger_of_ones_own_sees_everything_and_changes_nothing(tmp_path: Path) -> None:
    recorder = Recorder()
    assert in_child(lambda: run.train(tiny_config(), tmp_path / "alone")) == 0
    assert run.train(tiny_config(), tmp_path / "watched", loggers=[recorder]) == 0
    assert differences(final_state(tmp_path / "alone"), final_state(tmp_path / "watched")) == []
    assert differences(log_rows(tmp_path / "alone"), log_rows(tmp_path / "watched")) == []
    assert recorder.progress == list(range(8, 1608, 8))
    assert [row["env_steps"] for row in recorder.metrics] == list(range(80, 1680, 80))
    assert recorder.evaluations == log_rows(tmp_path / "watched")[1]
    assert recorder.closed == 1
    # A resumed run reports to it too.
    assert run.resume(tmp_path / "watched", {"total_env_steps": 1680}, loggers=[recorder]) == 0
    assert recorder.progress[200:] == list(range(1608, 1688, 8))
    assert recorder.closed == 2


def steps_of_rows(run_dir: Path) -> list[int]:
    return [row["env_steps"] for row in log_rows(run_dir)[0] if "eval/kind" not in row]


def test_a_run_shorter_than_the_log_interval_leaves_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a run"
    assert run.train(tiny_config(total_env_steps=200, log_interval=10**6, **QUIET), folder) == 0
    assert steps_of_rows(folder) == [200]
    assert "losses/mean_critic_loss" in log_rows(folder)[0][0]
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert "trained for 200 env steps" in last_line
    assert last_line.endswith(f"mtrl eval '{folder}'")


@pytest.mark.parametrize("kills", [[24], [25], [13, 12], [21, 4]])
def test_the_last_row_is_the_same_after_kills(tmp_path: Path, kills: list[int]) -> None:
    # 25 turns; checkpoints at 160 and 200, rows at 120 and 200. The last kill may come when training is complete.
    config = tiny_config(total_env_steps=200, log_interval=120, checkpoint_interval=40, **QUIET)
    assert in_child(lambda: run.train(config, tmp_path / "calm")) == 0
    assert in_child(lambda: run.train(config, tmp_path / "killed"), kills[0]) == -signal.SIGKILL
    for kill in kills[1:]:
        assert in_child(lambda kill=kill: run.resume(tmp_path / "killed", {}), kill) == -signal.SIGKILL
    assert in_child(lambda: run.resume(tmp_path / "killed", {})) == 0
    assert steps_of_rows(tmp_path / "calm") == [120, 200]
    assert differences(log_rows(tmp_path / "calm"), log_rows(tmp_path / "killed")) == []


def test_an_extended_run_keeps_the_row_of_its_first_end(tmp_path: Path) -> None:
    short = tiny_config(total_env_steps=200, log_interval=120, **QUIET)
    assert run.train(short, tmp_path / "run") == 0
    assert run.resume(tmp_path / "run", {}) == 0
    assert steps_of_rows(tmp_path / "run") == [120, 200]
    assert run.resume(tmp_path / "run", {"total_env_steps": 400}) == 0
    assert steps_of_rows(tmp_path / "run") == [120, 200, 240, 360, 400]


class At(MetricLogger):
    """Does something when an evaluation has been written."""

    def __init__(self, action: Callable[[], object]):
        self.action = action

    def on_evaluation(self, rows: Sequence[EvaluationRow], metrics: Mapping[str, Any]) -> None:
        self.action()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_while_best_is_saved(run_dir: Path, whole: bool) -> int:
    """Resumes a run that is killed before or after its first best checkpoint stands."""
    save = CheckpointStore.save

    def killing(self: CheckpointStore, *arguments: Any, kind: Any = "step", **keywords: Any) -> Path:
        if kind == "best":
            if whole:
                save(self, *arguments, kind=kind, **keywords)
            kill()
        return save(self, *arguments, kind=kind, **keywords)

    CheckpointStore.save = killing  # type: ignore[method-assign]  # in this child alone
    return run.resume(run_dir, {})


def best(run_dir: Path) -> tuple[int, Any]:
    checkpoint = CheckpointStore(run_dir / "checkpoints").load("best", with_chunks=False)
    return checkpoint.step, checkpoint.state


@pytest.mark.parametrize(
    "resume_and_die",
    [
        pytest.param(lambda path: killed_while_best_is_saved(path, whole=False), id="before it stands"),
        pytest.param(lambda path: killed_while_best_is_saved(path, whole=True), id="when it stands"),
        pytest.param(lambda path: run.resume(path, {}, loggers=[At(kill)]), id="when the rows are written"),
    ],
)
def test_the_best_checkpoint_survives_a_kill_during_an_evaluation_that_is_made_up_for(
    tmp_path: Path, resume_and_die: Callable[[Path], int]
) -> None:
    config = tiny_config(total_env_steps=480)
    assert in_child(lambda: run.train(config, tmp_path / "calm")) == 0
    # The evaluation is due at turn 50; the signal stops it, and the checkpoint is of that very step.
    killed = tmp_path / "killed"
    assert in_child(lambda: run.train(config, killed), 50, signal.SIGTERM) == 143
    assert final_state(killed)["step"] == 400
    assert log_rows(killed)[1] == []
    assert in_child(lambda: resume_and_die(killed)) == -signal.SIGKILL
    assert in_child(lambda: run.resume(killed, {})) == 0
    assert best(killed)[0] == 400
    assert differences(best(tmp_path / "calm"), best(killed)) == []
    assert differences(log_rows(tmp_path / "calm"), log_rows(killed)) == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda lines: lines[:-1], id="a task is missing"),
        pytest.param(lambda lines: [*lines[:-1], lines[-2]], id="a task is there twice"),
        pytest.param(lambda lines: [*lines[:-1], lines[-1][:9]], id="the last row is torn"),
        pytest.param(lambda lines: [*lines[:-1], lines[-1].replace(",2,", ",2,1e999")], id="a rate is infinite"),
    ],
)
def test_an_incomplete_evaluation_counts_as_not_made(tmp_path: Path, damage: Callable[[list[str]], list[str]]) -> None:
    config = tiny_config(total_env_steps=400, final_eval_episodes_per_task=0)
    assert in_child(lambda: run.train(config, tmp_path / "run")) == 0
    file = tmp_path / "run" / "eval.csv"
    whole = file.read_text().splitlines()
    file.write_text("\n".join(damage(whole)) + "\n")
    assert in_child(lambda: run.resume(tmp_path / "run", {})) == 0
    assert file.read_text().splitlines()[-4:] == whole[-4:]
    assert best(tmp_path / "run")[0] == 400


@pytest.mark.parametrize("agent", ["sac", "ppo"])
@pytest.mark.parametrize("aggregator", ["mean", "pcgrad"])
def test_measuring_conflict_changes_nothing_and_has_rows(tmp_path: Path, agent: str, aggregator: str) -> None:
    settings: dict[str, Any] = {"agent": "ppo"} if agent == "ppo" else {}
    settings = {**settings, "total_env_steps": 400, "aggregator": aggregator, **QUIET}
    if agent == "ppo":
        settings["agent"] = {"name": "ppo", "rollout_steps": 7, "epochs": 1, "minibatches": 2}
    for name, interval in (("plain", 0), ("measured", 150)):
        assert run.train(tiny_config(**settings, conflict_interval=interval), tmp_path / name) == 0
    assert differences(final_state(tmp_path / "plain"), final_state(tmp_path / "measured")) == []
    plain, measured = (log_rows(tmp_path / name)[0] for name in ("plain", "measured"))
    groups = ("actor-critic",) if agent == "ppo" else ("critic", "actor")
    with_conflict = [row for row in measured if f"{groups[0]}/conflict_rate" in row]
    assert len(with_conflict) == 2
    for row in with_conflict:
        for group in groups:
            assert 0 <= row[f"{group}/conflict_rate"] <= 1
            cosine = [value for name, value in row.items() if name.startswith(f"{group}/cosine/")]
            assert [len(values) for values in cosine] == 4 * [4]
            assert [cosine[task][task] for task in range(4)] == pytest.approx(4 * [1.0])
    # The others are those of a run that does not measure.
    others = [row for row in measured if row not in with_conflict]
    assert others == plain
    # Also in rows whose own turn is no update, as most are with PPO.
    weights = [value for name, value in plain[-1].items() if name.startswith(f"{groups[0]}/task_weight/")]
    assert len(weights) == 4
    assert min(weights) > 0


def test_an_interrupted_run_measures_conflict_when_an_uninterrupted_one_does(tmp_path: Path) -> None:
    config = tiny_config(total_env_steps=400, checkpoint_interval=40, conflict_interval=70, **QUIET)
    assert run.train(config, tmp_path / "whole") == 0
    assert in_child(lambda: run.train(config, tmp_path / "killed"), at_progress=33) == -signal.SIGKILL
    assert run.resume(tmp_path / "killed", {}) == 0
    assert differences(log_rows(tmp_path / "whole"), log_rows(tmp_path / "killed")) == []


def test_a_final_evaluation_at_the_step_of_a_periodic_one_is_not_played_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = []
    evaluate = Evaluator.evaluate

    def counting(*arguments: Any) -> EvaluationResult:
        played.append(arguments[2])
        return evaluate(*arguments)

    monkeypatch.setattr(Evaluator, "evaluate", counting)
    for episodes, expected in ((2, [2]), (3, [2, 3])):
        config = tiny_config(total_env_steps=400, final_eval_episodes_per_task=episodes)
        assert run.train(config, tmp_path / str(episodes)) == 0
        assert played == expected
        played.clear()
        rows = log_rows(tmp_path / str(episodes))[1]
        assert [(row.kind, row.episodes) for row in rows[::4]] == [("periodic", 2), ("final", episodes)]
    periodic, final = log_rows(tmp_path / "2")[1][:4], log_rows(tmp_path / "2")[1][4:]
    assert [row._replace(kind="final") for row in periodic] == final
    # In a process of its own, which has to play it again, it is the same.
    resumed = log_rows(tmp_path / "2")
    assert run.resume(tmp_path / "2", {}) == 0
    assert played == [2]
    assert log_rows(tmp_path / "2") == resumed


def test_losses_are_means_over_the_log_interval(tmp_path: Path) -> None:
    updates: list[list[float]] = []

    class Losses(MetricLogger):
        def on_progress(self, progress: Progress, shares: Sequence[float]) -> None:
            if progress.metrics:
                updates.append(progress.metrics["critic_loss"].tolist())

    config = tiny_config(total_env_steps=240, log_interval=120, **QUIET)
    assert run.train(config, tmp_path / "run", loggers=[Losses(None, None)]) == 0
    first, last = log_rows(tmp_path / "run")[0]
    assert len(updates) == 20  # from turn 11 on, after 80 env steps
    expected = [np.mean(updates[:5], axis=0), np.mean(updates[5:], axis=0)]
    for row, means in zip((first, last), expected, strict=True):
        found = [value for name, value in row.items() if name.startswith("losses/critic_loss/")]
        assert found == pytest.approx(means.tolist(), rel=1e-6)
