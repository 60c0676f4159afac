"""What a run takes: cores, GPUs, memory; and how many runs a machine has room for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mtrl.config.schema import RunConfig, RunSettings
from mtrl.launch.processes import Needs
from mtrl.launch.sweep_file import Resources
from mtrl.optim.cpu import available_cores, available_memory
from mtrl.training.build import buffer_bytes_of, build_agent, build_suite

GIBIBYTE = 2**30
_PROCESS_BYTES = 3 * 2**28
"""Of a process that has torch or a simulator loaded, with what it works on."""
_PER_PARAMETER = 16
"""Bytes of a float32 parameter with its gradient and two moments."""


def needs(config: RunConfig, resources: Resources) -> Needs:
    """An estimate, where `resources` say nothing. Raises BadInput for a configuration that cannot be built."""
    settings = config.settings
    gpus = resources.gpus if resources.gpus is not None else float(settings.device == "cuda")
    if resources.memory_gib is not None:
        return Needs(_cpus(settings, resources), gpus, int(resources.memory_gib * GIBIBYTE))
    agent = build_agent(config, build_suite(config.suite, settings.seed), torch.device("cpu"))
    parameters = sum(value.numel() for value in agent.parameters())
    processes = 1 + (1 if settings.num_workers is None else settings.num_workers)
    learning = _PER_PARAMETER * parameters + buffer_bytes_of(config, agent)
    return Needs(_cpus(settings, resources), gpus, processes * _PROCESS_BYTES + learning)


def _cpus(settings: RunSettings, resources: Resources) -> float:
    return resources.cpus or max(1, settings.num_workers or 1, settings.torch_threads or 1)


def room(of_runs: Sequence[Needs]) -> int:
    """How many of these runs this machine has cores, GPUs and memory for at a time; at least one."""
    largest = most(of_runs)
    memory, counts = available_memory(), [available_cores() / largest.cpus]
    if largest.gpus:
        counts.append(torch.cuda.device_count() / largest.gpus)
    if memory is not None:
        counts.append(memory / largest.num_bytes)
    return max(1, int(min(counts)))


def most(of_runs: Sequence[Needs]) -> Needs:
    """The largest of each."""
    return Needs(*(max(values) for values in zip(*of_runs, strict=True)))
