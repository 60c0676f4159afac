"""Default settings of Gymnasium suites per agent: what a YAML file would hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def fast(num_tasks: int, agent: str) -> Mapping[str, Any]:
    """Settings for `num_tasks` small control tasks, discrete or continuous."""
    own = {"sac": _sac, "ppo": _ppo}.get(agent)
    return {**_any_agent(num_tasks), **(own(num_tasks) if own else {})}


def _any_agent(num_tasks: int) -> dict[str, Any]:
    return {
        "total_env_steps": 100_000 * num_tasks,
        "num_envs": 8 * num_tasks,
        "torch_threads": 1,
        "architecture": {"name": "multi-head", "width": 128, "depth": 2},
        "eval_interval": 25_000 * num_tasks,
        "eval_episodes_per_task": 10,
        "final_eval_episodes_per_task": 50,
        "checkpoint_interval": 25_000 * num_tasks,
        "log_interval": 2_000 * num_tasks,
    }


def _sac(num_tasks: int) -> dict[str, Any]:
    return {
        "total_env_steps": 50_000 * num_tasks,
        "num_envs": 4 * num_tasks,
        "agent": {
            "name": "sac",
            "batch_size": 64 * num_tasks,
            "learning_starts": 1_000 * num_tasks,
            "buffer_size": 100_000 * num_tasks,
            "learning_rate": 1e-3,
            "alpha_learning_rate": 1e-3,
            "gradient_steps": 2,
            "target_rate": 0.01,
            # Rewards may come after hundreds of steps that are all alike, as in Acrobot: an episode that happens to get
            # there teaches 10 transitions at a time with this, and one without.
            "n_step": 10,
        },
    }


def _ppo(num_tasks: int) -> dict[str, Any]:
    return {
        "total_env_steps": 200_000 * num_tasks,
        "normalizer": {"name": "popart"},
        "agent": {
            "name": "ppo",
            "rollout_steps": 128,
            "epochs": 10,
            "minibatches": 8,
            # With 0.001 and no entropy bonus, DMControl's swing-up was not found within a million env steps.
            "learning_rate": 3e-4,
            "clip_range": 0.2,
            "entropy_coefficient": 0.01,
        },
    }
