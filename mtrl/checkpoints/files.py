"""File operations of a run directory: writes that survive a kill or a full disk, and reads that distrust the file.

Every write goes through this module, so that an error of the disk becomes one StorageFailure line.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mtrl.errors import BadInput, StorageFailure

SLICE_BYTES = 2**20  # hashed and written while it is in the processor's cache
TEMPORARY = ".tmp-"  # prefix of names that only a killed process leaves behind
DAMAGED = "its content does not match its SHA-256"
START_FACTOR = 2.2  # the old and the new checkpoint stand side by side, and logs grow


class FileDigest(BaseModel):
    """Size and SHA-256 of a file's content."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    num_bytes: Annotated[int, Field(ge=0, lt=2**62)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @classmethod
    def of(cls, data: bytes) -> FileDigest:
        return cls(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def temporary_name(name: str) -> str:
    """Name under which this process writes a file before it is renamed to `name`."""
    return f"{TEMPORARY}{os.getpid()}-{name}"


def printable(value: object, limit: int = 80) -> str:
    """`value` quoted for a message: control characters escaped, at most `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 4] + "..." + text[-1]


def reason(error: OSError) -> str:
    """What went wrong, without the file name."""
    return error.strerror or type(error).__name__


def free_bytes(folder: Path) -> int | None:
    """Bytes that this user can still write at `folder` or its nearest existing parent; None if nobody can tell."""
    for place in (folder, *folder.absolute().parents):
        try:
            usage = os.statvfs(place)
        except OSError:
            continue
        return usage.f_bavail * usage.f_frsize
    return None


def require_free_space(folder: Path, num_bytes: int) -> None:
    """Raises StorageFailure unless START_FACTOR times the estimated `num_bytes` of a checkpoint are free."""
    free, needed = free_bytes(folder), int(START_FACTOR * num_bytes)
    if free is not None and free < needed:
        raise StorageFailure(
            f"not enough space at {printable(str(folder), 160)}: needed {needed} bytes "
            f"({START_FACTOR} checkpoints of {num_bytes}), free {free} bytes"
        )


def storage_failure(error: OSError, path: Path, needed: int | None = None) -> StorageFailure:
    """The one line for an error met while writing `path`."""
    free = free_bytes(path.parent)
    sizes = ([] if needed is None else [f"needed {needed} bytes"]) + ([] if free is None else [f"free {free} bytes"])
    return StorageFailure(": ".join([f"cannot write {printable(str(path), 160)}", reason(error), ", ".join(sizes)]))


@contextlib.contextmanager
def storage_faults(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turns an OSError of the block into the StorageFailure for `path`."""
    try:
        yield
    except OSError as error:
        raise storage_failure(error, path, needed) from error


def write_new_file(path: Path, parts: Iterable[bytes | memoryview]) -> FileDigest:
    """Writes a file that must not exist yet and waits until it is on the disk. Raises OSError."""
    digest, num_bytes = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), SLICE_BYTES):
                piece = view[start : start + SLICE_BYTES]
                digest.update(piece)
                write_all(descriptor, piece)
                num_bytes += len(piece)
        os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise
    os.close(descriptor)  # not suppressed: network file systems report a full disk here
    return FileDigest(num_bytes=num_bytes, sha256=digest.hexdigest())


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Writes every byte; a signal or a nearly full disk may make the system take fewer at a time."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Waits until the names in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot sync a folder say so with this
            raise
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Puts `data` at `path` in one step: a reader or a kill sees the old content or the new. Raises StorageFailure."""
    temporary = path.with_name(temporary_name(path.name))
    with storage_faults(path, len(data)):
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            write_new_file(temporary, [data])
            os.replace(temporary, path)
            sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def overwrite_file(path: Path, text: bytes) -> None:
    """Writes `text`, padded by line ends, over a file that is at least as long; otherwise the file stays as it is.

    Needs no space on the disk, and is not safe against a kill half-way. Raises nothing.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            if len(text) <= size:
                write_all(descriptor, text.ljust(size, b"\n"))
        finally:
            os.close(descriptor)


def delete(path: Path) -> None:
    """Removes a file, a link (never what it points to) or a whole folder. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def open_folder(path: Path) -> int:
    """A descriptor of a real folder, for `open_regular`. Raises OSError, also if `path` is a link."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def open_regular(name: str | Path, folder: int | None = None) -> int:
    """A descriptor for reading a regular file, never a link, pipe or device. Raises OSError or BadInput."""
    # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadInput(f"{printable(str(name), 160)} is not a regular file")
    return descriptor


def read_small_file(name: str | Path, max_bytes: int, folder: int | None = None) -> bytes:
    """The bytes of a regular file. Raises OSError, or BadInput if it holds more than `max_bytes`."""
    with open(open_regular(name, folder), "rb", buffering=0) as file:
        data = bytearray()
        while piece := file.read(min(SLICE_BYTES, max_bytes + 1 - len(data))):
            data += piece
    if len(data) > max_bytes:
        raise BadInput(f"{printable(str(name), 160)} holds more than {max_bytes} bytes")
    return bytes(data)


def read_verified(file: BufferedReader, expected: FileDigest) -> bytes:
    """The content of an open file if it is the expected one. Raises BadInput, OSError."""
    _check_size(file, expected)
    # Checked before anything is allocated: a sparse file can claim any size for nothing.
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        if expected.num_bytes > memory:
            raise MemoryError
        data = file.read(expected.num_bytes)
    except MemoryError:
        raise BadInput(f"its {expected.num_bytes} bytes do not fit in the memory of {memory} bytes") from None
    if FileDigest.of(data) != expected:
        raise BadInput(DAMAGED)
    return data


def verify(file: BufferedReader, expected: FileDigest) -> None:
    """Compares size and SHA-256 in constant memory. Raises BadInput, OSError."""
    _check_size(file, expected)
    if hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256:
        raise BadInput(DAMAGED)


def _check_size(file: BufferedReader, expected: FileDigest) -> None:
    size = os.fstat(file.fileno()).st_size
    if size != expected.num_bytes:
        raise BadInput(f"it has {size} bytes where the manifest says {expected.num_bytes}")
