"""Updates that two ranks share out are those of one process, up to rounding, and the same bits on both."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.updates.data_parallel import measure_shared_updates, report
from benchmarks.updates.sac import UpdateSizes
from mtrl.agent import Agent
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.config.schema import RunConfig
from mtrl.data_parallel.learning import learning
from mtrl.data_parallel.ranks import largest
from mtrl.env.episodes import RandomEpisodes
from mtrl.training import run
from mtrl.training.build import build_agent, build_suite
from mtrl.types import Batch, Metrics, State, TaskWeights
from tests.data_parallel.two_ranks import in_ranks
from tests.training.tiny_runs import tiny_config

SAC = {"name": "sac", "batch_size": 33, "learning_starts": 16}
PPO = {"name": "ppo", "rollout_steps": 6, "epochs": 2, "minibatches": 2}
TEACHER = "TEACHER"  # stands for a run
DISTILL = {"name": "distill", "batch_size": 33, "teachers": [TEACHER]}
# The last task has a row or two in a batch, often none on one of the ranks.
WEIGHTS = TaskWeights(shares=np.array([0.5, 0.3, 0.16, 0.04]), loss_weights=np.array([1.0, 0.5, 1.5, 1.0]))
ROUTING = {"name": "routing", "width": 16, "diversity": 0.1}

CELLS: dict[str, dict[str, Any]] = {
    "sac": {},
    "sac, popart, temperature weights": {"normalizer": "popart", "agent": {**SAC, "temperature_task_weights": True}},
    "sac, return scale": {"normalizer": "return-scale"},
    "sac, discrete": {"suite": "point-mass-discrete"},
    "sac, distral": {"policy": "distral"},
    "sac, routing": {"architecture": ROUTING},
    "sac, adashare": {"architecture": {"name": "adashare", "width": 16}},
    "sac, famo": {"aggregator": {"name": "great", "critic": {"name": "famo"}}},
    "sac, graddrop": {"aggregator": {"name": "graddrop", "critic": {"name": "mgda-ub"}}},
    "sac, pcgrad": {"aggregator": {"name": "pcgrad", "critic": {"name": "gradnorm"}}},
    "sac, reward prediction": {"encoder": {"name": "mlp", "width": 16}, "auxiliary": "reward-prediction"},
    "sac, distillation": {"auxiliary": [{"name": "distillation", "teachers": [TEACHER]}]},
    "distill": {"agent": DISTILL},
    "distill, features": {"agent": {**DISTILL, "feature_coefficient": 0.01}},
    "ppo": {"agent": PPO},
    "ppo, popart, separate": {
        "agent": {**PPO, "target_kl": 0.01},
        "normalizer": "popart",
        "architecture": {"name": "separate", "width": 16, "depth": 1},
    },
    "ppo, upgrad": {"agent": PPO, "aggregator": "upgrad"},
}


def learnt(config: RunConfig, shared: bool) -> tuple[Agent, list[Metrics]]:
    """An agent after 18 vector steps, with every update shared out or none."""
    suite = build_suite(config.suite, 1)
    agent = build_agent(config, suite, torch.device("cpu"))
    num_envs = agent.num_envs
    envs = suite.make_envs(
        num_envs, RandomEpisodes(suite.spec, num_envs, 1), mode="train", num_workers=0, worker_timeout=60
    )
    buffer = RolloutBuffer(suite.spec, num_envs, 100, 1, agent.extras)
    observation, found = envs.reset(), []
    for step in range(1, 19):
        action_step = agent.act(observation, envs.task_ids, explore=True)
        result = envs.step(action_step.action)
        buffer.add(observation, action_step, result)
        agent.on_env_step(result)
        observation = result.observation
        if step % agent.rollout_steps == 0:
            with learning(shared):
                found.append(agent.update(buffer, WEIGHTS))
            if not agent.learns_from_replay:
                buffer.clear()
    return agent, found


def digest(state: Any) -> int:
    """63 bits of all tensors of a state."""
    if isinstance(state, dict):
        text = str([(name, digest(value)) for name, value in state.items()]).encode()
    elif isinstance(state, torch.Tensor):
        text = state.numpy().tobytes()
    else:
        text = repr(state).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def without_streams(state: State) -> State:
    """What is learnt, as tensors."""
    groups = {name: own["optimizer"] for name, own in state["groups"].items()}
    memories = {
        name: {key: value for key, value in own["aggregator"].items() if key != "generator"}
        for name, own in state["groups"].items()
    }
    return {"modules": state["modules"], "optimizers": groups, "aggregators": memories}


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a small run."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    short = {"total_env_steps": 160, "log_interval": 1600, "eval_interval": 0, "final_eval_episodes_per_task": 0}
    assert run.train(tiny_config(**short), folder) == 0
    return str(folder)


def with_teacher(settings: Any, teacher: str) -> Any:
    """The settings with the run in place of `TEACHER`."""
    if isinstance(settings, dict):
        return {name: with_teacher(value, teacher) for name, value in settings.items()}
    if isinstance(settings, list):
        return [with_teacher(value, teacher) for value in settings]
    return teacher if settings == TEACHER else settings


QUICK = ["distill", "ppo, popart, separate", "ppo, upgrad", "sac, distillation", "sac, famo", "sac, pcgrad"]


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, marks=() if cell in QUICK else pytest.mark.slow) for cell in sorted(CELLS)]
)
def test_two_ranks_learn_what_one_process_learns(tmp_path: Path, teacher: str, cell: str) -> None:
    config = tiny_config(**{"agent": SAC} | with_teacher(CELLS[cell], teacher))

    def compare() -> int:
        alone, expected = learnt(config, shared=False)
        together, found = learnt(config, shared=True)
        # The largest of a number and its negative: both ranks have one and the same.
        own = digest(together.state())
        high, low = largest(own, -own)
        assert high == -low
        assert own != digest(alone.state()) or config.agent.name == "ppo"  # it was shared out
        torch.testing.assert_close(
            without_streams(together.state()), without_streams(alone.state()), rtol=2e-3, atol=2e-5
        )
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4, equal_nan=True)
        return 0

    assert in_ranks(compare, tmp_path / "words") == [0, 0]


def test_parts_of_a_batch_have_their_share_of_every_task() -> None:
    counts = (5, 0, 1, 4)
    tasks = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    rows = torch.arange(10.0)
    batch = Batch(tasks, rows, rows, rows, rows > 5, rows > 5, rows, torch.tensor(counts) / 10, counts)
    parts = [batch.every_kth(first, 3) for first in range(3)]
    assert [part.own_counts for part in parts] == [(2, 0, 0, 2), (2, 0, 0, 1), (1, 0, 1, 1)]
    for part in parts:
        assert part.counts == counts
        assert part.own_counts == tuple(torch.bincount(part.task_ids, minlength=4).tolist())
    assert sorted(torch.cat([part.reward for part in parts]).tolist()) == rows.tolist()
    assert batch.own_counts == counts


def test_the_benchmark_measures_both(tmp_path: Path) -> None:
    def measure() -> int:
        times = measure_shared_updates(UpdateSizes(suite="point-mass", batch_size=8), repeats=1, updates_per_repeat=1)
        assert "ratio" in report(times, 2)
        return 0

    assert in_ranks(measure, tmp_path / "words") == [0, 0]
