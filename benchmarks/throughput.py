"""Speed, side by side with other libraries in one run on one machine: `python -m benchmarks.throughput`.

stepping    env steps per second and set-up seconds of our MT10 against the same pool with the official classes
            untouched, physics only, EnvPool (if installed) and gymnasium's Async and Sync vector environments
stepping-mt50  the same on MT50
scaling     our MT10 from one worker to all cores, and from 10 to 200 slots
update      milliseconds per SAC update against stable-baselines3's and the floor of benchmarks/updates/matmul_floor.py
end-to-end  env steps per second of a training on MT10 at its defaults
evaluation  seconds of a whole MT10 evaluation against metaworld's own function, with the same numbers; a fifth of the
            repeats
ppo         env steps per second of PPO on MT10 against stable-baselines3's on gymnasium's Async vector environment;
            half of the repeats
memory      bytes per stored Meta-World transition
atari       env steps per second of six Atari games and bytes per stored step against stable-baselines3's
start-up    seconds from process start to the first environment step on MT10
scheduling  microseconds per decision of every task scheduler at 57 tasks

Contestants take turns and every figure is a median of repeats with its spread, because other load comes and goes;
compare ratios within a run, not figures of two runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import envs
from benchmarks.machine import machine_facts, prepare_process, processor_ticks, stolen_share
from benchmarks.repeats import Repeats
from benchmarks.stepping import evaluation, metaworld, start_up
from benchmarks.updates import end_to_end, ppo, sac, schedulers
from mtrl.env.suite import find_suite
from mtrl.runs.metadata import program_facts

Section = Callable[[int], dict[str, Any]]
"""Takes the number of repeats, prints a report and returns what the results file holds."""


def _stepping(repeats: int, suite: str = "mt10") -> dict[str, Any]:
    rows = metaworld.measure_stepping(suite, rounds=repeats)
    speeds = {row.name: Repeats(row.env_steps_per_second) for row in rows}
    ours = speeds[metaworld.OURS]
    for row in rows:
        ratio = ours.ratio_to(speeds[row.name]).shown(2)
        speed = speeds[row.name].shown(0)
        print(f"{row.name:26} {speed} env steps/s, ours / it {ratio}; {row.setup_seconds:.1f} s set-up")
    return {
        row.name: {
            "env_steps_per_second": speeds[row.name].json(),
            "setup_seconds": row.setup_seconds,
            "ours_is_faster_by": ours.ratio_to(speeds[row.name]).json(),
        }
        for row in rows
    }


def _scaling(repeats: int) -> dict[str, Any]:
    results = {}
    for workers, slots, row in metaworld.measure_scaling(repeats):
        speed = Repeats(row.env_steps_per_second)
        print(f"{workers:3} workers, {slots:3} slots: {speed.shown(0)} env steps/s, set-up {row.setup_seconds:.1f} s")
        results[f"{workers} workers, {slots} slots"] = speed.json()
    return results


def _update(repeats: int) -> dict[str, Any]:
    times = sac.measure_updates(repeats)
    print(sac.report(times))
    floor = times.milliseconds["floor"]
    return {
        "gflop_of_floor": times.floor_gflop,
        "milliseconds": {name: milliseconds.json() for name, milliseconds in times.milliseconds.items()},
        "ratio_to_floor": {name: own.ratio_to(floor).json() for name, own in times.milliseconds.items()},
    }


def _end_to_end(repeats: int) -> dict[str, Any]:
    speeds = end_to_end.measure_end_to_end(repeats)
    print(end_to_end.report(speeds))
    return {"env_steps_per_second": {name: speed.json() for name, speed in speeds.items()}}


def _evaluation(repeats: int) -> dict[str, Any]:
    seconds = evaluation.measure_evaluation(max(1, repeats // 5))
    print(evaluation.report(seconds))
    return {"seconds": {name: values.json() for name, values in seconds.items()}}


def _ppo(repeats: int) -> dict[str, Any]:
    times = ppo.measure_ppo(max(1, repeats // 2))
    print(ppo.report(times))
    return {
        "env_steps_per_second": {name: speed.json() for name, speed in times.speeds.items()},
        "share_of_learning": {name: share.json() for name, share in times.learning.items()},
        "ours_is_faster_by": times.speeds[ppo.OURS].ratio_to(times.speeds[ppo.THEIRS]).json(),
        "theirs_would_be_faster_by_with_free_steps": times.bound.json(),
    }


def _memory(repeats: int) -> dict[str, Any]:
    envs.register()
    family = find_suite("mt10")
    buffer = sac.filled_buffer(family("mt10", family.Config(), seed=1).spec, capacity=10_000)
    num_bytes = buffer.num_bytes / (buffer.num_rows * buffer.num_envs)
    print(f"{num_bytes:.1f} bytes per transition in a full buffer of {buffer.num_rows} vector steps")
    return {"bytes_per_transition": num_bytes}


def _atari(repeats: int) -> dict[str, Any]:
    from benchmarks.stepping import atari  # which needs OpenCV

    results: dict[str, Any] = {"bytes_per_stored_step": dict(memory := atari.measure_memory())}
    print(atari.report_memory(memory))
    for slots_per_game in (1, 2):
        speeds = atari.measure_stepping(repeats, slots_per_game=slots_per_game)
        print(f"{slots_per_game} slot(s) per game\n{atari.report_stepping(speeds)}")
        results[f"{slots_per_game} slots per game"] = atari.stepping_results(speeds)
    return results


def _start_up(repeats: int) -> dict[str, Any]:
    seconds = start_up.measure_start_up(repeats)
    print(start_up.report(seconds))
    return {"seconds": {name: values.json() for name, values in seconds.items()}}


def _scheduling(repeats: int) -> dict[str, Any]:
    times = schedulers.measure_decisions(repeats)
    print(schedulers.report(times))
    return {
        "microseconds": {
            name: {"mean": own.mean.json(), "slowest": own.slowest.json(), "reading": own.reading.json()}
            for name, own in times.items()
        }
    }


SECTIONS: Mapping[str, Section] = {
    "stepping": _stepping,
    "stepping-mt50": partial(_stepping, suite="mt50"),
    "scaling": _scaling,
    "update": _update,
    "end-to-end": _end_to_end,
    "evaluation": _evaluation,
    "ppo": _ppo,
    "memory": _memory,
    "atari": _atari,
    "start-up": _start_up,
    "scheduling": _scheduling,
}


def main() -> None:
    """Runs the sections, prints a report of each and writes one results file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections; default all")
    parser.add_argument("--repeats", type=int, default=5, help="of every figure")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch in this process")
    parser.add_argument("--output", type=Path, help="results file, e.g. benchmarks/results/throughput.json")
    arguments = parser.parse_args()
    if "atari" in arguments.only and find_spec("cv2") is None:
        parser.error("section atari needs OpenCV: pip install -e '.[benchmarks]'")
    prepare_process(arguments.threads)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.throughput", *sys.argv[1:]]),
        "program": program_facts(["gymnasium", "metaworld", "mujoco", "envpool", "ale-py", "stable-baselines3"]),
        "machine": machine_facts(),
        "torch_threads": arguments.threads,
        "repeats": arguments.repeats,
        "load_before": os.getloadavg()[0],
    }
    for name in arguments.only:
        print(f"\n== {name}")
        before = processor_ticks()
        results[name] = SECTIONS[name](arguments.repeats)
        stolen = stolen_share(before, processor_ticks())
        results[name]["stolen_by_the_host"] = stolen
        print(f"the host took {100 * stolen:.0f} % of the processors' time meanwhile", flush=True)
        results[name]["load_after"] = os.getloadavg()[0]
        if arguments.output:  # after every section: a later one may fail
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
