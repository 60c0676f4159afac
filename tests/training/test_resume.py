"""A run that is killed and resumed, again and again, ends as if nothing had happened."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from mtrl.config.schema import RunConfig
from mtrl.evaluation.evaluator import EvaluationResult
from mtrl.launch.run_status import read_status
from mtrl.optim.matmul_backend import DEFAULT
from mtrl.training import restore, run
from mtrl.training.callbacks import EvaluationCallback
from tests.training.tiny_runs import LAST_WORDS, differences, final_state, in_child, log_rows, tiny_config


def train_with_kills(config: RunConfig, run_dir: Path, kills: list[int], number: int = signal.SIGKILL) -> list[int]:
    """Exit statuses of a run that is killed at the given Progress counts of its processes, and resumed."""
    statuses = [in_child(lambda: run.train(config, run_dir), kills[0] if kills else None, number)]
    if kills:
        statuses += [in_child(lambda: run.resume(run_dir, {}), kill, number) for kill in [*kills[1:], None]]
    return statuses


def assert_same_run(first: Path, second: Path) -> None:
    assert differences(final_state(first), final_state(second)) == []
    assert differences(log_rows(first), log_rows(second)) == []


PPO = {"name": "ppo", "rollout_steps": 3, "epochs": 1, "minibatches": 2}
CELLS = {
    "continuous": {},
    "discrete, multi-head": {
        "suite": "point-mass-discrete",
        "architecture": {"name": "multi-head", "width": 16, "depth": 1},
    },
    "pcgrad, temperature weights": {
        "aggregator": "pcgrad",
        "agent": {"name": "sac", "batch_size": 32, "learning_starts": 80, "temperature_task_weights": True},
    },
    # Shares that change over time make slots change tasks, and batches that are not cut into equal parts.
    "a5c": {"suite": "point-mass-hard", "scheduler": {"name": "a5c", "uniform_episodes": 1}},
    "ea4c, pcgrad": {
        "suite": "point-mass-hard",
        "aggregator": "pcgrad",
        "scheduler": {"name": "ea4c", "uniform_episodes": 1, "decisions_per_update": 2},
    },
    "small buffer, two gradient steps": {"agent": {"name": "sac", "buffer_size": 560, "gradient_steps": 2}},
    "held actions": {"agent": {"name": "sac", "batch_size": 32, "learning_starts": 80, "held_action_rate": 0.3}},
    "popart": {"normalizer": "popart"},
    "bfloat16": {"precision": "bfloat16"},
    "ppo, distral, one column, separate": {
        "agent": PPO,
        "policy": {"name": "distral", "num_columns": 1},
        "architecture": {"name": "separate", "width": 16, "depth": 1},
    },
    "ppo, return scale": {"agent": PPO, "normalizer": "return-scale"},
    "ppo, dtp": {
        "suite": "point-mass-hard",
        "agent": PPO,
        "scheduler": {"name": "dtp", "mode": "weight", "uniform_episodes": 1},
    },
    "ppo, discrete, pcgrad, annealed, popart": {
        "suite": "point-mass-discrete",
        "normalizer": "popart",
        "aggregator": "pcgrad",
        "agent": PPO | {"annealing_steps": 2000},
    },
    "an aggregator for each group": {
        "aggregator": {"name": "great", "critic": {"name": "famo"}},
        "conflict_interval": 200,
    },
}


QUICK = ["continuous", "ppo, discrete, pcgrad, annealed, popart", "an aggregator for each group"]


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, marks=() if cell in QUICK else pytest.mark.slow) for cell in CELLS]
)
def test_three_kills_between_checkpoints_change_no_bit(tmp_path: Path, cell: str) -> None:
    config = tiny_config(total_env_steps=1040, **CELLS[cell])
    assert train_with_kills(config, tmp_path / "calm", []) == [0]
    # 40 vector steps lie between checkpoints and 20 in an episode: all three kills hit the middle of one.
    assert train_with_kills(config, tmp_path / "killed", [53, 67, 35]) == [-9, -9, -9, 0]
    assert_same_run(tmp_path / "calm", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "total_env_steps", "kills"), [("sac", 1080, [130, 77, 200]), ("ppo", 480, [75, 91])])
def test_meta_world_resumes_in_the_middle_of_an_episode(
    tmp_path: Path, agent: str, total_env_steps: int, kills: list[int]
) -> None:
    config = tiny_config(
        "metaworld:reach-v3,drawer-close-v3",
        agent=PPO if agent == "ppo" else {},
        num_envs=2,
        num_workers=1,
        total_env_steps=total_env_steps,
        log_interval=100,
        checkpoint_interval=120,
        eval_interval=0,
        final_eval_episodes_per_task=0,
    )
    assert train_with_kills(config, tmp_path / "calm", []) == [0]
    assert train_with_kills(config, tmp_path / "killed", kills) == [-9] * len(kills) + [0]
    assert_same_run(tmp_path / "calm", tmp_path / "killed")


@pytest.mark.parametrize(
    ("number", "exit_code"), [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), (signal.SIGINT, 130)]
)
def test_a_signal_saves_the_exact_step(tmp_path: Path, number: int, exit_code: int) -> None:
    config = tiny_config(total_env_steps=800)
    assert train_with_kills(config, tmp_path / "calm", []) == [0]
    assert train_with_kills(config, tmp_path / "stopped", [33, 50], number) == [exit_code, exit_code, 0]
    assert_same_run(tmp_path / "calm", tmp_path / "stopped")
    assert json.loads((tmp_path / "stopped" / "meta.json").read_text())["status"] == "done"


def test_observers_do_not_change_what_is_learnt(tmp_path: Path) -> None:
    seldom = {"log_interval": 10**6, "eval_interval": 0, "checkpoint_interval": 10**6}
    often = tiny_config(total_env_steps=800)
    never = tiny_config(total_env_steps=800, final_eval_episodes_per_task=0, **seldom)
    for name, config in (("often", often), ("never", never)):
        assert in_child(lambda config=config, name=name: run.train(config, tmp_path / name)) == 0
    assert differences(final_state(tmp_path / "often"), final_state(tmp_path / "never")) == []


def test_the_number_of_workers_does_not_change_what_is_learnt(tmp_path: Path) -> None:
    settings = {"num_envs": 3, "total_env_steps": 300, "eval_interval": 0, "final_eval_episodes_per_task": 0}
    for workers in (0, 2):
        config = tiny_config("metaworld:reach-v3,drawer-close-v3", num_workers=workers, **settings)
        assert in_child(lambda config=config, workers=workers: run.train(config, tmp_path / str(workers))) == 0
    assert differences(final_state(tmp_path / "0"), final_state(tmp_path / "2")) == []


def test_a_finished_run_can_be_extended_and_keeps_its_final_evaluation(tmp_path: Path) -> None:
    long, extended = tmp_path / "long", tmp_path / "extended"
    short_config, long_config = tiny_config(total_env_steps=800), tiny_config(total_env_steps=1200)
    assert in_child(lambda: run.train(long_config, long)) == 0
    assert in_child(lambda: run.train(short_config, extended)) == 0
    final = [row for row in log_rows(extended)[1] if row.kind == "final"]
    assert in_child(lambda: run.resume(extended, {"total_env_steps": 1200})) == 0
    assert differences(final_state(long), final_state(extended)) == []
    metrics, evaluations = log_rows(extended)
    # That of the first end is the only row that the long run lacks.
    assert final[0].env_steps == 800
    added = [row for row in metrics if row.get("eval/kind") == "final" and row["env_steps"] == 800]
    assert len(added) == 1
    assert [row for row in metrics if row not in added] == log_rows(long)[0]
    assert [row for row in evaluations if row in final] == final
    assert [row for row in evaluations if row not in final] == log_rows(long)[1]


def test_a_resume_to_an_end_that_is_past_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    config = tiny_config(total_env_steps=320)
    assert in_child(lambda: run.train(config, tmp_path / "run")) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run" / "config.yaml", tmp_path / "run" / "eval.csv")}
    assert in_child(lambda: run.resume(tmp_path / "run", {"total_env_steps": 160})) == 2
    assert LAST_WORDS.read_text() == f"total_env_steps: 160 is not allowed; {tmp_path}/run is at 320 env steps already"
    assert before == {path: path.read_bytes() for path in before}


def test_a_final_evaluation_at_the_same_end_is_made_once(tmp_path: Path) -> None:
    config = tiny_config(total_env_steps=320)
    assert in_child(lambda: run.train(config, tmp_path / "run")) == 0
    rows = log_rows(tmp_path / "run")
    assert in_child(lambda: run.resume(tmp_path / "run", {})) == 0
    assert log_rows(tmp_path / "run") == rows


def test_a_resume_says_that_another_matmul_backend_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = [
        (DEFAULT, ""),
        (DEFAULT, ""),
        ("oneDNN", "'matmul backend' 'unknown', now 'oneDNN'"),
        (DEFAULT, "'matmul backend' 'oneDNN', now 'unknown'"),
    ]
    for turn, (backend, message) in enumerate(expected):
        monkeypatch.setattr(restore, "choose_matmul_backend", lambda backend=backend: backend)
        config = tiny_config(total_env_steps=160)
        steps = {"total_env_steps": 160 + 80 * turn}
        assert (run.resume(tmp_path / "run", steps) if turn else run.train(config, tmp_path / "run")) == 0
        said = capsys.readouterr().out
        assert message in said if message else "matmul backend" not in said


def test_the_time_limit_stops_with_a_checkpoint(tmp_path: Path) -> None:
    config = tiny_config(max_hours=1e-7, total_env_steps=320)
    assert in_child(lambda: run.train(config, tmp_path / "run")) == 0
    assert final_state(tmp_path / "run")["step"] < 320
    assert in_child(lambda: run.resume(tmp_path / "run", {"max_hours": 1.0})) == 0
    assert final_state(tmp_path / "run")["step"] == 320


@pytest.mark.parametrize(("before", "status", "said"), [(True, "interrupted", "go on"), (False, "done", "next")])
def test_a_run_is_done_once_its_final_evaluation_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    before: bool,
    status: str,
    said: str,
) -> None:
    evaluate_finally = EvaluationCallback.evaluate_finally

    def time_is_over(self: EvaluationCallback, *settings: int) -> EvaluationResult:
        result = None if before else evaluate_finally(self, *settings)
        self._interruption._deadline = 0.0
        return evaluate_finally(self, *settings) if result is None else result

    monkeypatch.setattr(EvaluationCallback, "evaluate_finally", time_is_over)
    assert run.train(tiny_config(total_env_steps=160), tmp_path / "run") == 0
    assert f"{said}: mtrl" in capsys.readouterr().out
    assert read_status(tmp_path / "run").status == status
    monkeypatch.undo()
    assert run.resume(tmp_path / "run", {}) == 0
    assert read_status(tmp_path / "run").status == "done"
    assert {row.kind for row in log_rows(tmp_path / "run")[1]} == {"final"}


@pytest.mark.full
@pytest.mark.parametrize("seed", range(50))
def test_chains_of_random_kills_change_no_bit(tmp_path: Path, seed: int) -> None:
    config = tiny_config(seed=seed)
    kills = [1 + (seed * 37 + index * 53) % 90 for index in range(6)]
    train_with_kills(config, tmp_path / "calm", [])
    train_with_kills(config, tmp_path / "killed", kills)
    assert_same_run(tmp_path / "calm", tmp_path / "killed")
