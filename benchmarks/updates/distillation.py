"""Milliseconds per update of a student of ten experts, against SAC's, at MT10 sizes, taking turns.

Student, experts and SAC are multi-head, 3 x 400; batch 1280, 10 tasks, observation 39, action 4. Each expert knows one
task; what experts have learnt is of no account here, so they are new. The drawing of the batch is included. What counts
is the processor time of this process, on one thread: other load on the machine disturbs it little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.distillation.distill import Distill
from benchmarks.machine import prepare_process
from benchmarks.repeats import Repeats, interleaved_milliseconds
from benchmarks.updates.sac import MULTI_HEAD, UpdateSizes, learning_agent
from mtrl.checkpoints.store import CheckpointStore
from mtrl.config.schema import dump_yaml, resolve_config
from mtrl.runs.run_directory import RunDirectory
from mtrl.training.build import build_agent, build_suite

CPU = torch.device("cpu")
TARGET = 0.45
"""Of a student's update, times SAC's."""


def measure_updates(
    sizes: UpdateSizes,
    architecture: Mapping[str, Any] = MULTI_HEAD,
    single: str = "metaworld:{task}",
    repeats: int = 5,
    updates_per_repeat: int = 8,
) -> Mapping[str, Repeats]:
    """Milliseconds per update by contestant. single: the suite of one task."""
    sac = learning_agent(architecture, sizes)
    shares = np.full(sac.agent.num_tasks, 1 / sac.agent.num_tasks)

    def update_of(student: Distill) -> Callable[[], object]:
        return lambda: student.learn(sac.buffer.sample(sizes.batch_size, shares))

    def student(teachers: list[str], **settings: Any) -> Callable[[], object]:
        agent = {"name": "distill", "teachers": teachers, "batch_size": sizes.batch_size, **settings}
        made = _agent({"suite": sizes.suite, "architecture": dict(architecture), "agent": agent})
        assert isinstance(made, Distill)
        return update_of(made)

    with tempfile.TemporaryDirectory() as folder:
        names = sac.agent.spec.task_names
        experts = [_new_run(Path(folder) / name, single.format(task=name), architecture) for name in names]
        everything = _new_run(Path(folder) / "all", sizes.suite, architecture)
        contestants = {
            "sac": sac.update,
            "distill": student(experts),
            "distill, reverse KL": student(experts, divergence="reverse"),
            "distill, features": student(experts, feature_coefficient=0.01),
            "distill, one teacher": student([everything]),
        }
    return interleaved_milliseconds(contestants, repeats, updates_per_repeat, time.process_time)


def _agent(document: Mapping[str, Any]) -> Any:
    config = resolve_config(document)
    return build_agent(config, build_suite(config.suite, config.settings.seed), CPU)


def _new_run(folder: Path, suite: str, architecture: Mapping[str, Any]) -> str:
    """A run of SAC that has learnt nothing; returns its folder."""
    document = {"suite": suite, "architecture": dict(architecture), "agent": "sac"}
    with RunDirectory.create(folder) as run:
        run.write_config(dump_yaml(resolve_config(document)))
        CheckpointStore(run.checkpoints).save(0, {"agent": _agent(document).state()}, info={})
    return str(folder)


def report(times: Mapping[str, Repeats]) -> str:
    """A line for each contestant."""
    return "\n".join(
        f"{name:21} {own.shown(1)} ms, {own.ratio_to(times['sac']).shown(2)} of SAC's" for name, own in times.items()
    )


def main() -> None:
    """Prints the times and ratios."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, default=8, help="per repeat")
    arguments = parser.parse_args()
    prepare_process(1)
    print(report(measure_updates(UpdateSizes(), repeats=arguments.repeats, updates_per_repeat=arguments.updates)))


if __name__ == "__main__":
    main()
