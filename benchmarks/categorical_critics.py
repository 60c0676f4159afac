"""Milliseconds per SAC update with scalar and with categorical critics, at the sizes of the presets `fast`.

python -m benchmarks.categorical_critics [--repeats 5] [--updates 20] [--precision bfloat16]

mt3: multi-head 2 x 128, batch 192. mt10: three architectures of width 256, batch 320. One thread of torch; contestants
take turns. An update is one gradient step of critics, actor and temperatures and one of the target average, the drawing
of the batch from a filled buffer included. Prints JSON lines.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from benchmarks.machine import machine_facts, prepare_process
from benchmarks.repeats import interleaved_milliseconds
from benchmarks.updates.sac import UpdateSizes, learning_agent

CASES: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("mt3", 192, {"name": "multi-head", "width": 128, "depth": 2, "layer_norm": True}),
    ("mt10", 320, {"name": "multi-head", "width": 256, "depth": 3, "layer_norm": True}),
    ("mt10", 320, {"name": "mlp", "width": 256, "depth": 3, "layer_norm": True}),
    ("mt10", 320, {"name": "residual", "width": 256, "depth": 1}),
)
BINS = 101


def contestant(suite: str, batch_size: int, architecture: dict[str, Any], bins: int | None, precision: str) -> Any:
    """One agent with a full buffer to learn from."""
    return learning_agent(
        architecture,
        UpdateSizes(suite=suite, batch_size=batch_size),
        agent={"name": "sac", "batch_size": batch_size, "critic_bins": bins},
        normalizer="return-range",
        precision=precision,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--repeats", type=int, default=5, help="of every figure")
    parser.add_argument("--updates", type=int, default=20, help="per repeat")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    prepare_process(1)
    updates: dict[str, Callable[[], None]] = {
        f"{suite} {architecture['name']} {kind}": contestant(
            suite, batch_size, architecture, bins, arguments.precision
        ).update
        for suite, batch_size, architecture in CASES
        for kind, bins in (("scalar", None), ("categorical", BINS))
    }
    print(json.dumps({"precision": arguments.precision, **machine_facts()}))
    for name, found in interleaved_milliseconds(updates, arguments.repeats, arguments.updates).items():
        print(json.dumps({"contestant": name, "milliseconds": found.json()}))


if __name__ == "__main__":
    main()
