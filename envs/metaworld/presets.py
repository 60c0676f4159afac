"""Named settings of the Meta-World suites per agent: what a YAML file would hold.

`published` follows the published multi-task SAC setting (3 x 400, 128 transitions per task, one update per vector step,
4 000 random vector steps, 2 million env steps per task), and for PPO the published multi-task PPO setting (10 000 steps
per environment and rollout, 16 epochs of 32 minibatches) but for the advantages, which are normalised within each task,
and for values, which are learnt in PopArt's units: returns are of order 1000 here.

`fine-tuning` is for the test tasks of ML10 and ML45, from the weights of a run on their training tasks.

`fast` is for few env steps on a machine without a GPU. Its settings were found by measurement
(benchmarks/results/README.md). Its scores cannot be compared with published ones: the budget is another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_POPART = {"name": "popart", "rate": 1e-3}

_PUBLISHED_PPO = {
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

_MT3 = {
    "num_envs": 12,
    "torch_threads": 1,
    "eval_episodes_per_task": 5,
    "checkpoint_interval": 50_000,
    "log_interval": 2_400,
}

_MT3_SAC = {
    **_MT3,
    "total_env_steps": 200_000,
    "eval_interval": 100_000,
    "architecture": {"name": "multi-head", "width": 128, "depth": 2, "layer_norm": True},
    "normalizer": {"name": "return-range"},
    "agent": {
        "name": "sac",
        "batch_size": 192,
        "learning_starts": 3_600,
        "buffer_size": 1_200_000,
        "gradient_steps": 2,
        "n_step": 3,
        "critic_bins": 101,
        "learning_rate": 1e-3,
        "alpha_learning_rate": 1e-3,
        "initial_alpha": 0.003,
        "discount": 0.98,
    },
}

_MT3_PPO = {
    **_MT3,
    "total_env_steps": 300_000,
    "eval_interval": 60_000,
    "architecture": {"name": "multi-head", "width": 128, "depth": 2},
    "normalizer": _POPART,
    "agent": {
        **_PUBLISHED_PPO,
        "rollout_steps": 500,
        "epochs": 10,
        "minibatches": 20,
        "discount": 0.98,
        "gae_lambda": 0.95,
        "learning_rate": 1e-3,
        "initial_log_std": -0.5,
    },
}


def presets(name: str, num_tasks: int, agent: str) -> Mapping[str, Mapping[str, Any]]:
    """Settings for a suite of so many tasks by the preset's name; only mt3 is fast by default."""
    if agent not in ("sac", "ppo"):
        return {}
    published = {**_published(num_tasks), **(_published_sac(num_tasks) if agent == "sac" else _published_ppo())}
    if name == "mt3":
        return {"fast": _MT3_SAC if agent == "sac" else _MT3_PPO, "published": published}
    fast = _fast_sac(num_tasks) if agent == "sac" else _fast_ppo(num_tasks)
    if name.startswith(("ml10-test", "ml45-test")):
        return {"fine-tuning": _fine_tuning(num_tasks, agent), "published": published, "fast": fast}
    return {"published": published, "fast": fast}


def _published(num_tasks: int) -> dict[str, Any]:
    return {
        "total_env_steps": 2_000_000 * num_tasks,
        "eval_interval": 20_000 * num_tasks,
        "eval_episodes_per_task": 50,
        "checkpoint_interval": 20_000 * num_tasks,
        "log_interval": 1_000 * num_tasks,
    }


def _published_sac(num_tasks: int) -> dict[str, Any]:
    """Random actions for 4 000 steps of every task, and the last 100 000 transitions of every task."""
    return {"agent": {"name": "sac", "learning_starts": 4_000 * num_tasks, "buffer_size": 100_000 * num_tasks}}


def _published_ppo() -> dict[str, Any]:
    return {"agent": _PUBLISHED_PPO, "normalizer": _POPART}


def _fast(num_tasks: int) -> dict[str, Any]:
    return {
        "total_env_steps": 100_000 * num_tasks,
        "torch_threads": 1,
        "eval_interval": 25_000 * num_tasks,
        "eval_episodes_per_task": 10,
        "checkpoint_interval": 5_000 * num_tasks,
        "log_interval": 1_000 * num_tasks,
    }


def _fast_sac(num_tasks: int) -> dict[str, Any]:
    """Many updates on small batches with a large learning rate, which categorical critics bear.

    Targets look three steps ahead, and temperatures start where they would arrive.
    """
    return {
        **_fast(num_tasks),
        "architecture": {"name": "residual", "width": 256, "depth": 1},
        "normalizer": {"name": "return-range"},
        "agent": {
            "name": "sac",
            "batch_size": max(128, 32 * num_tasks),
            "learning_starts": 1_000 * num_tasks,
            "buffer_size": 100_000 * num_tasks,
            "n_step": 3,
            "critic_bins": 101,
            "learning_rate": 1e-3,
            "annealing_steps": 100_000 * num_tasks,
            "alpha_learning_rate": 1e-3,
            "initial_alpha": 0.003,
        },
    }


def _fast_ppo(num_tasks: int) -> dict[str, Any]:
    """Two slots per task; short rollouts, small layers and a large learning rate."""
    return {
        **_fast(num_tasks),
        "num_envs": 2 * num_tasks,
        "architecture": _MT3_PPO["architecture"],
        "normalizer": _POPART,
        "agent": _MT3_PPO["agent"],
    }


def _fine_tuning(num_tasks: int, agent: str) -> dict[str, Any]:
    """Ten episodes of each of the 50 goals, as many as the official evaluation of meta-learning gives to adapt.

    Ten slots per task. PPO makes an update of one episode of each. SAC, whose actions are random until then, learns
    after 50 env steps of each.
    """
    settings: dict[str, Any] = {
        "ppo": {**_PUBLISHED_PPO, "rollout_steps": 500, "epochs": 10, "minibatches": 20},
        "sac": {"name": "sac", "learning_starts": 500 * num_tasks, "buffer_size": 250_000 * num_tasks},
    }
    return {
        "total_env_steps": 250_000 * num_tasks,
        "num_envs": 10 * num_tasks,
        "eval_interval": 50_000 * num_tasks,
        "eval_episodes_per_task": 50,
        "checkpoint_interval": 50_000 * num_tasks,
        "log_interval": 5_000 * num_tasks,
        "agent": settings[agent],
        **({"normalizer": _POPART} if agent == "ppo" else {}),
    }
