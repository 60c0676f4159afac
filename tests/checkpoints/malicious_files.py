"""Hostile files: they try to run code, leave the run directory or exhaust the machine.

Each is planted in a valid run directory. Every payload, if anything ran it, would create the canary file. `forge`
writes checkpoints with right sizes, SHA-256 and checksum, so that only their content is hostile.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Plant = Callable[[Path, Path], None]
"""Changes the run directory (first argument) so that running the payload would create the canary (second)."""


def newest(run: Path) -> Path:
    """The folder of the last checkpoint."""
    return max((run / "checkpoints").glob("step_*"))


class Payload:
    """Creates the canary when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self.canary),)


def pickled(canary: Path) -> bytes:
    return pickle.dumps(Payload(canary))


def tensor_file_bytes(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file with any header: a JSON value, or bytes as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one_tensor(dtype: object = "F32", shape: object = (1,), size: int = 4, name: str = "x") -> bytes:
    """A safetensors file of one tensor with any description."""
    return tensor_file_bytes({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, b"\xff" * size)


def two_tensors(start: int) -> bytes:
    """A safetensors file of two tensors of four bytes, the second of which begins at `start`."""
    offsets = {"x": [0, 4], "y": [start, start + 4]}
    header = {name: {"dtype": "F32", "shape": [1], "data_offsets": value} for name, value in offsets.items()}
    return tensor_file_bytes(header, b"\0" * (start + 4))


def forge(folder: Path, files: Mapping[str, bytes]) -> None:
    """Puts `files` into a checkpoint and a manifest over it that is right in every formal way."""
    for name, content in files.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content)
    digests = {name: digest_of(content) for name, content in files.items()}
    edit_manifest(folder, lambda manifest: manifest["files"].update(digests))


def digest_of(content: bytes) -> dict[str, object]:
    return {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Applies `change` to the manifest's fields and writes it with its own right checksum."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest.pop("checksum", None)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    path.unlink()
    path.write_text(json.dumps({**manifest, "checksum": hashlib.sha256(text).hexdigest()}))


def _tensors(content: bytes) -> Plant:
    return lambda run, _: forge(newest(run), {"tensors.safetensors": content})


def _state(content: bytes) -> Plant:
    return lambda run, _: forge(newest(run), {"state.json": content})


def _manifest(content: bytes) -> Plant:
    def plant(run: Path, _: Path) -> None:
        (newest(run) / "manifest.json").write_bytes(content)

    return plant


def _set(key: str, value: object) -> Plant:
    """A manifest with another value of one field."""
    return lambda run, _: edit_manifest(newest(run), lambda manifest: manifest.update({key: value}))


def _torch_archive(canary: Path) -> bytes:
    """A torch file whose pickle is the payload."""
    file, swapped = io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.ones(2)}, file)
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(swapped, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickled(canary) if name.endswith("data.pkl") else source.read(name))
    return swapped.getvalue()


def _instead_of(name: str, make: Callable[[Path, Path], object]) -> Plant:
    """Moves a file or the whole checkpoint outside, and gives `make` the old path and the new one."""

    def plant(run: Path, canary: Path) -> None:
        path, outside = newest(run) / name, canary.with_name("outside")
        os.replace(path, outside)
        make(path, outside)

    return plant


def _sparse(run: Path, _: Path) -> None:
    size, folder = 2**42, newest(run)
    head = tensor_file_bytes({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
    forge(folder, {"tensors.safetensors": head})
    os.truncate(folder / "tensors.safetensors", len(head) + size)
    claimed = {"num_bytes": len(head) + size, "sha256": "0" * 64}
    edit_manifest(folder, lambda manifest: manifest["files"].update({"tensors.safetensors": claimed}))


def _listed(name: str, chunk: bool = False) -> Plant:
    """A manifest that lists a file, or a chunk of the replay buffer, by a name of its own choice."""

    def plant(run: Path, canary: Path) -> None:
        outside = canary.with_name("outside")
        outside.write_bytes(b"{}")
        path = name.format(outside)

        def change(manifest: dict[str, Any]) -> None:
            manifest["files"][f"{path}.safetensors" if chunk else path] = digest_of(b"{}")
            if chunk:
                manifest["chunks"].append({"name": path, "complete": True})

        edit_manifest(newest(run), change)

    return plant


HOSTILE_TENSOR_FILES: dict[str, bytes] = {
    "a dtype object": one_tensor("O"),
    "a dtype that torch lacks": one_tensor("F4", [8]),
    "booleans of value 255": one_tensor("BOOL", [4]),
    "a header longer than the file": (2**63).to_bytes(8, "little") + b"{}",
    "no header": b"",
    "a header of twenty megabytes": tensor_file_bytes(b" " * 20 * 2**20),
    "a header nested without end": tensor_file_bytes(b"[" * 10**6),
    "a shape that overflows": one_tensor(shape=[2**32, 2**32]),
    "an empty shape that overflows": one_tensor(shape=[0, 2**61, 2**61], size=0),
    "a negative shape": one_tensor(shape=[-1, -1]),
    "tensors that overlap": two_tensors(2),
    "a gap between tensors": two_tensors(8),
    "bytes after the tensors": one_tensor() + b"\0" * 400,
}
"""Each is refused as a file, whatever checkpoint it is part of."""

_MANY = {f"t{index}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for index in range(100_000)}

HOSTILE_CHECKPOINTS: dict[str, Plant] = {
    **{name: _tensors(content) for name, content in HOSTILE_TENSOR_FILES.items()},
    "a pickle for the tensors": lambda run, canary: _tensors(pickled(canary))(run, canary),
    "a pickle for the state": lambda run, canary: _state(pickled(canary))(run, canary),
    "a pickle for the manifest": lambda run, canary: _manifest(pickled(canary))(run, canary),
    "a torch archive with a swapped pickle": lambda run, canary: _tensors(_torch_archive(canary))(run, canary),
    "a hundred thousand tensors": lambda run, canary: _tensors(tensor_file_bytes(_MANY))(run, canary),
    "a sparse file of four terabytes": _sparse,
    "tensors that the state does not know": _tensors(one_tensor(name="/\x1b[2J")),
    "no tensors where the state has some": _tensors(tensor_file_bytes({})),
    "a state with an unknown mark": _state(b'{"agent": {"$is": "object:os.mknod"}}'),
    "a state whose mark is a list": _state(b'{"agent": {"$is": ["tensor"]}}'),
    "a state that is a list": _state(b"[1]"),
    "a state that is YAML": _state(b"!!python/object/apply:os.system ['exit']"),
    "a state nested without end": _state(b'{"a":' * 10**6),
    "a state with endless digits": _state(b'{"a":' + b"9" * 10**6 + b"}"),
    "a state of empty lists": _state(b'{"a":[' + b"[]," * (13 * 10**5) + b"[]]}"),
    "a state of twenty megabytes": _state(b" " * 20 * 2**20),
    "a state in another encoding": _state('{"a": "ü"}'.encode("utf-16")),
    "a manifest nested without end": _manifest(b"[" * 10**6),
    "a manifest of twenty megabytes": _manifest(b" " * 20 * 2**20),
    "a manifest that is a number": _manifest(b"1"),
    "a manifest with infinity": _manifest(b'{"step": 1e999}'),
    "a manifest with an endless step": _set("step", 10**4000),
    "a manifest with a step of another type": _set("step", "100"),
    "a manifest with a negative step": _set("step", -1),
    "a manifest with an unknown kind": _set("kind", "\x1b[2J"),
    "a manifest with an unknown field": _set("\x1b[2J", 1),
    "a manifest whose files are a list": _set("files", []),
    "a manifest whose chunks are numbers": _set("chunks", [1]),
    "a manifest whose versions are numbers": _set("versions", {"torch": 2}),
    "a manifest of no format": _set("format", None),
    "a file name with separators": _listed("../../../outside"),
    "an absolute file name": _listed("{}"),
    "a chunk name with separators": _listed("../../../outside", chunk=True),
    "an absolute chunk name": _listed("{}", chunk=True),
    "a chunk name with terminal escapes": _listed("\x1b]0;owned\x07\x1b[2J", chunk=True),
    "a chunk name with a null byte": _listed("a\0b", chunk=True),
    "a chunk that takes the place of the tensors": _listed("tensors", chunk=True),
    "a link for the state": _instead_of("state.json", Path.symlink_to),
    "a link for the tensors": _instead_of("tensors.safetensors", Path.symlink_to),
    "a link for the manifest": _instead_of("manifest.json", Path.symlink_to),
    "a link for the checkpoint": _instead_of("", Path.symlink_to),
    "a pipe for the tensors": _instead_of("tensors.safetensors", lambda path, _: os.mkfifo(path)),
    "a device for the state": _instead_of("state.json", lambda path, _: path.symlink_to("/dev/zero")),
    "a folder for the state": _instead_of("state.json", lambda path, _: path.mkdir()),
}
"""Each leaves the newest checkpoint unusable; anything but one line of refusal is a fault."""

LARGE = {"a state of empty lists", "a hundred thousand tensors"}
"""Those that take seconds to refuse."""

HOSTILE_CONFIGURATIONS: dict[str, Callable[[Path], bytes]] = {
    "a YAML tag that applies a function": lambda canary: f"!!python/object/apply:os.mknod ['{canary}']".encode(),
    "a YAML tag that makes an object": lambda canary: f"suite: !!python/object/new:os.mknod ['{canary}']".encode(),
    "a YAML tag that imports": lambda _: b"suite: !!python/module:antigravity",
    "a target to instantiate": lambda canary: f"suite: {{_target_: os.mknod, path: '{canary}'}}".encode(),
    "an architecture by import path": lambda _: (
        b"suite: {name: point-mass}\narchitecture: {name: 'canary_module:Tiny'}"
    ),
    "an agent by import path": lambda _: b"suite: {name: point-mass}\nagent: {name: 'canary_module:Tiny'}",
    "a suite by import path": lambda _: b"suite: {name: 'canary_module:Tiny'}",
    "an environment by import path": lambda _: b"suite: {name: 'metaworld:canary_module:Env'}",
    "a pickle": pickled,
    "aliases without end": lambda _: (
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(ord("b"), ord("k")))
    ),
    "terminal escapes": lambda _: b'"\\e]0;owned\\a\\e[2J": 1',
}
"""Each is the whole config.yaml of a run directory."""

CANARY_MODULE = "import os, pathlib\nos.mknod(os.environ['CANARY'])\n"
"""The source of `canary_module`, for a folder on the import path."""
