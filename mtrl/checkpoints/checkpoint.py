"""One checkpoint on disk: a folder of JSON and tensors whose manifest is written last and checked first."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mtrl.checkpoints import state_tree, tensor_file
from mtrl.checkpoints.files import (
    Written,
    delete,
    open_folder,
    open_regular,
    printable,
    read_small_file,
    reason,
    storage_failure,
    sync_folder,
    write_new_file,
)
from mtrl.checkpoints.manifest import (
    MANIFEST,
    STATE,
    TENSORS,
    ChunkEntry,
    Kind,
    Manifest,
    UnknownFormat,
    check_chunk_name,
    folder_name,
)
from mtrl.checkpoints.strict_json import MAX_BYTES, InvalidJson, dump, parse
from mtrl.errors import BadInput
from mtrl.types import State


@dataclass(frozen=True)
class Chunk:
    """An append-only piece of the replay buffer.

    A complete chunk never changes and its name is unique for its content: later checkpoints link to the file of an
    earlier one. An incomplete chunk is written every time. `tensors` is called only when the chunk must be written.
    """

    name: str  # lower-case words and numbers joined by hyphens, e.g. "rows-000000000000-000000002048"
    complete: bool
    tensors: Callable[[], Mapping[str, Tensor]]


class Standing(NamedTuple):
    """A chunk's file in a checkpoint that this process wrote or checked."""

    path: Path
    written: Written


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read, every file checked."""

    kind: Kind
    step: int  # env steps
    state: State
    info: Mapping[str, Any]  # JSON of the caller
    versions: Mapping[str, str]  # what it was made with
    path: Path
    manifest: Manifest = field(repr=False)

    def chunks(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Name and tensors of each chunk in the order saved, read one at a time and checked while read.

        Raises BadInput if a chunk's file is not what the manifest says.
        """
        for chunk in self.manifest.chunks:
            with _damage(f"checkpoint {printable(str(self.path), 160)}"), _opened(self.path) as folder:
                tensors = _read_tensors(folder, chunk.file_name, self.manifest)
            yield chunk.name, tensors

    def standing(self) -> dict[str, Standing]:
        """The complete chunks by name, for later checkpoints to link to."""
        return standing_chunks(self.path, self.manifest)


def standing_chunks(path: Path, manifest: Manifest) -> dict[str, Standing]:
    """The complete chunks of the checkpoint at `path` by name."""
    return {
        chunk.name: Standing(path / chunk.file_name, manifest.files[chunk.file_name])
        for chunk in manifest.chunks
        if chunk.complete
    }


@dataclass(frozen=True)
class Content:
    """What a checkpoint is made of."""

    kind: Kind
    step: int  # env steps
    state: State
    chunks: Sequence[Chunk]
    info: Mapping[str, Any]
    versions: Mapping[str, str]


def write_checkpoint(content: Content, target: Path, temporary: Path, standing: Mapping[str, Standing]) -> Manifest:
    """Writes `content` to the folder `temporary`, which must not exist, and renames it to `target` when it is whole.

    Raises StorageFailure, and whatever `content` raises, with nothing left behind.
    """
    document, values = state_tree.flatten(content.state)
    text = dump(document)
    needed = len(text) + sum(map(tensor_file.num_bytes, values.values()))
    try:
        os.mkdir(temporary)
        files = {
            STATE: write_new_file(temporary / STATE, [text]),
            TENSORS: write_new_file(temporary / TENSORS, tensor_file.encode(values)),
        }
        entries = []
        for chunk in content.chunks:
            check_chunk_name(chunk.name)
            entry = ChunkEntry(chunk.name, chunk.complete)
            if entry.file_name in files:
                raise ValueError(f"two chunks are named {chunk.name!r}")
            written = _link(chunk, standing, temporary / entry.file_name)
            if written is None:
                tensors = chunk.tensors()
                needed += sum(map(tensor_file.num_bytes, tensors.values()))
                written = write_new_file(temporary / entry.file_name, tensor_file.encode(tensors))
            files[entry.file_name] = written
            entries.append(entry)
        manifest = Manifest(content.kind, content.step, content.info, content.versions, tuple(entries), files)
        write_new_file(temporary / MANIFEST, [manifest.to_bytes()])
        sync_folder(temporary)
        os.replace(temporary, target)
        sync_folder(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            delete(temporary)
        if isinstance(error, OSError):
            raise storage_failure(error, target, needed) from error
        raise
    return manifest


def read_checkpoint(path: Path, *, with_chunks: bool = True) -> Checkpoint:
    """Reads the checkpoint at `path` after checking every file of it, chunks only if asked for.

    Raises BadInput in one line if anything is missing, damaged or foreign; UnknownFormat for a later format.
    """
    with _damage(f"checkpoint {printable(str(path), 160)}"), _opened(path) as folder:
        manifest = _read_manifest(folder)
        if folder_name(manifest.kind, manifest.step) != path.name:
            raise BadInput(f"its {MANIFEST} is that of {folder_name(manifest.kind, manifest.step)}")
        with _damage(STATE):
            text = read_small_file(STATE, MAX_BYTES, folder)
            if Written(len(text), hashlib.sha256(text).hexdigest()) != manifest.files[STATE]:
                raise BadInput("its content does not match its SHA-256")
            document = parse(text)
        if with_chunks:
            for chunk in manifest.chunks:
                with _damage(chunk.file_name), _opened_file(folder, chunk.file_name) as file:
                    tensor_file.verify(file, manifest.files[chunk.file_name])
        state = state_tree.unflatten(document, _read_tensors(folder, TENSORS, manifest))
    return Checkpoint(manifest.kind, manifest.step, state, manifest.info, manifest.versions, path, manifest)


def read_manifest(path: Path) -> Manifest:
    """Only the manifest of the checkpoint at `path`. Raises BadInput."""
    with _damage(f"checkpoint {printable(str(path), 160)}"), _opened(path) as folder:
        return _read_manifest(folder)


def _link(chunk: Chunk, standing: Mapping[str, Standing], path: Path) -> Written | None:
    """Links a complete chunk that stands already to `path`; None if it must be written."""
    source = standing.get(chunk.name) if chunk.complete else None
    if source is None:
        return None
    try:
        os.link(source.path, path, follow_symlinks=False)
    except OSError:  # no links on this file system, or the file is gone: the content is still in memory
        return None
    if os.stat(path, follow_symlinks=False).st_size != source.written.num_bytes:
        os.unlink(path)
        return None
    return source.written


def _read_manifest(folder: int) -> Manifest:
    with _damage(MANIFEST):
        return Manifest.from_bytes(read_small_file(MANIFEST, MAX_BYTES, folder))


def _read_tensors(folder: int, name: str, manifest: Manifest) -> dict[str, Tensor]:
    with _damage(name), _opened_file(folder, name) as file:
        return tensor_file.read(file, manifest.files[name])


@contextlib.contextmanager
def _damage(place: str) -> Iterator[None]:
    """Puts the place in front of what is wrong there."""
    try:
        yield
    except UnknownFormat:
        raise
    except (BadInput, InvalidJson) as error:
        raise BadInput(f"{place}: {error}") from error
    except OSError as error:
        raise BadInput(f"{place}: {reason(error)}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """One descriptor for the folder: what is read belongs together even if the name is given to another one."""
    descriptor = open_folder(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened_file(folder: int, name: str) -> Iterator[int]:
    descriptor = open_regular(name, folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
