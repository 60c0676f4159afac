"""Default settings of ViZDoom suites per agent: what a YAML file would hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def fast(num_tasks: int, agent: str) -> Mapping[str, Any]:
    """Settings for `num_tasks` scenarios: the network of IMPALA, and PPO on minibatches of 128 samples per scenario."""
    settings: dict[str, Any] = {
        "total_env_steps": 500_000 * num_tasks,
        "num_envs": 8 * num_tasks,
        "encoder": {"name": "impala"},
        "architecture": {"name": "multi-head", "width": 256, "depth": 1},
        "eval_interval": 50_000 * num_tasks,
        "eval_episodes_per_task": 10,
        "final_eval_episodes_per_task": 50,
        "checkpoint_interval": 50_000 * num_tasks,
        "log_interval": 5_000 * num_tasks,
    }
    if agent == "ppo":
        settings["normalizer"] = {"name": "popart"}
        settings["agent"] = {
            "name": "ppo",
            # Health is not on the screen, so values cannot tell that a medkit was taken: what it was worth has to
            # reach the advantages through the rewards of the rest of the episode, of 90 to 520 env steps.
            "rollout_steps": 256,
            "gae_lambda": 0.99,
            "minibatches": 16,
            "learning_rate": 2.5e-4,
            "clip_range": 0.2,
        }
    if agent == "sac":
        settings["normalizer"] = {"name": "return-scale"}
        settings["agent"] = {
            "name": "sac",
            "batch_size": 64 * num_tasks,
            "buffer_size": 50_000 * num_tasks,
            "learning_starts": 5_000 * num_tasks,
        }
    return settings
