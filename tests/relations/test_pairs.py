"""Four point-mass goals in two pairs are grouped as pairs by every measure."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtrl.relations import groups
from mtrl.relations.continuation import continued
from mtrl.relations.run_relations import MEASURES, MeasureSettings
from mtrl.training import run
from tests.training.tiny_runs import tiny_config

PPO = {
    "name": "ppo",
    "rollout_steps": 20,
    "epochs": 8,
    "minibatches": 1,
    "learning_rate": 0.003,
    "discount": 0.7,
}
YOUNG = {"cosine": MeasureSettings(updates=4), "tag": MeasureSettings(updates=4)}
"""Gradients tell before the policies are good, and are noise near the optimum."""
TRAINED = {
    "rsa": MeasureSettings(updates=2, probes=64),
    "attribution": MeasureSettings(updates=2, probes=64),
    "fisher": MeasureSettings(updates=4, probes=512),
}


def found_pairs(path: Path, seed: int, env_steps: int, measures: dict[str, MeasureSettings]) -> dict[str, bool]:
    """Whether a run of so many env steps shows the pairs, by measure."""
    config = tiny_config(
        "point-mass-pairs",
        seed=seed,
        agent=PPO,
        architecture={"name": "mlp", "width": WIDTH, "depth": 2},
        num_envs=16,
        total_env_steps=env_steps,
        log_interval=env_steps,
        eval_interval=0,
        final_eval_episodes_per_task=0,
        checkpoint_interval=env_steps,
    )
    assert run.train(config, path) == 0
    found = {}
    for name, settings in measures.items():
        with continued(path) as going_on:
            found[name] = groups(MEASURES[name](going_on, settings).cpu().numpy(), 2) == [[0, 1], [2, 3]]
    return found


WIDTH = 64
"""Units per layer."""
TRAINED_STEPS = 9_600
"""Env steps after which most goals are reached."""


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_gradients_of_young_runs_show_the_pairs(tmp_path: Path, seed: int) -> None:
    assert found_pairs(tmp_path / "run", seed, 640, YOUNG) == dict.fromkeys(YOUNG, True)


@pytest.mark.parametrize(
    "seed",
    [1, pytest.param(2, marks=pytest.mark.slow), *(pytest.param(seed, marks=pytest.mark.full) for seed in (3, 4, 5))],
)
def test_networks_of_trained_runs_show_the_pairs(tmp_path: Path, seed: int) -> None:
    assert found_pairs(tmp_path / "run", seed, TRAINED_STEPS, TRAINED) == dict.fromkeys(TRAINED, True)
