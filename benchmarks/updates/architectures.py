"""Milliseconds per SAC update of every registered architecture against the floor of its own matrix products.

python -m benchmarks.updates.architectures [--only NAMES] [--repeats 5] [--threads 2] [--output FILE]

MT10 sizes (observation 39, action 4, 10 tasks, two critics, batch 1280), every architecture at its defaults; an update
is one gradient step of critics, actor and temperatures and one of the target average, the drawing of the batch from a
filled buffer included. The floor is that of `benchmarks.updates.matmul_floor`, as in `benchmarks.throughput`.
Architectures come one after the other, since the operands of some floors fill a gigabyte; what belongs to one takes
turns, so that ratios hold on a machine that is doing something else, and milliseconds do not.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine_facts, prepare_process
from benchmarks.repeats import Repeats, interleaved_milliseconds
from benchmarks.updates.matmul_floor import MatmulFloor, recorded_products
from benchmarks.updates.sac import UpdateSizes, learning_agent
from mtrl.networks import architectures
from mtrl.networks.size import num_parameters
from mtrl.runs.metadata import program_facts

TARGETS = {"soft-modules": 1.5}
"""Most that an update may take, in floors of its own."""
TARGET = 2.0
"""That of all others."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One architecture."""

    name: str
    num_parameters: int  # trained ones, of actor and critics
    num_products: int
    gflop: float  # of the floor
    update: Repeats  # milliseconds
    floor: Repeats

    @property
    def target(self) -> float:
        return TARGETS.get(self.name, TARGET)

    def json(self) -> dict[str, Any]:
        return {
            "parameters": self.num_parameters,
            "products_of_floor": self.num_products,
            "gflop_of_floor": self.gflop,
            "milliseconds": {"update": self.update.json(), "floor": self.floor.json()},
            "ratio_to_floor": self.update.ratio_to(self.floor).json(),
            "target_of_ratio": self.target,
        }


def measure(
    name: str, repeats: int = 5, updates_per_repeat: int = 4, sizes: UpdateSizes | None = None, **settings: Any
) -> Row:
    """Update and floor of the architecture of that name; `settings` are its own, its defaults if left out."""
    ours = learning_agent({"name": name, **settings}, sizes or UpdateSizes())
    floor = MatmulFloor(recorded_products(ours.update))
    contestants = {"update": ours.update, "floor": floor.replay}
    milliseconds = interleaved_milliseconds(contestants, repeats, updates_per_repeat)
    return Row(
        name=name,
        num_parameters=num_parameters(ours.agent.policy) + num_parameters(ours.agent.critics),
        num_products=len(floor.products),
        gflop=floor.gflop,
        update=milliseconds["update"],
        floor=milliseconds["floor"],
    )


def table(rows: Sequence[Row]) -> str:
    """Milliseconds and ratios, with a mark where a ratio is above its target."""
    lines = [f"{'architecture':20} {'parameters':>10} {'GFLOP':>6} {'update ms':>22} {'floor ms':>22}   update / floor"]
    for row in rows:
        ratio = row.update.ratio_to(row.floor)
        verdict = f"above {row.target}" if ratio.median > row.target else f"within {row.target}"
        lines.append(
            f"{row.name:20} {row.num_parameters:10,} {row.gflop:6.2f} {row.update.shown(1):>22} "
            f"{row.floor.shown(1):>22}   {ratio.shown(2)}  {verdict}"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints the table and writes the results file."""
    names = architectures.names()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.updates.architectures",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--repeats", type=int, default=5, help="of every figure")
    parser.add_argument("--updates", type=int, default=4, help="per repeat, which is their median")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch in this process")
    parser.add_argument("--output", type=Path, help="results file, e.g. benchmarks/results/architectures.json")
    arguments = parser.parse_args()
    prepare_process(arguments.threads)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.updates.architectures", "--only", *arguments.only]),
        "program": program_facts(),
        "machine": machine_facts(),
        "torch_threads": arguments.threads,
        "repeats": arguments.repeats,
        "updates_per_repeat": arguments.updates,
        "load_before": os.getloadavg()[0],
        "architectures": {},
    }
    rows = []
    for name in arguments.only:
        rows.append(measure(name, arguments.repeats, arguments.updates))
        results["architectures"][name] = rows[-1].json()
        print(table(rows[-1:]).splitlines()[1], flush=True)
    results["load_after"] = os.getloadavg()[0]
    print(f"\n{table(rows)}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
