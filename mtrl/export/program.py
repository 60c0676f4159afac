"""A policy as one file: observation and task in, deterministic action out. Shapes: B batch, A action.

torch: a program of `torch.export` (`policy.pt2`), torch's format for deployment; TorchScript is deprecated. ONNX:
`policy.onnx`, made from the same program, for whatever has a runtime of ONNX. Either takes any number of rows. weights:
`policy.safetensors`, parameters and buffers alone, which this library reads (`mtrl.training.load`).
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from mtrl.agent import Agent
from mtrl.checkpoints import tensor_file
from mtrl.errors import BadInput, MtrlError
from mtrl.evaluation.protocol_policy import ActionRule, mode_rule
from mtrl.runs.run_directory import EXPORTED_WEIGHTS
from mtrl.seeding import stream
from mtrl.types import SuiteSpec

TOLERANCE = 1e-4
"""Largest difference of an action from the agent's."""
MAX_TIES = 0.01
"""Share of random inputs at which discrete choices may differ: those of two actions that are as good up to rounding."""
_NUM_INPUTS = 256


class DeterministicPolicy(nn.Module):
    """The averaged policy with its encoder, which scales pixels: (observation, task_id) -> action.

    Raises BadInput for an agent that keeps no `AveragedPolicy`.
    """

    def __init__(self, agent: Agent, name: str):
        """name: of the agent, for errors."""
        super().__init__()
        average = agent.averaged_policy()
        if average is None:
            raise BadInput(f"agent {name!r} keeps no AveragedPolicy, which is what is exported")
        self.encoder, self.policy = average.encoder, average.policy

    def forward(self, observation: Tensor, task_id: Tensor) -> Tensor:
        """observation (B, *observation), task_id (B,) int64 -> (B, A) float32 or (B,) int64."""
        features = self.encoder(observation)
        return self.policy.head.to_environment(self.policy(features, task_id).distribution.mode())


def export_torch(policy: DeterministicPolicy, spec: SuiteSpec, architecture: str) -> bytes:
    """The bytes of policy.pt2. Raises BadInput where the architecture, which is named, has no graph."""
    with _refused(architecture, "torch"):
        stream_ = io.BytesIO()
        torch.export.save(_program(policy, spec), stream_)
        return stream_.getvalue()


def export_onnx(policy: DeterministicPolicy, spec: SuiteSpec, architecture: str) -> bytes:
    """The bytes of policy.onnx. Raises BadInput where the architecture has no graph, or packages are missing."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise BadInput(f"--format onnx needs {error.name}; pip install 'mtrl-suite[onnx]'") from error
    names: dict[str, Any] = {"input_names": ["observation", "task_id"], "output_names": ["action"]}
    with _refused(architecture, "onnx"):
        exported = torch.onnx.export(_program(policy, spec), dynamo=True, external_data=False, verbose=False, **names)
        assert exported is not None
        return exported.model_proto.SerializeToString()


def export_weights(policy: DeterministicPolicy, spec: SuiteSpec, architecture: str) -> bytes:
    """The bytes of policy.safetensors."""
    return tensor_file.encode(policy.state_dict())


def load_torch(content: bytes, policy: DeterministicPolicy) -> ActionRule:
    """The exported program as a function of arrays."""
    program: Callable[..., Tensor] = torch.export.load(io.BytesIO(content)).module()
    return lambda observation, task_ids: program(torch.from_numpy(observation), torch.from_numpy(task_ids)).numpy()


def load_onnx(content: bytes, policy: DeterministicPolicy) -> ActionRule:
    """The exported model in onnxruntime, as a function of arrays."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda observation, task_ids: session.run(None, {"observation": observation, "task_id": task_ids})[0]


def load_weights(content: bytes, policy: DeterministicPolicy) -> ActionRule:
    """A copy of `policy` with the exported weights, as a function of arrays."""
    copied = copy.deepcopy(policy)
    copied.load_state_dict(tensor_file.decode(content))
    return lambda observation, task_ids: copied(torch.from_numpy(observation), torch.from_numpy(task_ids)).numpy()


FORMATS = {
    "torch": ("policy.pt2", export_torch, load_torch),
    "onnx": ("policy.onnx", export_onnx, load_onnx),
    "weights": (EXPORTED_WEIGHTS, export_weights, load_weights),
}
"""File, writer and reader of each format; a reader is given the policy that was written."""


@torch.no_grad()
def refuse_differences(exported: ActionRule, agent: Agent, seed: int) -> None:
    """Compares what was written with the agent on random observations of every task, in batches of several sizes.

    Raises BadInput if they differ.
    """
    spec = agent.spec
    observation, task_ids = random_inputs(spec, seed)
    agent.autocast = nullcontext  # exported is float32, in whatever precision it was trained
    expected = mode_rule(agent)(observation, task_ids)
    found = np.concatenate(
        [exported(observation[rows], task_ids[rows]) for rows in (slice(0, 1), slice(1, 8), slice(8, None))]
    )
    if found.shape != expected.shape:
        raise BadInput(f"the exported policy gives actions {found.shape}, the agent {expected.shape}; nothing written")
    if isinstance(spec.action_space, gym.spaces.Discrete):
        wrong = float((found != expected).mean())
        if wrong > MAX_TIES:
            raise BadInput(f"the exported policy differs from the agent at {wrong:.0%} of inputs; nothing written")
        return
    difference = float(np.abs(found.astype(np.float64) - expected).max())
    if not difference <= TOLERANCE:
        raise BadInput(f"the exported policy differs from the agent by up to {difference:.2g}; nothing written")


def random_inputs(spec: SuiteSpec, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations, uniform within bounds and normal without, and task ids (B,), every task among them."""
    space, generator = spec.observation_space, stream(seed, "export")
    size = max(_NUM_INPUTS, 2 * spec.num_tasks)
    shape = (size, *space.shape)
    if space.dtype.kind in "iu":
        low, high = space.low.astype(np.int64), space.high.astype(np.int64)
        observation = generator.integers(low, high, shape, endpoint=True).astype(space.dtype)
    else:
        bounded = np.isfinite(space.low) & np.isfinite(space.high) & (np.abs(space.high) < 1e6)
        low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
        normal = generator.normal(size=shape)
        observation = np.where(bounded, generator.uniform(low, high, shape), normal).astype(space.dtype)
    return observation, np.arange(size, dtype=np.int64) % spec.num_tasks


def _program(policy: DeterministicPolicy, spec: SuiteSpec) -> torch.export.ExportedProgram:
    observation, task_ids = (torch.from_numpy(values[:2]) for values in random_inputs(spec, 0))
    rows = torch.export.Dim("rows", min=1)
    with torch.no_grad():
        return torch.export.export(policy, (observation, task_ids), dynamic_shapes=({0: rows}, {0: rows}))


@contextmanager
def _refused(architecture: str, kind: str) -> Iterator[None]:
    """Raises BadInput for what cannot be exported. What torch says beside it is for its developers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MtrlError:
        raise
    except Exception as error:  # of anybody's architecture, in any part of torch
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BadInput(
            f"architecture {architecture!r} cannot be exported as {kind}: its forward has no graph for any number of "
            f"rows and any tasks ({type(error).__name__}: {text[:160]})"
        ) from error
    finally:
        logging.disable(disabled)
