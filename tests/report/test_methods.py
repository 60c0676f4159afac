"""How runs become methods, and what methods are called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mtrl.errors import BadInput
from mtrl.report.methods import by_protocol, differing, marks, name_methods
from mtrl.report.runs import HUMAN, RETURN, SUCCESS, TARGET, read_runs
from tests.report.fabricated import write_run

RETURNS = {"tasks": ("pong", "breakout"), "score": "return"}


def test_runs_that_differ_in_their_seed_alone_are_one_method(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [0.5, 1.0], seed=2, log_interval=7, num_workers=1)
    write_run(tmp_path / "b", [0.25, 0.0], seed=1)
    write_run(tmp_path / "c", [0.0, 0.0], seed=1, architecture="mlp")
    ((protocol, methods),) = by_protocol(read_runs([str(tmp_path)])[0]).items()
    assert protocol.score == SUCCESS
    assert [method.name for method in methods] == ["multi-head", "mlp"]
    assert [run.seed for run in methods[0].runs] == [1, 2]
    np.testing.assert_array_equal(methods[0].scores, [[0.25, 0.0], [0.5, 1.0]])


def test_runs_that_start_from_runs_of_their_seeds_are_one_method(tmp_path: Path) -> None:
    for seed in (1, 2):
        start = f"runs/pre/seed-{seed}"
        write_run(tmp_path / f"tuned-{seed}", [0.5, 0.5], seed=seed, warm_start=start)
        agent = {"name": "distill", "teachers": [start, f"push-v3=runs/push-seed-{seed}"]}
        write_run(tmp_path / f"taught-{seed}", [0.5, 0.5], seed=seed, agent=agent)
    ((_, methods),) = by_protocol(read_runs([str(tmp_path)])[0]).items()
    assert [len(method.runs) for method in methods] == [2, 2]


def test_methods_are_called_by_what_differs() -> None:
    def settings(agent: str = "sac", width: int = 400, depth: int = 3) -> dict[str, object]:
        return {
            "agent.name": agent,
            "architecture.name": "mlp",
            "architecture.width": width,
            "architecture.depth": depth,
            "agent.clip_range" if agent == "ppo" else "agent.gradient_steps": 1,
        }

    assert name_methods([settings()], [""]) == ["sac, mlp"]
    assert name_methods([settings(), settings("ppo")], ["", ""]) == ["sac", "ppo"]
    assert differing([settings(), settings("ppo")]) == ["agent.name"]
    wide = [settings(), settings(width=800), settings("ppo")]
    assert name_methods(wide, ["", "", ""]) == ["sac, architecture.width 400", "sac, architecture.width 800", "ppo"]
    assert name_methods([settings(), settings(width=800)], ["mine", ""]) == ["mine", "sac, mlp"]


def test_a_name_before_the_path_is_the_name_of_the_method(tmp_path: Path) -> None:
    before, after = (write_run(tmp_path / name, [0.5, 0.5]) for name in ("before", "after"))
    with pytest.raises(BadInput, match=r"same settings and seed; give one a name: NAME="):
        by_protocol(read_runs([str(tmp_path)])[0])
    runs, _ = read_runs([f"old={before}", f"new={after}", str(tmp_path)])
    ((_, methods),) = by_protocol(runs).items()
    assert [method.name for method in methods] == ["old", "new"]


def test_unlike_protocols_rewards_and_horizons_are_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [1.0, 1.0])
    write_run(tmp_path / "b", [1.0, 1.0], settings={"reward_function": "v1"})
    write_run(tmp_path / "c", [1.0, 1.0], settings={"horizon": 150})
    write_run(tmp_path / "d", [1.0, 1.0], meta={"protocol": "metaworld"})
    write_run(tmp_path / "e", [1.0, 1.0], seed=2)
    sections = by_protocol(read_runs([str(tmp_path)])[0])
    assert [len(methods[0].runs) for methods in sections.values()] == [2, 1, 1, 1]


def test_what_was_not_measured_alike_is_marked(tmp_path: Path) -> None:
    write_run(tmp_path / "a1", [1.0, 1.0])
    write_run(tmp_path / "a2", [1.0, 1.0], seed=2)
    write_run(tmp_path / "b", None, {900: [0.0, 0.0]}, architecture="mlp")
    write_run(tmp_path / "c", [1.0, 1.0], env_steps=995, architecture="film", total_env_steps=1000)
    ((_, methods),) = by_protocol(read_runs([str(tmp_path)])[0]).items()
    assert {method.name: marks(method, methods) for method in methods} == {
        "multi-head": "",
        "mlp": "*†‡§",
        "film": "†",
    }


def test_one_seed_that_is_shorter_than_the_others_is_marked(tmp_path: Path) -> None:
    write_run(tmp_path / "a1", [1.0, 1.0], env_steps=2000)
    write_run(tmp_path / "a2", [0.2, 0.2], env_steps=1000, episodes=20, seed=2, total_env_steps=2000)
    ((_, (method,)),) = by_protocol(read_runs([str(tmp_path)])[0]).items()
    assert marks(method, [method]) == "*‡"


def test_a_run_that_goes_on_is_judged_by_its_newest_evaluation(tmp_path: Path) -> None:
    # Extended from 1000 to 2000 env steps, and not there yet.
    path = write_run(tmp_path / "a", [0.2, 0.2], {1900: [0.9, 0.9]}, env_steps=1000, total_env_steps=2000)
    (run,) = read_runs([str(path)])[0]
    assert (run.env_steps, run.is_final, run.scores.tolist()) == (1900, False, [0.9, 0.9])


def test_returns_are_counted_in_the_units_that_are_known(tmp_path: Path) -> None:
    def score(name: str, references: dict[str, dict[str, float]]) -> tuple[str, list[float]]:
        path = write_run(
            tmp_path / name, [4.0, 30.0], {500: [2.0, 10.0]}, meta={"reference_returns": references}, **RETURNS
        )
        (run,) = read_runs([str(path)])[0]
        np.testing.assert_array_equal(run.curve[0], [500])
        return run.protocol.score, run.scores.tolist()

    human = {"pong": {"random": 2.0, "human": 6.0}, "breakout": {"random": 0.0, "human": 10.0}}
    assert score("human", human) == (HUMAN, [0.5, 3.0])
    assert score("target", {"pong": {"target": 8.0}, "breakout": {"target": 10.0}}) == (TARGET, [0.5, 1.0])
    assert score("half", {"pong": {"target": 8.0}}) == (RETURN, [4.0, 30.0])


def test_curves_are_at_the_steps_that_all_seeds_have(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [1.0, 1.0], {100: [0.0, 0.2], 200: [0.5, 0.5], 300: [1.0, 1.0]})
    write_run(tmp_path / "b", None, {100: [0.4, 0.0], 200: [0.1, 0.3]}, seed=2)
    ((_, (method,)),) = by_protocol(read_runs([str(tmp_path)])[0]).items()
    steps, scores = method.curves()
    assert steps.tolist() == [100, 200]
    np.testing.assert_array_equal(scores[:, 0], [[0.0, 0.2], [0.4, 0.0]])


def test_hours_go_on_after_a_restart(tmp_path: Path) -> None:
    rows = [{"env_steps": step, "time/wall_seconds": seconds} for step, seconds in enumerate([3600, 7200, 1800, 5400])]
    (run,) = read_runs([str(write_run(tmp_path / "a", [1.0, 1.0], metrics=rows))])[0]
    assert run.hours == pytest.approx(2 + 1.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: (path / "folder").mkdir(), "no run directory in it"),
        (lambda path: None, "no run directory"),
        (lambda path: write_run(path / "folder" / "a", None), "not evaluated yet"),
        (lambda path: write_run(path / "folder" / "a", [1.0, 1.0], meta={"score": None}), "by which protocol"),
        (lambda path: (write_run(path / "folder", [1.0, 1.0]) / "meta.json").write_text("{"), "meta.json"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, make: object, message: str) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(BadInput, match=message) as error:
        read_runs([str(tmp_path / "folder")])
    assert "\n" not in str(error.value)


def test_a_run_that_is_not_evaluated_is_left_out_beside_others(tmp_path: Path) -> None:
    write_run(tmp_path / "a", None)
    write_run(tmp_path / "b", [1.0, 1.0])
    runs, left_out = read_runs([str(tmp_path)])
    assert [run.path.name for run in runs] == ["b"]
    assert left_out == [f"{tmp_path / 'a'}: not evaluated yet"]


def test_a_run_that_was_killed_at_its_start_is_left_out_of_a_folder(tmp_path: Path) -> None:
    (write_run(tmp_path / "a", None) / "meta.json").write_text('{"status": "running"}')
    write_run(tmp_path / "b", [1.0, 1.0])
    runs, left_out = read_runs([str(tmp_path)])
    assert [run.path.name for run in runs] == ["b"]
    assert "does not say by which protocol" in left_out[0]
    with pytest.raises(BadInput, match="by which protocol"):
        read_runs([str(tmp_path / "a"), str(tmp_path / "b")])


def test_a_name_counts_wherever_the_run_is_found_first(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path / name, [1.0, 1.0]) for name in ("a", "b"))
    runs, _ = read_runs([str(tmp_path), f"new={second}"])
    assert [(run.path, run.label) for run in runs] == [(first, ""), (second, "new")]


def test_an_evaluation_that_lacks_a_task_does_not_count(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", [1.0, 1.0], {500: [0.5, 0.5]})
    lines = (path / "eval.csv").read_text().splitlines()
    (path / "eval.csv").write_text("\n".join(lines[:-1]) + "\n")
    (run,) = read_runs([str(path)])[0]
    assert (run.env_steps, run.is_final, run.scores.tolist()) == (500, False, [0.5, 0.5])
    assert json.loads(run.protocol.settings)["horizon"] == 500
