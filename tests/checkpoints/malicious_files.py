"""Hostile files: they try to run code, leave the run directory or exhaust the machine.

Each is planted in a valid run directory. Every payload, if anything ran it, would create the canary file. `forge`
writes checkpoints with right sizes, SHA-256 and checksum, so that only their content is hostile.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
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
    manifest.pop("checksum", None)
    change(manifest)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    path.unlink()
    path.write_text(json.dumps({**manifest, "checksum": hashlib.sha256(text).hexdigest()}))


def _tensors(content: Callable[[Path], bytes]) -> Plant:
    return lambda run, canary: forge(newest(run), {"tensors.safetensors": content(canary)})


def _state(content: Callable[[Path], bytes]) -> Plant:
    return lambda run, canary: forge(newest(run), {"state.json": content(canary)})


def _torch_zip(canary: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, file)
    swapped = io.BytesIO()
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(swapped, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickled(canary) if name.endswith("data.pkl") else source.read(name))
    return swapped.getvalue()


def _numpy_objects(canary: Path) -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.array([Payload(canary)], dtype=object))
    return file.getvalue()


def _zip_slip(canary: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"../../../../{canary}", "x")
    return file.getvalue()


def _replace_by_link(name: str) -> Plant:
    def plant(run: Path, canary: Path) -> None:
        outside = canary.with_name(f"outside-{name}")
        os.replace(newest(run) / name, outside)
        (newest(run) / name).symlink_to(outside)

    return plant


def _link_folder(run: Path, canary: Path) -> None:
    folder, outside = newest(run), canary.with_name("outside-checkpoint")
    os.replace(folder, outside)
    folder.symlink_to(outside)


def _pipe(run: Path, _: Path) -> None:
    (newest(run) / "tensors.safetensors").unlink()
    os.mkfifo(newest(run) / "tensors.safetensors")


def _device(run: Path, _: Path) -> None:
    (newest(run) / "state.json").unlink()
    (newest(run) / "state.json").symlink_to("/dev/zero")


def _folder_in_place_of_file(run: Path, _: Path) -> None:
    (newest(run) / "state.json").unlink()
    (newest(run) / "state.json").mkdir()


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


def _manifest(content: Callable[[Path], bytes]) -> Plant:
    def plant(run: Path, canary: Path) -> None:
        (newest(run) / "manifest.json").write_bytes(content(canary))

    return plant


def _set(key: str, value: object) -> Plant:
    """A manifest with another value of one field."""
    return lambda run, _: edit_manifest(newest(run), lambda manifest: manifest.update({key: value}))


HOSTILE_TENSOR_FILES: dict[str, bytes] = {
    "a dtype object": one_tensor("O"),
    "a dtype that is a list": one_tensor(["F32"]),
    "a dtype that torch lacks": one_tensor("F4", [8]),
    "booleans of value 255": one_tensor("BOOL", [4]),
    "a header longer than the file": (2**63).to_bytes(8, "little") + b"{}",
    "a header of no bytes": b"\0" * 8,
    "no header": b"",
    "a header that is a list": tensor_file_bytes([1, 2]),
    "a header of twenty megabytes": tensor_file_bytes(b" " * 20 * 2**20),
    "a header nested without end": tensor_file_bytes(b"[" * 10**6),
    "a shape larger than its bytes": one_tensor(shape=[2**40]),
    "a shape that overflows": one_tensor(shape=[2**32, 2**32]),
    "an empty shape that overflows": one_tensor(shape=[0, 2**61, 2**61], size=0),
    "a negative shape": one_tensor(shape=[-1, -1]),
    "a shape of booleans": one_tensor(shape=[True]),
    "tensors that overlap": two_tensors(2),
    "a gap between tensors": two_tensors(8),
    "bytes after the tensors": one_tensor() + b"\0" * 400,
}
"""Each is refused as a file, whatever checkpoint it stands in."""

HOSTILE_CHECKPOINTS: dict[str, Plant] = {
    **{name: _tensors(lambda _, content=content: content) for name, content in HOSTILE_TENSOR_FILES.items()},
    "a pickle for the tensors": _tensors(pickled),
    "a pickle for the state": _state(pickled),
    "a pickle for the manifest": _manifest(pickled),
    "a torch archive with a swapped data.pkl": _tensors(_torch_zip),
    "an npz of objects": _tensors(_numpy_objects),
    "a zip with paths outside": _tensors(_zip_slip),
    "a hundred thousand tensors": _tensors(
        lambda _: tensor_file_bytes(
            {f"t{index}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for index in range(100_000)}
        )
    ),
    "a sparse file of four terabytes": _sparse,
    "tensors that the state does not know": _tensors(lambda _: one_tensor(name="/\x1b[2J")),
    "no tensors where the state has some": _tensors(lambda _: tensor_file_bytes({})),
    "a state with a pickle in base64": _state(
        lambda canary: json.dumps({"$is": "pickle", "data": base64.b64encode(pickled(canary)).decode()}).encode()
    ),
    "a state with a YAML tag": _state(lambda canary: f"!!python/object/apply:os.mknod ['{canary}']".encode()),
    "a state with an unknown mark": _state(lambda _: b'{"agent": {"$is": "object:os.mknod"}}'),
    "a state whose mark is a list": _state(lambda _: b'{"agent": {"$is": ["tensor"]}}'),
    "a state that is a list": _state(lambda _: b"[1]"),
    "a state nested without end": _state(lambda _: b'{"a":' * 10**6),
    "a state with endless digits": _state(lambda _: b'{"a":' + b"9" * 10**6 + b"}"),
    "a state of empty lists": _state(lambda _: b'{"a":[' + b"[]," * (13 * 10**5) + b"[]]}"),
    "a state of twenty megabytes": _state(lambda _: b" " * 20 * 2**20),
    "a state in another encoding": _state(lambda _: '{"a": "ü"}'.encode("utf-16")),
    "a manifest nested without end": _manifest(lambda _: b"[" * 10**6),
    "a manifest of twenty megabytes": _manifest(lambda _: b" " * 20 * 2**20),
    "a manifest that is a number": _manifest(lambda _: b"1"),
    "a manifest with a constant": _manifest(lambda _: b"NaN"),
    "a manifest with infinity": _manifest(lambda _: b'{"step": 1e999}'),
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
    "a link for the state": _replace_by_link("state.json"),
    "a link for the tensors": _replace_by_link("tensors.safetensors"),
    "a link for the manifest": _replace_by_link("manifest.json"),
    "a link for the checkpoint": _link_folder,
    "a pipe for the tensors": _pipe,
    "a device for the state": _device,
    "a folder for the state": _folder_in_place_of_file,
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
