"""Seconds from process start to the first environment step of `mtrl train --suite mt10`, its goals cached.

The clock starts with the process and stops when the row of the first vector step stands in metrics.jsonl; the run is
then told to stop. Beside it, what importing torch and metaworld alone takes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import envs
from benchmarks.repeats import Repeats
from mtrl.env.suite import find_suite

TIMEOUT_SECONDS = 120.0
_FLAGS = ("--suite", "mt10", "--log-interval", "10", "--eval-interval", "0", "--final-eval-episodes-per-task", "0")


def measure_start_up(repeats: int = 3) -> Mapping[str, Repeats]:
    """Seconds by what was started; the two take turns. Raises RuntimeError if a run makes no step."""
    envs.register()
    family = find_suite("mt10")
    family("mt10", family.Config(), seed=1)  # caches the goals
    seconds: dict[str, list[float]] = {"mtrl train, first step": [], "imports alone": []}
    for _ in range(repeats):
        seconds["mtrl train, first step"].append(_first_step())
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch, metaworld"], check=True)
        seconds["imports alone"].append(time.perf_counter() - started)
    return {name: Repeats(tuple(values)) for name, values in seconds.items()}


def _first_step() -> float:
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder, "run", "metrics.jsonl")
        command = [sys.executable, "-m", "mtrl", "train", *_FLAGS, "--run-dir", str(metrics.parent)]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None or time.perf_counter() - started > TIMEOUT_SECONDS:
                    raise RuntimeError(f"{' '.join(command)} made no step; exit code {process.returncode}")
                time.sleep(0.01)
            return time.perf_counter() - started
        finally:
            process.terminate()  # saves and ends
            process.communicate(timeout=TIMEOUT_SECONDS)


def report(seconds: Mapping[str, Repeats]) -> str:
    """One line each."""
    return "\n".join(f"{name:24} {repeats.shown(1)} s" for name, repeats in seconds.items())


def main() -> None:
    """Prints the seconds."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    print(report(measure_start_up(parser.parse_args().repeats)))


if __name__ == "__main__":
    main()
