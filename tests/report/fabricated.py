"""Run directories with given scores, as `mtrl train` leaves them but for checkpoints. Shapes: M tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import agents
import envs
from mtrl.config.schema import dump_yaml, resolve_config
from mtrl.runs.logs import EvaluationLog, EvaluationRow, MetricsLog


def write_run(
    path: Path,
    final: Sequence[float] | None,
    periodic: Mapping[int, Sequence[float]] | None = None,
    *,
    tasks: Sequence[str] = ("reach-v3", "push-v3"),
    score: str = "success",
    env_steps: int = 1000,
    episodes: int = 50,
    meta: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    **config: Any,
) -> Path:
    """A run whose evaluations gave these success rates (M,) or returns (M,), by env steps; `final` None: not yet.

    meta and settings: entries of meta.json and its protocol's settings. config: the document of the configuration.
    """
    agents.register()
    envs.register()
    path.mkdir(parents=True)
    document = {"suite": f"metaworld:{','.join(tasks)}" if score == "success" else "point-mass", **config}
    (path / "config.yaml").write_text(dump_yaml(resolve_config({"total_env_steps": env_steps, **document})))
    about = {
        "versions": {"mtrl-suite": "0.3.0", "torch": "2.10"},
        "git": {"commit": "0123456789abcdef"},
        "suite": "two-tasks",
        "protocol": "metaworld-plus",
        "tasks": list(tasks),
        "settings": {
            **{"reward_function": "v2", "horizon": 500, "goals_seed": config.get("seed", 1), "tasks": list(tasks)},
            **(settings or {}),
        },
        "seed_settings": ["goals_seed"],
        "task_settings": ["tasks"],
        "score": score,
        "reference_returns": {},
        "num_parameters": 1234567,
        "device": "cpu",
        "cores": 2,
        "status": "done",
    }
    (path / "meta.json").write_text(json.dumps(about | dict(meta or {})))
    log = EvaluationLog(path / "eval.csv")
    for steps, scores in (periodic or {}).items():
        log.append(
            EvaluationRow(steps, task, 10, own, own, "periodic") for task, own in zip(tasks, scores, strict=True)
        )
    if final is not None:
        rows = zip(tasks, final, strict=True)
        log.append(EvaluationRow(env_steps, task, episodes, own, own, "final") for task, own in rows)
    log.file.close()
    rows_of_metrics = MetricsLog(path / "metrics.jsonl")
    for row in metrics:
        rows_of_metrics.append(row)
    rows_of_metrics.file.close()
    return path
