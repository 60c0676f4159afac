"""Runs training in a child process that can be killed at an exact moment, and compares what runs leave behind."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import agents
import envs
from mtrl.checkpoints.store import CheckpointStore
from mtrl.config.schema import RunConfig, resolve_config
from mtrl.runs.run_directory import RunDirectory
from mtrl.training import run
from mtrl.training.train_state import TrainState
from mtrl.types import Progress

# Torch imports a compiler with the first optimizer: once here, and not in every child.
torch.optim.Adam([torch.zeros(1, requires_grad=True)])

LAST_WORDS = Path(tempfile.gettempdir()) / f"last-words-{os.getpid()}"
"""Where a child leaves the message of the error that ended it."""

WALL_CLOCK = {"time/wall_seconds", "time/env_steps_per_second"}


def tiny_config(suite: str | dict[str, Any] = "point-mass", **changes: Any) -> RunConfig:
    """A run of a few hundred environment steps that logs, evaluates and saves often."""
    agents.register()
    envs.register()
    document: dict[str, Any] = {
        "suite": suite,
        "architecture": {"name": "mlp", "width": 16, "depth": 1},
        "agent": {"name": "sac", "batch_size": 32, "learning_starts": 80},
        "num_envs": 8,
        "num_workers": 0,
        "torch_threads": 1,
        "total_env_steps": 1600,
        "log_interval": 80,
        "eval_interval": 400,
        "eval_episodes_per_task": 2,
        "final_eval_episodes_per_task": 2,
        "checkpoint_interval": 320,
    }
    for name, value in changes.items():
        own = document.get(name)
        both = isinstance(value, dict) and isinstance(own, dict)
        # Settings belong to a class: those of another are replaced.
        document[name] = own | value if both and value.get("name", own["name"]) == own["name"] else value
    return resolve_config(document)


Fault = Callable[[TrainState], None]


def in_child(action: Callable[[], int], at_progress: int | None = None, fault: int | Fault = signal.SIGKILL) -> int:
    """Runs `action` in a forked child that meets a fault at its n-th Progress; returns its exit status.

    The fault is a signal that the child sends itself, or a function of its train state. A negative status is the signal
    that ended the child. Its output is dropped, but for the line that would say why it failed: `LAST_WORDS`.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            torch.set_num_threads(1)  # those of the parent are not here, and a product would wait for them
            if at_progress is not None:
                meet_at(at_progress, fault)
            code = action()
        except Exception as error:
            code = getattr(error, "exit_code", 70)
            LAST_WORDS.write_text(str(error))
            if code == 70:
                traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def meet_at(at_progress: int, fault: int | Fault) -> None:
    loop = run.training_loop

    def counted(state: TrainState, total_env_steps: int) -> Iterator[Progress]:
        for count, progress in enumerate(loop(state, total_env_steps), start=1):
            if count == at_progress:
                if callable(fault):
                    fault(state)
                else:
                    os.kill(os.getpid(), fault)
            yield progress

    run.training_loop = counted  # type: ignore[assignment]


def final_state(run_dir: Path) -> dict[str, Any]:
    """The state and buffer rows of a run's last checkpoint."""
    checkpoint = CheckpointStore(run_dir / "checkpoints").load("latest")
    rows: dict[str, Any] = {}
    for _, tensors in checkpoint.chunks():
        # Chunks written at different times are cut differently; what they hold together must agree.
        first = int(tensors.pop("first_row"))
        ended = tensors.pop("final_rows").tolist()
        num_envs = tensors["reward"].shape[1]
        finals = dict(zip(ended, tensors.pop("finals"), strict=True))
        for offset in range(tensors["reward"].shape[0]):
            own = {position - offset * num_envs: final for position, final in finals.items()}
            kept = {str(slot): final for slot, final in own.items() if 0 <= slot < num_envs}
            rows[str(first + offset)] = {name: column[offset] for name, column in tensors.items()} | {"finals": kept}
    return {"state": checkpoint.state, "step": checkpoint.step, "rows": rows}


def log_rows(run_dir: Path) -> tuple[list[Any], list[Any]]:
    """Rows of metrics.jsonl without wall-clock values, and of eval.csv."""
    opened = RunDirectory.open(run_dir)
    metrics = [{name: value for name, value in row.items() if name not in WALL_CLOCK} for row in opened.metrics.rows()]
    return metrics, opened.evaluations.rows()


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Where two nested states differ in a single bit."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        if first.keys() != second.keys():
            return [f"{path}: keys {sorted(first.keys() ^ second.keys())}"]
        return [line for key in first for line in differences(first[key], second[key], f"{path}/{key}")]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [line for index, (one, other) in pairs for line in differences(one, other, f"{path}/{index}")]
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        first, second = first.numpy(), second.numpy()
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        same = first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()
        return [] if same else [f"{path}: arrays differ"]
    return [] if type(first) is type(second) and first == second else [f"{path}: {first!r} != {second!r}"]
