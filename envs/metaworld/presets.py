"""Default settings of the Meta-World suites per agent: what a YAML file would hold.

MT10 and MT50 follow the published multi-task SAC setting (3 x 400, 128 transitions per task, one update per vector
step, 4 000 random vector steps, 2 million env steps per task), and for PPO the published multi-task PPO setting (10 000
steps per environment and rollout, 16 epochs of 32 minibatches) but for the advantages, which are normalised within each
task, and for values, which are learnt in PopArt's units: returns are of order 1000 here. mt3 is a quick one for two
cores; that of SAC was found by measurement: benchmarks/results/mt3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MT3_SAC = {
    "total_env_steps": 200_000,
    "num_envs": 12,
    "torch_threads": 1,
    "eval_interval": 100_000,
    "eval_episodes_per_task": 5,
    "checkpoint_interval": 50_000,
    "log_interval": 2_400,
    "architecture": {"name": "multi-head", "width": 128, "depth": 2, "layer_norm": True},
    "agent": {
        "name": "sac",
        "batch_size": 192,
        "learning_starts": 3_600,
        "buffer_size": 1_200_000,
        "gradient_steps": 2,
        "learning_rate": 1e-3,
        "alpha_learning_rate": 1e-3,
        "initial_alpha": 0.2,
        "discount": 0.98,
    },
}


_PPO = {
    "name": "ppo",
    "rollout_steps": 10_000,
    "epochs": 16,
    "minibatches": 32,
    "gae_lambda": 0.97,
    "clip_range": 0.2,
    "entropy_coefficient": 5e-3,
    # Of errors in PopArt's units. With `--normalizer none` it wants a thousandth of this: squared errors of raw returns
    # would leave the policy nothing of the gradient-norm bound.
    "value_coefficient": 0.5,
    "learning_rate": 3e-4,
    "max_grad_norm": 1.0,
}

_POPART = {"name": "popart", "rate": 1e-3}

_MT3_PPO = {
    **{name: value for name, value in _MT3_SAC.items() if name not in ("agent", "architecture")},
    "total_env_steps": 300_000,
    "eval_interval": 60_000,
    "architecture": {"name": "multi-head", "width": 128, "depth": 2},
    "normalizer": _POPART,
    "agent": {
        **_PPO,
        "rollout_steps": 500,
        "epochs": 10,
        "minibatches": 20,
        "discount": 0.98,
        "gae_lambda": 0.95,
        "learning_rate": 1e-3,
        "initial_log_std": -0.5,
    },
}


def sac(num_tasks: int) -> Mapping[str, Any]:
    """Random actions for 4 000 steps of every task, and the last 100 000 transitions of every task."""
    return {"name": "sac", "learning_starts": 4_000 * num_tasks, "buffer_size": 100_000 * num_tasks}


def _published(num_tasks: int) -> Mapping[str, Any]:
    return {
        "total_env_steps": 2_000_000 * num_tasks,
        "eval_interval": 20_000 * num_tasks,
        "eval_episodes_per_task": 50,
        "checkpoint_interval": 20_000 * num_tasks,
        "log_interval": 1_000 * num_tasks,
    }


PRESETS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("mt3", "sac"): _MT3_SAC,
    ("mt3", "ppo"): _MT3_PPO,
    **{(f"mt{num_tasks}", "sac"): {**_published(num_tasks), "agent": sac(num_tasks)} for num_tasks in (10, 25, 50)},
    **{
        (f"mt{num_tasks}", "ppo"): {**_published(num_tasks), "agent": _PPO, "normalizer": _POPART}
        for num_tasks in (10, 25, 50)
    },
}
"""By suite and agent."""


def preset(name: str, num_tasks: int, agent: str) -> Mapping[str, Any]:
    """Settings of a suite for an agent; single tasks and lists of tasks have those that `PRESETS` does not name."""
    others: Mapping[str, Mapping[str, Any]] = {
        "sac": {"agent": sac(num_tasks)},
        "ppo": {"agent": _PPO, "normalizer": _POPART},
    }
    return PRESETS.get((name, agent), others.get(agent, {}))
