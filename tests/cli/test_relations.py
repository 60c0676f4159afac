"""The command `mtrl relations`: what it writes and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtrl.relations.relations_file import read_relations
from mtrl.report.page import write_report
from mtrl.training import run
from tests.cli.commands import assert_refused, call
from tests.report.fabricated import write_run
from tests.training.tiny_runs import tiny_config

PPO = {"name": "ppo", "rollout_steps": 10, "epochs": 1, "minibatches": 1}


def train(path: Path, suite: str = "point-mass", **changes: Any) -> Path:
    """A run without evaluations."""
    quiet: dict[str, Any] = {"eval_interval": 0, "final_eval_episodes_per_task": 0, "log_interval": 160}
    steps = {"total_env_steps": 160, "checkpoint_interval": 160}
    assert run.train(tiny_config(suite, **{**quiet, **steps, **changes}), path) == 0
    return path


def relations(path: Path, *arguments: str) -> Any:
    return call("relations", str(path), "--updates", "2", "--probes", "12", *arguments)


@pytest.mark.parametrize(
    ("measure", "agent"),
    [*((measure, "ppo") for measure in ("attribution", "cosine", "fisher", "rsa", "tag")), ("tag", "sac")],
)
def test_every_measure_gives_the_same_file_twice(tmp_path: Path, measure: str, agent: str) -> None:
    path = train(tmp_path / "run", agent=PPO if agent == "ppo" else {"learning_starts": 80})
    before = sorted(file for file in path.rglob("*") if file.is_file())
    texts = []
    for name in ("first", "second"):
        done = relations(path, "--measure", measure, "--groups", "2", "--output", str(tmp_path / name))
        assert done.code == 0, done.error
        assert "group 2: goal" in done.out
        texts.append((tmp_path / name / "relations.json").read_text())
        assert (tmp_path / name / "relations.png").stat().st_size > 1000
    assert texts[0] == texts[1]
    assert sorted(file for file in path.rglob("*") if file.is_file()) == before
    found = read_relations(tmp_path / "first" / "relations.json")
    assert found.affinity.shape == (4, 4)
    assert np.isfinite(found.affinity).all()
    if measure != "tag":
        np.testing.assert_allclose(found.affinity, found.affinity.T, atol=1e-6)
        np.testing.assert_allclose(found.affinity.diagonal(), 1, atol=1e-6)
    document = json.loads(texts[0])
    assert sorted(task for own in document["groups"] for task in own) == sorted(document["tasks"])
    assert document["runs"] == [{"path": str(path), "seed": 1, "env_steps": 160}]


def test_seeds_are_averaged_and_a_report_shows_the_heat_map(tmp_path: Path) -> None:
    paths = [train(tmp_path / f"seed{seed}", seed=seed, final_eval_episodes_per_task=1) for seed in (1, 2)]
    done = call("relations", *map(str, paths), "--updates", "2", "--budget", "2")
    assert done.code == 0, done.error
    assert "network 1: train on goal" in done.out
    found = read_relations(paths[0] / "relations" / "cosine" / "relations.json")
    assert found.spread is not None
    assert found.spread[0, 1] > 0
    assert [own["seed"] for own in found.runs] == [1, 2]
    page = tmp_path / "report.html"
    write_report([str(path) for path in paths], page)
    assert "Relations between tasks" in page.read_text()
    assert "cosine after 160 env steps" in page.read_text()


def test_conflicting_tasks_have_a_negative_cosine(tmp_path: Path) -> None:
    agent = PPO | {"learning_rate": 0.001}
    path = train(tmp_path / "run", "point-mass-conflict", agent=agent, total_env_steps=320)
    done = relations(path, "--updates", "8", "--measure", "cosine")
    assert done.code == 0, done.error
    assert read_relations(path / "relations" / "cosine" / "relations.json").affinity[0, 1] < 0


def test_a_lookahead_that_overshoots_is_refused(tmp_path: Path) -> None:
    path = train(tmp_path / "run", agent=PPO)
    assert_refused(relations(path, "--measure", "tag", "--lookahead-rate", "1e6"), "lookahead_rate: 1e+06 is too large")


def test_transfer_tells_which_tasks_lose_by_company(tmp_path: Path) -> None:
    single = {"reach-v3": 0.9, "push-v3": 0.2}
    paths = [write_run(tmp_path / task, [rate], tasks=[task]) for task, rate in single.items()]
    paths.append(write_run(tmp_path / "both", [0.6, 0.5], tasks=[*single], env_steps=2000))
    done = call("relations", *map(str, paths), "--measure", "transfer", "--output", str(tmp_path / "out"))
    assert done.code == 0, done.error
    assert "-0.300" in done.out
    assert "+0.300" in done.out
    found = read_relations(tmp_path / "out" / "relations.json")
    assert found.tasks == ["reach-v3", "push-v3"]
    np.testing.assert_allclose(found.affinity, [[0, 0.3], [-0.3, 0]], atol=1e-12)
    assert found.transfer is not None
    assert [own["difference"] for own in found.transfer] == pytest.approx([-0.3, 0.3])


def refused(arguments: Mapping[str, str], path: Path, *fragments: str) -> None:
    words = [word for name, value in arguments.items() for word in (f"--{name}", value)]
    assert_refused(relations(path, *words), *fragments)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    path = train(tmp_path / "run")
    refused({"measure": "cosines"}, path, "measure: 'cosines' is not allowed", "did you mean 'cosine'?")
    refused({"parameter_group": "critics"}, path, "has no parameter group 'critics'; it has ['critic', 'actor']")
    signed = "those of 'actor' are signed; choose one of ['critic']"
    refused({"parameter_group": "actor", "measure": "tag"}, path, signed)
    refused({"budget": "2", "measure": "rsa"}, path, "budget: rsa does not say", "cosine, tag or transfer")
    refused({"groups": "5"}, path, "groups: 5 is not allowed; must be 1 to the number of tasks, 4")
    refused({"checkpoint": "best"}, path, "checkpoint: 'best' is not allowed; must be latest or a step")
    refused({"checkpoint": "17"}, path, "no checkpoint of step 17")
    refused({}, tmp_path / "nothing", "does not exist")
    refused({"measure": "transfer"}, path, "not evaluated yet")


def test_young_runs_are_refused(tmp_path: Path) -> None:
    refused({}, write_run(tmp_path / "empty", None), "no resumable checkpoint")
    young = train(tmp_path / "young", agent={"learning_starts": 100_000})
    refused({}, young, "is too young: at 160 env steps it has not learned anything yet")


def test_runs_of_other_suites_and_of_one_task_are_refused(tmp_path: Path) -> None:
    first, second = train(tmp_path / "first"), train(tmp_path / "second", "point-mass-related")
    assert_refused(call("relations", str(first), str(second)), "has the tasks", "runs of one suite only")
    single = train(tmp_path / "single", "gym:CartPole-v1", agent=PPO, encoder="identity")
    refused({}, single, "is of the one task CartPole-v1; relations need two at least")
    other = write_run(tmp_path / "other", [0.5], tasks=["reach-v3"], meta={"protocol": "atari"})
    whole = write_run(tmp_path / "whole", [0.5, 0.5])
    assert_refused(call("relations", str(whole), str(other), "--measure", "transfer"), "other protocols", "compared")


def test_networks_without_a_representation_are_told(tmp_path: Path) -> None:
    path = train(tmp_path / "run", architecture={"name": "separate", "width": 8, "depth": 1})
    refused({"measure": "rsa"}, path, "rsa: networks of the architecture 'separate' have no representation")
    refused({"measure": "cosine"}, path, "cosine: no two tasks share a parameter of 'critic'; try attribution")
    assert relations(path, "--measure", "fisher").code == 0


def test_what_a_policy_looks_at_is_measured_on_pixels_too(tmp_path: Path) -> None:
    agent = PPO | {"learning_rate": 0.001}
    path = train(tmp_path / "run", "point-mass-pixels", agent=agent, encoder="nature")
    done = relations(path, "--measure", "attribution")
    assert done.code == 0, done.error
    found = read_relations(path / "relations" / "attribution" / "relations.json").affinity
    np.testing.assert_allclose(found.diagonal(), 1, atol=1e-6)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = train(tmp_path / "run", final_eval_episodes_per_task=1)
    (path / "relations.json").write_text('{"tasks": ["a"]}')
    assert_refused(call("report", str(path), "--output", str(tmp_path / "report.html")), "is no relations.json")
