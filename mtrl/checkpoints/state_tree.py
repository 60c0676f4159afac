"""Conversion of a nested state to one JSON document and one flat set of tensors, and back with all types.

The document has the structure of the state. A tensor, array or NumPy scalar is `{"$is": "tensor"}`, `"array"` or
`"scalar"` in it, and its value is stored under the leaf's JSON pointer (RFC 6901). Floats that JSON lacks are
`{"$is": "nan"}` and the like.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtrl.checkpoints.files import printable
from mtrl.checkpoints.tensor_file import to_tensor
from mtrl.errors import BadInput
from mtrl.types import State

Json = Any
"""None, bool, int, float, str, and lists and string-keyed dicts of these."""

MARK = "$is"
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def flatten(state: State) -> tuple[Json, dict[str, Tensor]]:
    """The document of a state, and its tensors and arrays by JSON pointer, not copied where possible.

    Raises TypeError with the place of a value that a checkpoint cannot hold.
    """
    values: dict[str, Tensor] = {}
    return _to_document(state, "", values), values


def unflatten(document: Json, tensors: dict[str, Tensor]) -> State:
    """The state of a document and its tensors by JSON pointer. Raises BadInput if they do not belong together."""
    remaining = dict(tensors)
    state = _from_document(document, "", remaining)
    if not isinstance(state, dict):
        raise BadInput("the state is not a JSON object")
    if remaining:
        raise BadInput(f"the state has no place for tensor {printable(min(remaining))}")
    return state


def state_bytes(state: State) -> int:
    """Size of all tensors and arrays in a state, bytes."""
    return sum(value.nbytes for value in flatten(state)[1].values())


def _to_document(value: Any, pointer: str, values: dict[str, Tensor]) -> Json:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return {MARK: _put(value, pointer, values)}
    if type(value) is dict:
        for key in value:
            if type(key) is not str or key.startswith("$"):
                raise TypeError(f"state key {key!r} at {pointer!r} is not a string, or begins with '$'")
        return {key: _to_document(child, _child(pointer, key), values) for key, child in value.items()}
    if type(value) is list:
        return [_to_document(child, _child(pointer, index), values) for index, child in enumerate(value)]
    if type(value) is float and not math.isfinite(value):
        return {MARK: str(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"state at {pointer!r} is a {type(value).__name__}; allowed: dict, list, tensor, array, JSON value")


def _put(value: Tensor | np.ndarray | np.generic, pointer: str, values: dict[str, Tensor]) -> str:
    kind = "tensor" if isinstance(value, Tensor) else "array" if isinstance(value, np.ndarray) else "scalar"
    try:
        values[pointer] = to_tensor(np.asarray(value) if isinstance(value, np.generic) else value)
    except TypeError as error:
        raise TypeError(f"state at {pointer!r}: {error}") from None
    return kind


def _from_document(document: Json, pointer: str, remaining: dict[str, Tensor]) -> Any:
    if isinstance(document, list):
        return [
            _from_document(child, _child(pointer, index), remaining) if isinstance(child, list | dict) else child
            for index, child in enumerate(document)
        ]
    if not isinstance(document, dict):
        return document
    if MARK not in document:
        return {key: _from_document(child, _child(pointer, key), remaining) for key, child in document.items()}
    kind = document[MARK]
    if len(document) != 1 or not isinstance(kind, str):
        raise BadInput(f"the state is malformed at {printable(pointer)}")
    if kind in _NON_FINITE:
        return _NON_FINITE[kind]
    tensor = remaining.pop(pointer, None)
    if tensor is None or kind not in ("tensor", "array", "scalar") or (kind == "scalar" and tensor.shape):
        raise BadInput(f"the state has no {printable(kind)} at {printable(pointer)}")
    if kind == "tensor":
        return tensor
    if tensor.dtype == torch.bfloat16:
        raise BadInput(f"the state has a bfloat16 array at {printable(pointer)}")
    array = tensor.numpy()
    return array if kind == "array" else array[()]


def _child(pointer: str, key: str | int) -> str:
    return f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"
