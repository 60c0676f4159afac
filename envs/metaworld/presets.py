"""Default settings of the Meta-World suites per agent: what a YAML file would hold.

MT10 and MT50 follow the published multi-task SAC setting (3 x 400, 128 transitions per task, one update per vector
step, 4 000 random vector steps, 2 million env steps per task). mt3 is a quick one for two cores, found by measurement:
benchmarks/results/mt3.
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
        "random_steps": 300,
        "updates_per_round": 2,
        "learning_rate": 1e-3,
        "alpha_learning_rate": 1e-3,
        "initial_alpha": 0.2,
        "discount": 0.98,
    },
}


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
    **{(f"mt{num_tasks}", "sac"): _published(num_tasks) for num_tasks in (10, 25, 50)},
}
