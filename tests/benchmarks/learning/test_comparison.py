"""The table of methods by suites, from fabricated results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

import agents
import envs
from benchmarks.learning import comparison
from benchmarks.learning.curves import draw
from benchmarks.learning.results import read_entry
from mtrl.config.schema import dump_yaml, resolve_config
from mtrl.errors import BadInput
from mtrl.runs.logs import EvaluationRow

TASKS = ("goal-0.8-0.8", "goal-0.8+0.8")


@pytest.fixture(autouse=True)
def _registered() -> None:
    agents.register()
    envs.register()


def write(
    folder: Path,
    rates: Mapping[int, tuple[float, float]],
    env_steps: int = 1000,
    episodes: int = 50,
    **settings: object,
) -> Path:
    """Results of seeds whose two tasks ended with the given success rates, after 3 minutes."""
    folder.mkdir()
    for seed, of_tasks in rates.items():
        config = resolve_config({"suite": "point-mass", "seed": seed, "total_env_steps": env_steps, **settings})
        (folder / f"seed-{seed}-config.yaml").write_text(dump_yaml(config))
        rows = [(500, TASKS[0], 5, 0.0, 0.0, "periodic")]
        rows += [(env_steps, task, episodes, rate, 1.5, "final") for task, rate in zip(TASKS, of_tasks, strict=True)]
        lines = [",".join(EvaluationRow._fields), *(",".join(map(str, row)) for row in rows)]
        (folder / f"seed-{seed}-eval.csv").write_text("\n".join(lines) + "\n")
        curves = [
            {"env_steps": 500, "time/wall_seconds": 60.0},
            {
                "env_steps": 1000,
                "time/wall_seconds": 180.0,
                **{f"train/success_rate/{task}": rate for task, rate in zip(TASKS, of_tasks, strict=True)},
            },
        ]
        (folder / f"seed-{seed}-curves.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curves))
    return folder


def cells(text: str, method: str) -> list[list[str]]:
    """The rows that start with the method, cell by cell."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(f"| {method}")]


def test_medians_over_seeds_stand_with_spread_steps_time_and_size(tmp_path: Path) -> None:
    entry = read_entry(write(tmp_path / "a", {1: (0.0, 0.2), 2: (1.0, 1.0), 10: (0.5, 0.5)}))
    assert entry.method == "sac, multi-head"
    overview, detail = cells(comparison.table([entry]), "sac")
    assert overview == ["sac, multi-head", "0.500 (0.100 to 1.000)"]
    *figures, parameters = detail[1:]
    assert figures == ["0.50", "0.50", "0.500 (0.100 to 1.000)", "0.533", "3", "1,000", "3.0"]
    assert int(parameters.replace(",", "")) == entry.num_parameters > 300_000
    assert "alike" not in comparison.table([entry])


def test_methods_are_rows_and_unequal_steps_seeds_and_episodes_are_marked(tmp_path: Path) -> None:
    small = {"name": "mlp", "width": 8}
    full = read_entry(write(tmp_path / "a", {1: (1, 1), 2: (1, 1)}, architecture=small))
    less = read_entry(
        write(tmp_path / "b", {1: (1, 0)}, env_steps=900, episodes=5, architecture=small, aggregator="pcgrad")
    )
    text = comparison.table([full, less])
    assert [row[0] for row in cells(text, "sac, mlp")] == [
        *("sac, mlp", "sac, mlp, pcgrad"),
        *("sac, mlp", "sac, mlp, pcgrad\\*†‡"),
    ]
    assert "0.500 (0.500 to 0.500)\\*†‡" in text
    assert "Not measured alike: \\* fewer env steps" in text
    nearly = read_entry(write(tmp_path / "c", {1: (1, 1), 2: (1, 1)}, env_steps=995), "nearly")
    assert comparison.marks(nearly, [full, nearly]) == ""


def test_what_cannot_stand_in_one_table_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = read_entry(write(tmp_path / "a", {1: (1, 1)}))
    two = read_entry(write(tmp_path / "b", {1: (0, 0)}))
    with pytest.raises(BadInput, match="NAME=FOLDER"):
        comparison.table([one, two])
    mixed = write(tmp_path / "c", {1: (1, 1)})
    other = write(tmp_path / "d", {2: (1, 1)}, agent={"name": "sac", "discount": 0.5})
    for path in other.iterdir():
        path.rename(mixed / path.name)
    with pytest.raises(BadInput, match="seeds 1 and 2 have different settings"):
        read_entry(mixed)
    monkeypatch.setattr("sys.argv", ["comparison", str(tmp_path)])
    assert comparison.main() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_picture_has_a_line_per_method(tmp_path: Path) -> None:
    entry = read_entry(write(tmp_path / "a", {1: (0, 0.2), 2: (1, 1)}))
    draw({"point-mass": [entry]}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
