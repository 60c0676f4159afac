"""Checkpoints of a run, and how a run continues from one."""

from __future__ import annotations

from typing import Any

import torch

from mtrl.agent import Agent
from mtrl.checkpoints.checkpoint import Checkpoint
from mtrl.checkpoints.store import CheckpointStore
from mtrl.checkpoints.versions import dependency_versions, package_versions
from mtrl.config.schema import RunConfig
from mtrl.data_parallel.ranks import WORLD
from mtrl.env.suite import Suite
from mtrl.errors import BadInput
from mtrl.loggers.console import say
from mtrl.optim.matmul_backend import DEFAULT, choose_matmul_backend
from mtrl.runs.run_directory import RunDirectory
from mtrl.training.train_state import TrainState
from mtrl.types import SuiteSpec

RANKS = "number of ranks"
"""Its key among the versions of a checkpoint; missing for one."""


def suite_facts(spec: SuiteSpec) -> dict[str, Any]:
    """What a number or a checkpoint of a suite depends on, as JSON."""
    return {
        "suite": spec.name,
        "protocol": spec.protocol,
        "tasks": list(spec.task_names),
        "settings": dict(spec.settings),
        # What may differ where scores are compared over seeds, or over sets of tasks.
        "seed_settings": list(spec.seed_settings),
        "task_settings": list(spec.task_settings),
    }


def checkpoint_store(run: RunDirectory, config: RunConfig, suite: Suite, device: torch.device) -> CheckpointStore:
    """The checkpoints of a run, which record the versions of what their numbers depend on."""
    versions = {**dependency_versions(), **package_versions(suite.packages)}
    backend = choose_matmul_backend()
    if device.type == "cpu" and backend != DEFAULT:
        versions["matmul backend"] = backend  # another library sums up in another order
    if WORLD.size > 1:
        versions[RANKS] = str(WORLD.size)  # as do other parts of a batch
    return CheckpointStore(run.checkpoints, keep=config.settings.keep_checkpoints, versions=versions)


def refuse_another_suite(checkpoint: Checkpoint, suite: Suite) -> None:
    """Raises BadInput if the checkpoint's tasks, goals, rewards or protocol are not those of `suite`."""
    now, then = suite_facts(suite.spec), dict(checkpoint.info)
    fields = [(name, then.get(name), now[name]) for name in ("suite", "protocol", "tasks")]
    stored_settings = then.get("settings")
    settings = stored_settings if isinstance(stored_settings, dict) else {}
    # Versions of packages are compared by `CheckpointStore.version_changes`, which warns.
    fields += [
        (name, settings.get(name), value) for name, value in now["settings"].items() if name not in suite.packages
    ]
    for name, stored, value in fields:
        if stored != value:
            raise BadInput(f"checkpoint {checkpoint.path}: {name} is {stored!r}, not {value!r}")


def refuse_other_inputs(checkpoint: Checkpoint, agent: Agent) -> None:
    """Raises BadInput if the agent learns from something else, say another teacher, than the checkpoint records."""
    stored, now = checkpoint.info.get("inputs", {}), agent.inputs()
    for name in sorted({*stored, *now}):
        if stored.get(name) != now.get(name):
            then, found = (str(known.get(name, "none"))[:12] for known in (stored, now))
            raise BadInput(f"checkpoint {checkpoint.path}: {name} has changed, sha256 {then}, now {found}")


def restore(state: TrainState, checkpoint: Checkpoint) -> None:
    """Loads a checkpoint and says if the resume is not exact. Raises BadInput for one of another configuration."""
    threads = checkpoint.state.get("torch_threads")
    same_ranks = checkpoint.versions.get(RANKS, "1") == str(WORLD.size)
    if type(threads) is int and 0 < threads <= 4096 and same_ranks:
        torch.set_num_threads(threads)  # the last bits of a matrix product depend on their number
    try:
        exact = state.load_state(checkpoint.state, checkpoint.chunks())
    except (LookupError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise BadInput(f"checkpoint {checkpoint.path} does not fit this configuration: {error}") from error
    if not state.envs.replays_exactly:
        say(f"this suite cannot replay the running episodes: resumed at step {checkpoint.step} with new ones")
    elif checkpoint.info.get("in_step"):
        say(f"an environment failed in the step after {checkpoint.step}: this resume of it is not exact")
    elif not exact:
        say(f"running episodes were not restored bit for bit: this resume of step {checkpoint.step} is not exact")
