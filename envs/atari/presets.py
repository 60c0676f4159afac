"""Default settings of the Atari suites per agent: what a YAML file would hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def published(num_games: int, agent: str) -> Mapping[str, Any]:
    """Settings for `num_games` games; an agent without a row of its own gets what any agent on pixels wants."""
    own = {"sac": _sac, "ppo": _ppo}.get(agent)
    return {**_any_agent(num_games), **(own(num_games) if own else {})}


def _any_agent(num_games: int) -> dict[str, Any]:
    return {
        "total_env_steps": 10_000_000 * num_games,  # 40 million frames per game
        "num_envs": 8 * num_games,
        "encoder": {"name": "nature"},
        "architecture": {"name": "multi-head", "width": 512, "depth": 1},
        "eval_interval": 1_000_000 * num_games,
        "eval_episodes_per_task": 5,
        "final_eval_episodes_per_task": 30,
        "checkpoint_interval": 250_000 * num_games,
        "log_interval": 10_000 * num_games,
    }


def _sac(num_games: int) -> dict[str, Any]:
    """Discrete SAC (Christodoulou, 2019): an update on 64 transitions per game after 4 env steps of each.

    The buffer holds 50 000 transitions per game, 0.35 GB.
    """
    return {
        "total_env_steps": 2_000_000 * num_games,
        "normalizer": {"name": "reward-clip"},  # raw scores of one game may be thousands of times another's
        "num_envs": 4 * num_games,
        "agent": {
            "name": "sac",
            "batch_size": 64 * num_games,
            "buffer_size": 50_000 * num_games,
            "learning_starts": 5_000 * num_games,
        },
        "eval_interval": 200_000 * num_games,
        "checkpoint_interval": 50_000 * num_games,
    }


def _ppo(num_games: int) -> dict[str, Any]:
    """The usual settings (Schulman et al., 2017, arXiv:1707.06347, table 5), which are PPO's defaults.

    Eight slots per game; the learning rate falls to zero over the run.
    """
    return {
        "normalizer": {"name": "reward-clip"},
        "agent": {"name": "ppo", "annealing_steps": 10_000_000 * num_games},
    }
