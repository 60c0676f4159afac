"""The folder of an exported policy: ready for the Hugging Face hub, and for whoever has torch or onnxruntime alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import torch
from pydantic import Field

from mtrl import __version__
from mtrl.checkpoints.checkpoint import read_manifest
from mtrl.checkpoints.files import delete, printable, read_small_file, replace_file, storage_faults
from mtrl.checkpoints.json_text import dump_json, parse_json
from mtrl.checkpoints.manifest import TENSORS, folder_name
from mtrl.checkpoints.store import CheckpointStore
from mtrl.config.schema import dump_yaml
from mtrl.errors import BadInput
from mtrl.export.card import model_card
from mtrl.export.program import FORMATS, DeterministicPolicy, refuse_differences
from mtrl.export.scores import scores_of
from mtrl.faults import named_plugin_faults
from mtrl.optim.torch_defaults import torch_defaults
from mtrl.runs.run_directory import CONFIG, EVALUATION, EXPORT, EXPORT_FACTS, RunDirectory
from mtrl.training.load import TrainedAgent, load_trained
from mtrl.training.restore import suite_facts
from mtrl.types import Weights

CARD = "README.md"
FILES = (CARD, CONFIG, EXPORT_FACTS, EVALUATION, *(file for file, _, _ in FORMATS.values()))
"""Everything that an export writes; other files of its folder are the user's."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Settings of an export."""

    format: Literal["torch", "onnx", "weights"] = "torch"  # for torch, for runtimes of ONNX, for `mtrl eval`
    output: str | None = None  # folder to write; None: `export` in the run directory
    checkpoint: str = "latest"  # latest, best or a step
    weights: Weights = "averaged"  # of the policy: averaged over updates, or those of the last update
    policy_part: str | None = None  # common: that policy of Distral; None: the policies of the tasks
    license: Annotated[str, Field(min_length=1)] = "mit"  # of the exported policy, an identifier of the hub


@named_plugin_faults()
@torch_defaults()
def export(run_dir: Path, settings: ExportSettings, plugins: Sequence[str] | None = None) -> Path:
    """Writes the policy of a run in one format, with a model card; returns the folder.

    An export of the same checkpoint in another format stays beside it. Raises BadInput, StorageFailure.
    """
    run = RunDirectory.open(run_dir)
    trained = load_trained(
        run_dir, settings.checkpoint, plugins, settings.weights, device="cpu", policy_part=settings.policy_part
    )
    folder = run.path / EXPORT if settings.output is None else Path(settings.output)
    about = _about(run, trained, settings)
    earlier = _earlier(folder)
    kept = earlier["files"] if {**earlier, "files": 0} == {**about, "files": 0} else {}
    file, write, load = FORMATS[settings.format]
    policy = DeterministicPolicy(trained.agent, trained.config.agent.name)
    content = write(policy, trained.spec, trained.config.architecture.name)
    refuse_differences(load(content, policy), trained.agent, trained.config.settings.seed)

    about["files"] = {**kept, file: hashlib.sha256(content).hexdigest()}
    scores, evaluation = ([], {}) if settings.policy_part else scores_of(run, trained, settings.weights)
    name = run.path.resolve().name if settings.output is None else folder.resolve().name
    part = f", {settings.policy_part} policy" if settings.policy_part else ""
    facts = {
        "checkpoint": f"{trained.checkpoint}, {settings.weights} weights{part}",
        "env steps": f"{trained.env_steps:,}",
        "seed": str(trained.config.settings.seed),
        "protocol": trained.spec.protocol,
        "versions": f"mtrl-suite {__version__}, torch {torch.__version__}",
    }
    card = model_card(name, trained.config, trained.spec, scores, facts, about["files"], settings.license)
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for other in set(FILES) - {*kept, file}:
            delete(folder / other)
    replace_file(folder / file, content)
    replace_file(folder / CONFIG, dump_yaml(trained.config).encode())
    if evaluation:
        without_path = {key: value for key, value in evaluation.items() if key != "run"}
        replace_file(folder / EVALUATION, dump_json(without_path, indent=2) + b"\n")
    replace_file(folder / CARD, card.encode())
    replace_file(folder / EXPORT_FACTS, dump_json(about, indent=2) + b"\n")
    return folder


def is_export(folder: Path) -> bool:
    """Whether the folder is one that `export` wrote."""
    return (folder / EXPORT_FACTS).is_file() and (folder / CARD).is_file()


def refuse_outdated(run_dir: Path, folder: Path) -> None:
    """Raises BadInput if an export is not of the last checkpoint of its run, nor of a best one."""
    about, run = _earlier(folder), RunDirectory.open(run_dir)
    step, exported = max(CheckpointStore(run.checkpoints).steps(), default=None), about.get("env_steps")
    if step is None or str(about.get("checkpoint")).startswith("best"):
        return
    if exported != step or about.get("checkpoint_sha256") != _digest(run, "step", step):
        other = "another " if exported == step else ""
        raise BadInput(
            f"{printable(str(folder), 160)} is of step {exported}, the run has {other}step {step}: "
            "mtrl export it again, or push that folder"
        )


def _digest(run: RunDirectory, kind: str, step: int) -> str:
    """SHA-256 of the weights in a checkpoint, which tells it from that of another run. Raises BadInput."""
    return read_manifest(run.checkpoints / folder_name(kind, step)).files[TENSORS].sha256


def _about(run: RunDirectory, trained: TrainedAgent, settings: ExportSettings) -> dict[str, Any]:
    """The content of policy.json: what the inputs and the output are, and what they are of."""
    spec = trained.spec
    space: Any = spec.action_space
    if is_export(run.path):  # weights, exported once more
        digest = _earlier(run.path).get("checkpoint_sha256")
    else:
        digest = _digest(run, "best" if trained.checkpoint.startswith("best") else "step", trained.env_steps)
    discrete = isinstance(space, gym.spaces.Discrete)
    return {
        **suite_facts(spec),
        "inputs": {
            "observation": {"shape": list(spec.observation_space.shape), "dtype": str(spec.observation_space.dtype)},
            "task_id": {"shape": [], "dtype": "int64"},
        },
        "output": {"num_actions": int(space.n)} if discrete else {"shape": list(space.shape), "low": -1, "high": 1},
        "checkpoint": trained.checkpoint,
        "checkpoint_sha256": digest,
        "weights": settings.weights,
        "policy_part": settings.policy_part,
        "env_steps": trained.env_steps,
        "version": __version__,
        "files": {},
    }


def _earlier(folder: Path) -> dict[str, Any]:
    """policy.json of an earlier export; empty for a new folder. Raises BadInput for a folder of anything else."""
    try:
        if not folder.exists() or not any(folder.iterdir()):
            return {"files": {}}
        if not is_export(folder):
            raise BadInput(f"{printable(str(folder), 160)} is not empty and no export; choose another --output")
        about = parse_json(read_small_file(folder / EXPORT_FACTS, 2**20))
    except OSError as error:
        raise BadInput(f"{printable(str(folder), 160)} cannot be written: {error.strerror}") from error
    files = about.get("files") if isinstance(about, dict) else None
    if not isinstance(files, dict):
        raise BadInput(f"{printable(str(folder / EXPORT_FACTS), 160)} is not what an export writes")
    return {**about, "files": {name: digest for name, digest in files.items() if (folder / name).is_file()}}
