"""The 50 goals of each task: those of the official benchmark object of the same seed, computed once and kept.

The benchmark draws them one after the other from one generator, so they depend on the whole task list. A file of the
cache is used only if it is whole and was written for the same version of Meta-World, benchmark and seed; otherwise the
goals are computed and written anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from envs.metaworld.factory import WORKER_MODULES
from envs.metaworld.tasks import BENCHMARKS
from envs.workers.child_process import ChildProcess, refusals_named, warm_up
from envs.workers.descriptors import Descriptor, pipe
from mtrl.errors import WorkerFailure

NUM_GOALS = 50

GOAL_SEEDS = 2**32
"""How many seeds the official benchmarks take."""

_MAX_FILE_BYTES = 2**20  # MT50 takes 150 KB

_logger = logging.getLogger(__name__)

Goals = dict[str, np.ndarray]
"""By task name: the vectors (50, G) float64 that fix object and goal positions; G is 3 or 6."""


def benchmark_goals(benchmark: str, seed: int) -> Goals:
    """Goals of one of `BENCHMARKS` or of `MT1-TASK` with a seed in [0, 2**32), from the cache where it has them.

    Raises WorkerFailure if they cannot be computed.
    """
    version = importlib.metadata.version("metaworld")
    folder = cache_folder()
    file = folder / f"metaworld-{version}-{benchmark}-seed-{seed}.npz" if folder else None
    identity = _identity(benchmark, seed)
    goals = _read(file, identity) if file else None
    if goals is None:
        _logger.info("computing the goals of %s with seed %d, once", benchmark, seed)
        goals = _decode(_compute_elsewhere(benchmark, seed), identity)
        if goals is None:
            raise RuntimeError(f"the goals computed for {benchmark} with seed {seed} are not {NUM_GOALS} per task")
        if file:
            _write(file, encode(goals, identity))
    return goals


def cache_folder() -> Path | None:
    """`$MTRL_CACHE_DIR/goals`, or `goals` in the user's cache folder of the suite; None for a user without a home."""
    if folder := os.environ.get("MTRL_CACHE_DIR"):
        return Path(folder) / "goals"
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtrl" / "goals"
    except RuntimeError:  # neither HOME nor an entry in the passwd file, as in `docker run --user`
        return None


def describe_cache() -> str:
    """Where the goals are kept, and how many files there are."""
    folder = cache_folder()
    if folder is None:
        return "none: no HOME and no MTRL_CACHE_DIR, so goals are computed in every run"
    try:
        number = len(list(folder.iterdir()))
        return f"{folder} ({number} file{'s' if number != 1 else ''})"
    except FileNotFoundError:
        return f"{folder} (empty so far)"
    except OSError as error:
        return f"{folder} ({error.strerror}; goals are computed in every run)"


def digest(goals: Mapping[str, np.ndarray], identity: str = "") -> str:
    """SHA-256 over names, sizes and values of the goals, in their order."""
    sha = hashlib.sha256(identity.encode())
    for name, vectors in goals.items():
        sha.update(f"{name} {vectors.shape} ".encode())
        sha.update(np.ascontiguousarray(vectors, "<f8").tobytes())
    return sha.hexdigest()


def encode(goals: Goals, identity: str) -> bytes:
    """The content of a cache file."""
    file = io.BytesIO()
    np.savez(file, identity=np.array(identity), sha256=np.array(digest(goals, identity)), **goals)  # type: ignore[arg-type]
    return file.getvalue()


def _decode(content: bytes, identity: str) -> Goals | None:
    """The goals, or None if the content is not what `encode` makes of goals with this identity."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in arrays.files}
    except Exception:  # whatever a damaged archive raises
        return None
    expected = json.loads(identity)["tasks"]
    if str(stored.pop("identity", None)) != identity or sorted(stored) != sorted([*expected, "sha256"]):
        return None
    goals = {name: stored[name] for name in expected}
    for vectors in goals.values():
        if vectors.dtype != np.float64 or vectors.ndim != 2 or len(np.unique(vectors, axis=0)) != NUM_GOALS:
            return None
        if not np.isfinite(vectors).all() or len(vectors) != NUM_GOALS:
            return None
    return goals if str(stored["sha256"]) == digest(goals, identity) else None


def _identity(benchmark: str, seed: int) -> str:
    tasks = BENCHMARKS.get(benchmark, (benchmark.removeprefix("MT1-"),))
    version = importlib.metadata.version("metaworld")
    return json.dumps({"metaworld": version, "benchmark": benchmark, "seed": seed, "tasks": tasks})


def _read(file: Path, identity: str) -> Goals | None:
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            return None
        return _decode(file.read_bytes(), identity)
    except OSError:
        return None


def _write(file: Path, content: bytes) -> None:
    """Writes the file whole or not at all; a cache folder that cannot be written costs time, no more."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f"{file.name}.", delete=False) as temporary:
            try:
                temporary.write(content)
                temporary.flush()
                os.fsync(temporary.fileno())
                os.replace(temporary.name, file)
            except OSError:
                os.unlink(temporary.name)
                raise


def _compute_elsewhere(benchmark: str, seed: int) -> bytes:
    """Runs the official benchmark in a process of its own: it seeds the global generator and imports the simulator."""
    warm_up(WORKER_MODULES)
    with refusals_named("a pipe"):
        read_end, write_end = pipe()
    process = ChildProcess(_send_goals, write_end, benchmark, seed)
    write_end.close()
    with open(read_end.detach(), "rb") as file:
        content = file.read()
    if code := process.exit_code(seconds=10):
        raise WorkerFailure(f"the process that computes the goals of {benchmark} with seed {seed} ended with {code}")
    return content


def _send_goals(write_end: Descriptor, benchmark: str, seed: int) -> None:
    from envs.metaworld.official import official_goals

    with open(write_end.detach(), "wb") as file:
        file.write(encode(official_goals(benchmark, seed), _identity(benchmark, seed)))
