"""Reading and writing of one checkpoint: a folder of JSON and tensors with a manifest."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mtrl.checkpoints import state_tree, tensor_file
from mtrl.checkpoints.files import (
    DAMAGED,
    FileDigest,
    delete,
    open_folder,
    open_regular,
    printable,
    read_small_file,
    read_verified,
    reason,
    storage_failure,
    sync_folder,
    verify,
    write_new_file,
)
from mtrl.checkpoints.json_text import MAX_BYTES, dump_json, parse_json
from mtrl.checkpoints.manifest import (
    FORMAT,
    MANIFEST,
    STATE,
    TENSORS,
    ChunkEntry,
    Kind,
    Manifest,
    UnsupportedFormat,
    folder_name,
)
from mtrl.errors import BadInput
from mtrl.types import Chunk, State


class StoredChunk(NamedTuple):
    """The file of a complete chunk in a checkpoint that this process wrote or verified."""

    path: Path
    digest: FileDigest


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read, every file verified."""

    kind: Kind
    step: int  # env steps
    state: State
    info: Mapping[str, Any]  # JSON of the caller
    versions: Mapping[str, str]  # what it was made with
    path: Path
    manifest: Manifest = field(repr=False)

    def chunks(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Name and tensors of each chunk in the order saved, read and verified one at a time.

        Raises BadInput if a chunk's file is not what the manifest says.
        """
        for chunk in self.manifest.chunks:
            with _damage(f"checkpoint {printable(str(self.path), 160)}"), _opened(self.path) as folder:
                tensors = _read_tensors(folder, chunk.file_name, self.manifest)
            yield chunk.name, tensors


def stored_chunks(path: Path, manifest: Manifest) -> dict[str, StoredChunk]:
    """The complete chunks of the checkpoint at `path` by name, for later checkpoints to link to."""
    return {
        chunk.name: StoredChunk(path / chunk.file_name, manifest.files[chunk.file_name])
        for chunk in manifest.chunks
        if chunk.complete
    }


@dataclass(frozen=True)
class CheckpointContent:
    """What is written into a checkpoint."""

    kind: Kind
    step: int  # env steps
    state: State
    chunks: Sequence[Chunk]
    info: Mapping[str, Any]
    versions: Mapping[str, str]


def write_checkpoint(
    content: CheckpointContent, target: Path, temporary: Path, stored: Mapping[str, StoredChunk]
) -> Manifest:
    """Writes `content` to the folder `temporary`, which must not exist, and renames it to `target` when it is whole.

    Complete chunks that are in `stored` are linked. Raises StorageFailure, and whatever `content` raises, with nothing
    left behind.
    """
    document, tensors = state_tree.flatten(content.state)
    text = dump_json(document)
    needed = len(text) + sum(value.nbytes for value in tensors.values())
    try:
        os.mkdir(temporary)
        files = {
            STATE: write_new_file(temporary / STATE, [text]),
            TENSORS: write_new_file(temporary / TENSORS, [tensor_file.encode(tensors)]),
        }
        entries = []
        for chunk in content.chunks:
            entry = ChunkEntry(name=chunk.name, complete=chunk.complete)
            if entry.file_name in files:
                raise ValueError(f"two files of a checkpoint are named {entry.file_name!r}")
            digest = _link(chunk, stored, temporary / entry.file_name)
            if digest is None:
                data = tensor_file.encode(chunk.tensors())
                needed += len(data)
                digest = write_new_file(temporary / entry.file_name, [data])
            files[entry.file_name] = digest
            entries.append(entry)
        manifest = Manifest(
            format=FORMAT,
            kind=content.kind,
            step=content.step,
            info=dict(content.info),
            versions=dict(content.versions),
            chunks=tuple(entries),
            files=files,
        )
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
    """Reads the checkpoint at `path` and verifies every file of it, chunks only with `with_chunks`.

    Raises BadInput in one line if anything is missing, damaged or foreign; UnsupportedFormat for another format.
    """
    with _damage(f"checkpoint {printable(str(path), 160)}"), _opened(path) as folder:
        manifest = _read_manifest(folder)
        if folder_name(manifest.kind, manifest.step) != path.name:
            raise BadInput(f"its {MANIFEST} is that of {folder_name(manifest.kind, manifest.step)}")
        with _damage(STATE):
            text = read_small_file(STATE, MAX_BYTES, folder)
            if FileDigest.of(text) != manifest.files[STATE]:
                raise BadInput(DAMAGED)
            document = parse_json(text)
        if with_chunks:
            for chunk in manifest.chunks:
                with _damage(chunk.file_name), _opened_file(folder, chunk.file_name) as file:
                    verify(file, manifest.files[chunk.file_name])
        state = state_tree.unflatten(document, _read_tensors(folder, TENSORS, manifest))
    return Checkpoint(manifest.kind, manifest.step, state, manifest.info, manifest.versions, path, manifest)


def read_manifest(path: Path) -> Manifest:
    """Only the manifest of the checkpoint at `path`. Raises BadInput."""
    with _damage(f"checkpoint {printable(str(path), 160)}"), _opened(path) as folder:
        return _read_manifest(folder)


def _link(chunk: Chunk, stored: Mapping[str, StoredChunk], path: Path) -> FileDigest | None:
    """Links a complete chunk that is stored already to `path`; None if it must be written."""
    source = stored.get(chunk.name) if chunk.complete else None
    if source is None:
        return None
    try:
        os.link(source.path, path, follow_symlinks=False)
    except OSError:  # no links on this file system, or the file is gone: the content is still in memory
        return None
    if os.stat(path, follow_symlinks=False).st_size != source.digest.num_bytes:
        os.unlink(path)
        return None
    return source.digest


def _read_manifest(folder: int) -> Manifest:
    with _damage(MANIFEST):
        return Manifest.from_bytes(read_small_file(MANIFEST, MAX_BYTES, folder))


def _read_tensors(folder: int, name: str, manifest: Manifest) -> dict[str, Tensor]:
    with _damage(name), _opened_file(folder, name) as file:
        return tensor_file.decode(read_verified(file, manifest.files[name]))


@contextlib.contextmanager
def _damage(place: str) -> Iterator[None]:
    """Names the place of an error, and turns an OSError of the block into BadInput."""
    try:
        yield
    except UnsupportedFormat:
        raise
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from error
    except OSError as error:
        raise BadInput(f"{place}: {reason(error)}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """One descriptor for the folder: what is read belongs together even if another folder takes its name."""
    descriptor = open_folder(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _opened_file(folder: int, name: str) -> BufferedReader:
    return open(open_regular(name, folder), "rb")
