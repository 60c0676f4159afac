"""Tensors as bytes in the safetensors format."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from mtrl.checkpoints.files import printable
from mtrl.errors import BadInput

DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool,
}  # fmt: skip


def to_tensor(value: Tensor | np.ndarray) -> Tensor:
    """`value` as a tensor, without a copy where possible. Raises TypeError for what a file cannot hold."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise TypeError(f"no checkpoint can hold an array of {value.dtype}")
        value = torch.from_numpy(np.require(value, value.dtype.newbyteorder("="), ["C", "W"]))
    if value.layout != torch.strided or value.dtype not in DTYPES:
        raise TypeError(f"no checkpoint can hold a tensor of {value.dtype}, {value.layout}")
    return value.detach()


def encode(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a file that holds `tensors`, which may be views of each other and on any device."""
    plain: dict[str, Tensor] = {}
    storages = set()
    for name, value in tensors.items():
        tensor = to_tensor(value).cpu().contiguous()
        # The library refuses tensors that share memory.
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        plain[name] = tensor
    return safetensors.torch.save(plain)


def decode(data: bytes) -> dict[str, Tensor]:
    """The tensors of a file's bytes. Raises BadInput for anything but a whole and valid file."""
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # SafetensorError, and what torch raises for shapes and dtypes it does not have
        raise BadInput(f"not a safetensors file: {printable(str(error))}") from None
    for name, tensor in tensors.items():
        # A boolean of another value makes torch compute nonsense later.
        if tensor.dtype == torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
            raise BadInput(f"tensor {printable(name)} holds booleans that are neither 0 nor 1")
    return tensors
