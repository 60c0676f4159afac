"""The checkpoints of a run. Each is a folder that is either whole or not there.

    step_000000012345/   what a resume needs: state and replay-buffer chunks; the newest `keep` are kept
    best_000000012345/   the policy of the best evaluation so far, no chunks

A checkpoint is written to a temporary folder, every file is synced, and the folder is renamed. Only then are older ones
removed. "Latest" follows from the names. Files hold JSON and tensors only; nothing in them is run.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from mtrl.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointContent,
    StoredChunk,
    read_checkpoint,
    read_manifest,
    stored_chunks,
    write_checkpoint,
)
from mtrl.checkpoints.files import TEMPORARY, delete, printable, reason, storage_faults, temporary_name
from mtrl.checkpoints.manifest import Kind, UnsupportedFormat, folder_name
from mtrl.checkpoints.versions import dependency_versions
from mtrl.errors import BadInput
from mtrl.types import Chunk, State

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(step|best)_([0-9]{12})")


class CheckpointStore:
    """The checkpoints in one folder. One process writes, which the run directory's lock ensures; any number read."""

    def __init__(self, folder: Path, keep: int = 2, versions: Mapping[str, str] | None = None):
        """keep: number of resumable checkpoints. versions: of further packages, recorded in every manifest."""
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least one checkpoint is kept")
        self.folder, self.keep = Path(folder), keep
        self.versions = {**dependency_versions(), **(versions or {})}
        # Only files that this process wrote or verified are linked to, so that old damage does not spread.
        self._stored: Mapping[str, StoredChunk] = {}

    def steps(self) -> list[int]:
        """Env steps of the resumable checkpoints, ascending."""
        return self._steps("step")

    def save(
        self,
        step: int,
        state: State,
        chunks: Iterable[Chunk] = (),
        *,
        kind: Kind = "step",
        info: Mapping[str, Any],
    ) -> Path:
        """Writes a checkpoint and returns its folder once it would survive a power cut; removes older ones.

        step: env steps. The state of a run is a function of it: a whole checkpoint of the same kind and step
        is left as it is. info: JSON of the caller; that of a "best" has its score (higher is better) under "score".

        Raises StorageFailure if the disk does not take it (earlier checkpoints stay unchanged), ValueError for a
        score that is not finite, TypeError for a value that a checkpoint cannot hold.
        """
        content = CheckpointContent(kind, step, state, tuple(chunks), dict(info), self.versions)
        if not 0 <= step < 10**12:
            raise ValueError(f"step {step} is outside [0, 10**12)")
        if kind == "best" and (content.chunks or not _is_score(info.get("score"))):
            raise ValueError(f"a best checkpoint has no chunks and a finite score, not {info.get('score')!r}")
        self.sweep()
        target = self.folder / folder_name(kind, step)
        whole = self._is_whole(target)
        if whole and kind == "best" and _score(target) != info["score"]:
            # Left by a run that was killed, whose resume was not exact.
            with storage_faults(target):
                self._remove(target)
            whole = False
        if not whole:
            temporary = self.folder / temporary_name(target.name)
            manifest = write_checkpoint(content, target, temporary, self._stored)
            if kind == "step":
                self._stored = stored_chunks(target, manifest)
        self._prune(kind, step)
        return target

    def load(self, which: Literal["latest", "best"] | int, *, with_chunks: bool = True) -> Checkpoint:
        """The newest resumable checkpoint, the best one, or the resumable one of a step; every file is verified first.

        A damaged checkpoint is passed over with one warning in the log, except one asked for by its step.
        with_chunks: False where the replay buffer is not needed, which saves reading it.

        Raises BadInput if there is none, or none that is whole.
        """
        if isinstance(which, int):
            if which not in self.steps():
                known = ", ".join(map(str, self.steps())) or "none"
                raise BadInput(f"no checkpoint of step {which} in {self._shown}; there are: {known}")
            checkpoint = read_checkpoint(self.folder / folder_name("step", which), with_chunks=with_chunks)
        else:
            checkpoint = self._load_newest("best" if which == "best" else "step", with_chunks)
        if with_chunks and checkpoint.kind == "step":
            self._stored = stored_chunks(checkpoint.path, checkpoint.manifest)
        return checkpoint

    def version_changes(self, checkpoint: Checkpoint) -> list[str]:
        """What `checkpoint` was made with in another version than runs now, e.g. `'torch' '2.13.0', now '2.14.0'`.

        A resume is exact only if there is none.
        """
        names = sorted({*checkpoint.versions, *self.versions})
        pairs = [(name, checkpoint.versions.get(name, "unknown"), self.versions.get(name, "unknown")) for name in names]
        return [
            f"{printable(name)} {printable(then)}, now {printable(now)}" for name, then, now in pairs if then != now
        ]

    def sweep(self) -> None:
        """Removes what a killed save left behind; for the process that holds the run directory's lock.

        Raises StorageFailure.
        """
        with storage_faults(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in os.listdir(self.folder):
                if name.startswith(TEMPORARY):
                    delete(self.folder / name)

    def discard_after(self, step: int) -> None:
        """Removes resumable checkpoints newer than `step`: a run that resumes there makes its own.

        The best one stays until the run has a better. Raises StorageFailure.
        """
        with storage_faults(self.folder):
            for later in self.steps():
                if later > step:
                    self._remove(self.folder / folder_name("step", later))

    @property
    def _shown(self) -> str:
        return printable(str(self.folder), 160)

    def _steps(self, kind: str) -> list[int]:
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BadInput(f"cannot read {self._shown}: {reason(error)}") from error
        matches = filter(None, map(_NAME.fullmatch, names))
        return sorted(int(match[2]) for match in matches if match[1] == kind)

    def _load_newest(self, kind: Kind, with_chunks: bool) -> Checkpoint:
        """The newest whole one; of several best ones, left by a kill, the one of the highest score."""
        damaged: dict[Path, BadInput] = {}
        while True:
            paths = [self.folder / folder_name(kind, step) for step in reversed(self._steps(kind))]
            if kind == "best":
                paths.sort(key=_score, reverse=True)
            path = next((path for path in paths if path not in damaged), None)
            if path is None:
                break
            try:
                checkpoint = read_checkpoint(path, with_chunks=with_chunks)
            except UnsupportedFormat:
                raise
            except BadInput as error:
                # The trainer may have removed it since the names were read; then nothing is wrong.
                if os.path.lexists(path):
                    damaged[path] = error
                continue
            if damaged:
                logger.warning("%s; loading the one of step %d instead", next(iter(damaged.values())), checkpoint.step)
            return checkpoint
        if damaged:
            raise BadInput(f"no checkpoint that can be loaded: {next(iter(damaged.values()))}")
        raise BadInput(f"no {'best' if kind == 'best' else 'resumable'} checkpoint in {self._shown}")

    def _is_whole(self, path: Path) -> bool:
        """Whether a whole checkpoint is at `path`; a damaged one is removed."""
        if not os.path.lexists(path):
            return False
        try:
            read_checkpoint(path)
        except BadInput as error:
            logger.warning("%s; writing it again", error)
            with storage_faults(path):
                self._remove(path)
            return False
        return True

    def _prune(self, kind: Kind, step: int) -> None:
        """Removes all but the newest; if that fails there are more than needed, which harms no run."""
        others = [other for other in self._steps(kind) if other != step]
        kept = self.keep - 1 if kind == "step" else 0
        for old in others[: max(0, len(others) - kept)]:
            try:
                self._remove(self.folder / folder_name(kind, old))
            except OSError as error:
                logger.warning("cannot remove an old checkpoint in %s: %s", self._shown, reason(error))

    def _remove(self, path: Path) -> None:
        """Renamed first, so that a kill half-way leaves no half checkpoint under a checkpoint's name."""
        doomed = self.folder / temporary_name(f"old-{path.name}")
        os.replace(path, doomed)
        delete(doomed)


def _is_score(value: object) -> bool:
    # Compared, since math.isfinite raises OverflowError for large integers.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _score(path: Path) -> float:
    try:
        score = read_manifest(path).info.get("score")
    except UnsupportedFormat:
        return math.inf  # first in line, so that it is reported
    except BadInput:
        return -math.inf
    return float(score) if _is_score(score) and score is not None else -math.inf
