"""The Pareto front of two tasks, by a sweep over the preference vector of `pareto-mtl`.

python -m benchmarks.pareto_front --output benchmarks/results/pareto-front

The problem of Lin et al. (2019, arXiv:1912.12854, section 5.1): losses 1 - exp(-|x - c|^2) and 1 - exp(-|x + c|^2) of a
vector x of 20 numbers, c = 1/sqrt(20) in all. Their front is concave, so weighted sums end at its two ends. Writes a
table, `front.csv`, and a picture, `front.png` (matplotlib: `pip install -e '.[benchmarks]'`).
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mtrl.aggregation import GradientAggregator, Mean, Parameters, TaskLosses
from mtrl.aggregation.optimization.pareto_mtl import ParetoMTL
from mtrl.per_task import mean_per_task
from mtrl.seeding import torch_stream
from mtrl.types import Batch

SIZE = 20
SPREAD = 0.1  # of pareto-mtl: the losses are exact, so the vectors may lie close
CENTERS = torch.tensor([[1.0], [-1.0]]).expand(2, SIZE) / math.sqrt(SIZE)


class Point(NamedTuple):
    """Where one descent ended."""

    method: str
    angle: float | None  # of the preference vector, in degrees from the axis of the first loss
    seed: int
    first_loss: float
    second_loss: float


def loss(parameters: Parameters, batch: Batch) -> TaskLosses:
    """Losses (2,) of x; a row of the batch is the center of its task."""
    squared_distances = (parameters["x"] - batch.observation).square().sum(1)
    losses = mean_per_task(1 - torch.exp(-squared_distances), batch.task_ids, 2)
    return TaskLosses(losses, gauge=losses)


def descend(aggregator: GradientAggregator, seed: int, updates: int, step_size: float) -> Tensor:
    """The losses (2,) that plain gradient descent ends with, from a random start."""
    zeros = torch.zeros(2)
    batch = Batch(
        task_ids=torch.arange(2),
        observation=CENTERS,
        action=zeros,
        reward=zeros,
        terminated=zeros.bool(),
        truncated=zeros.bool(),
        next_observation=CENTERS,
        shares=torch.full((2,), 0.5),
        counts=(1, 1),
    )
    x = (torch.rand(SIZE, generator=torch_stream(seed, "start")) - 0.5).requires_grad_()
    for _ in range(updates):
        aggregator.backward(loss, batch, {"x": x})
        assert x.grad is not None
        with torch.no_grad():
            x -= step_size * x.grad
    return loss({"x": x}, batch).losses.detach()


def sweep(preferences: int, seeds: int, updates: int, step_size: float) -> list[Point]:
    """Descents for preference vectors at equal angles, and for the mean of the losses."""
    points = []
    for seed in range(1, seeds + 1):
        mean = Mean(2, Mean.Config(), torch_stream(seed, "aggregator"))
        points.append(Point("mean", None, seed, *descend(mean, seed, updates, step_size).tolist()))
        for index in range(preferences):
            angle = math.pi / 2 * index / (preferences - 1)
            preference = (max(0.0, math.cos(angle)), math.sin(angle))
            config = ParetoMTL.Config(preference=preference, spread=SPREAD)
            aggregator = ParetoMTL(2, config, torch_stream(seed, "aggregator"))
            losses = descend(aggregator, seed, updates, step_size)
            points.append(Point("pareto-mtl", round(math.degrees(angle), 1), seed, *losses.tolist()))
    return points


def draw(points: Sequence[Point], path: Path) -> None:
    """The front, the preference vectors and where the descents ended."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.2), layout="constrained")
    axis = figure.subplots()
    place = torch.linspace(-1, 1, 200)
    axis.plot(1 - torch.exp(-((place - 1) ** 2)), 1 - torch.exp(-((place + 1) ** 2)), color="0.6", label="Pareto front")
    for angle in sorted({point.angle for point in points if point.angle is not None}):
        radians = math.radians(angle)
        axis.plot([0, math.cos(radians)], [0, math.sin(radians)], color="0.85", linewidth=0.8, zorder=0)
    for method, marker in (("pareto-mtl", "o"), ("mean", "x")):
        own = [point for point in points if point.method == method]
        first, second = [point.first_loss for point in own], [point.second_loss for point in own]
        axis.plot(first, second, marker, label=method, markersize=5, zorder=3)
    axis.set_xlabel("loss of the first task")
    axis.set_ylabel("loss of the second task")
    axis.set_xlim(0, 1.02)
    axis.set_ylim(0, 1.02)
    axis.legend(loc="lower left")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preferences", type=int, default=11, help="vectors between the two axes")
    parser.add_argument("--seeds", type=int, default=3, help="random starts")
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--step-size", type=float, default=0.05)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/pareto-front"), help="folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    points = sweep(arguments.preferences, arguments.seeds, arguments.updates, arguments.step_size)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with open(arguments.output / "front.csv", "w", newline="") as file:
        rows = [point._replace(first_loss=round(point.first_loss, 4), second_loss=round(point.second_loss, 4))
                for point in points]  # fmt: skip
        csv.writer(file).writerows([Point._fields, *rows])
    draw(points, arguments.output / "front.png")
    for point in points:
        print(*point)


if __name__ == "__main__":
    main()
