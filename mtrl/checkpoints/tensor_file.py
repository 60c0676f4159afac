"""The safetensors format, streamed: written without a copy of the data, checked and read in one pass.

The safetensors library builds the whole file in memory, copies every tensor again when it parses, and its file writer
hides a full disk in an error type of its own. The format is small: eight bytes with the length of a JSON header that
gives each tensor's dtype, shape and byte range, then the data without gaps, little-endian.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mtrl.checkpoints.files import SLICE_BYTES, Written, printable
from mtrl.checkpoints.strict_json import InvalidJson, dump, parse
from mtrl.errors import BadInput

_TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in _TORCH_DTYPES.items()}
_NUMPY_CODES = {
    np.dtype(name): code
    for name, code in {
        "f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8",
        "u8": "U64", "u4": "U32", "u2": "U16", "u1": "U8", "?": "BOOL",
    }.items()
}  # fmt: skip


class _Span(NamedTuple):
    """Where one tensor lies."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # bytes after the header
    end: int


def num_bytes(value: Tensor | np.ndarray) -> int:
    """Size of the values, bytes."""
    return value.nbytes if isinstance(value, np.ndarray) else value.numel() * value.element_size()


def dtype_code(value: Tensor | np.ndarray) -> str:
    """The format's name of the dtype. Raises TypeError for what the format cannot hold."""
    if isinstance(value, np.ndarray):
        code = _NUMPY_CODES.get(value.dtype.newbyteorder("="))
    else:
        code = _CODES.get(value.dtype) if value.layout == torch.strided else None
    if code is None:
        raise TypeError(f"no checkpoint can hold {type(value).__name__} of {value.dtype}")
    return code


def encode(tensors: Mapping[str, Tensor | np.ndarray]) -> Iterator[bytes | memoryview]:
    """The file's bytes part by part; a tensor on another device is fetched when its turn comes.

    Raises TypeError for a dtype that the format cannot hold, ValueError for more names than a reader takes.
    """
    # Wide dtypes first keeps every tensor aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {}
    position = 0
    for name in names:
        value = tensors[name]
        end = position + num_bytes(value)
        header[name] = {"dtype": dtype_code(value), "shape": list(value.shape), "data_offsets": [position, end]}
        position = end
    text = dump(header)
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield _as_bytes(tensors[name]).data


def _as_bytes(value: Tensor | np.ndarray) -> np.ndarray:
    """The values as (bytes,) uint8, without a copy where they are contiguous in host memory."""
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value, value.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def read(descriptor: int, expected: Written) -> dict[str, Tensor]:
    """The tensors of an open file, from the very bytes whose size and SHA-256 were compared.

    Memory: the tensors themselves and the header. Raises BadInput if anything is not as expected, OSError.
    """
    reader = _Reader(descriptor, expected)
    length = int.from_bytes(reader.take(8), "little")
    if length > reader.remaining:
        raise BadInput("its header is longer than the file")
    try:
        spans = _spans(parse(bytes(reader.take(length))), reader.remaining)
    except InvalidJson as error:
        raise BadInput(f"its header is damaged: {error}") from None
    tensors = {}
    for name, span in spans.items():
        try:
            tensor = torch.empty(span.shape, dtype=span.dtype)
        except (RuntimeError, MemoryError):
            raise BadInput(
                f"tensor {printable(name)} of {span.end - span.start} bytes does not fit in memory"
            ) from None
        flat = tensor.reshape(-1).view(torch.uint8).numpy()
        reader.fill(flat.data)
        if span.dtype == torch.bool and flat.size and flat.max() > 1:
            raise BadInput(f"tensor {printable(name)} holds booleans that are neither 0 nor 1")
        tensors[name] = tensor
    reader.finish()
    return tensors


def verify(descriptor: int, expected: Written) -> None:
    """Compares size and SHA-256 in constant memory. Raises BadInput, OSError."""
    reader = _Reader(descriptor, expected)
    piece = memoryview(bytearray(SLICE_BYTES))
    while reader.remaining:
        reader.fill(piece[: reader.remaining])
    reader.finish()


class _Reader:
    """Reads a file once from its start and hashes what it hands out."""

    def __init__(self, descriptor: int, expected: Written):
        self.descriptor, self.expected = descriptor, expected
        self.remaining = os.fstat(descriptor).st_size
        self._digest = hashlib.sha256()
        if self.remaining != expected.num_bytes:
            raise BadInput(f"it has {self.remaining} bytes where the manifest says {expected.num_bytes}")
        # Checked before anything is allocated: a sparse file can claim any size for nothing.
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if self.remaining > memory:
            raise BadInput(f"it has {self.remaining} bytes, more than the {memory} of this machine's memory")

    def take(self, count: int) -> memoryview:
        if count > self.remaining:
            raise BadInput("it ends too early")
        view = memoryview(bytearray(count))
        self.fill(view)
        return view

    def fill(self, view: memoryview) -> None:
        while len(view):
            count = os.readv(self.descriptor, [view[:SLICE_BYTES]])
            if count == 0:
                raise BadInput("it ends too early")
            self._digest.update(view[:count])
            self.remaining -= count
            view = view[count:]

    def finish(self) -> None:
        if self.remaining or self._digest.hexdigest() != self.expected.sha256:
            raise BadInput("its content does not match its SHA-256")


def _spans(header: Any, data_bytes: int) -> dict[str, _Span]:
    """The tensors in the order of their bytes. Raises BadInput unless they fill the data without gap or overlap."""
    if not isinstance(header, dict):
        raise BadInput("its header is not a JSON object")
    header.pop("__metadata__", None)
    spans = {name: _span(name, entry) for name, entry in header.items()}
    ordered = dict(sorted(spans.items(), key=lambda item: (item[1].start, item[1].end)))
    position = 0
    for name, span in ordered.items():
        if span.start != position:
            raise BadInput(f"tensor {printable(name)} overlaps another or leaves a gap")
        position = span.end
    if position != data_bytes:
        raise BadInput(f"its header describes {position} bytes of data, the file holds {data_bytes}")
    return ordered


def _span(name: str, entry: Any) -> _Span:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadInput(f"tensor {printable(name)} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _TORCH_DTYPES:
        raise BadInput(f"tensor {printable(name)} has the unknown dtype {printable(dtype)}")
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2 or len(shape) > 16:
        raise BadInput(f"tensor {printable(name)} has a malformed shape or byte range")
    itemsize = _TORCH_DTYPES[dtype].itemsize
    # Also bounded with the zeros taken out: torch computes strides from the other sizes.
    if math.prod(max(size, 1) for size in shape) * itemsize >= 2**62:
        raise BadInput(f"tensor {printable(name)} is too large")
    if offsets[1] - offsets[0] != math.prod(shape) * itemsize:
        raise BadInput(f"tensor {printable(name)} has a byte range that does not fit its shape")
    return _Span(_TORCH_DTYPES[dtype], tuple(shape), offsets[0], offsets[1])


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**62 for size in value)
