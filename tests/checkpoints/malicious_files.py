"""Files that try to run code, leave the run directory, or exhaust the machine, each planted in a valid run directory.

Every payload, if anything ran it, would create the canary file. `forge` writes checkpoints whose sizes, SHA-256 and
checksum are all in order: what is hostile in them is the content alone.
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


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def forge(folder: Path, files: Mapping[str, bytes], **overrides: object) -> None:
    """Puts `files` into a checkpoint and a manifest over it that is right in every formal way."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"]
    for name, content in files.items():
        path = folder / name
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        manifest["files"][name] = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    sign(folder, manifest | overrides)


def sign(folder: Path, manifest: Mapping[str, object]) -> None:
    """Writes a manifest with its own right checksum."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    signed = {**manifest, "checksum": hashlib.sha256(text).hexdigest()}
    (folder / "manifest.json").unlink(missing_ok=True)
    (folder / "manifest.json").write_text(json.dumps(signed))


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


def _zip_bomb(_: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("tensors", b"\0" * 10**8)
    return file.getvalue()


def _zip_slip(canary: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"../../../../{canary}", "x")
    return file.getvalue()


def _many_tensors(count: int) -> bytes:
    return tensor_file_bytes({f"t{index}": entry("F32", [0], [0, 0]) for index in range(count)})


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
    size = 2**42
    folder = newest(run)
    head = tensor_file_bytes({"x": entry("U8", [size], [0, size])})
    forge(folder, {"tensors.safetensors": head})
    os.truncate(folder / "tensors.safetensors", len(head) + size)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"]
    manifest["files"]["tensors.safetensors"]["num_bytes"] = len(head) + size
    sign(folder, manifest)


def _file_named(name: str) -> Plant:
    """A manifest that lists a file by a path of its own choice."""

    def plant(run: Path, canary: Path) -> None:
        canary.with_name("outside").write_bytes(b"{}")
        written = {"num_bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
        manifest = json.loads((newest(run) / "manifest.json").read_text())
        del manifest["checksum"]
        manifest["files"][name.format(canary.with_name("outside"))] = written
        sign(newest(run), manifest)

    return plant


def _chunk_named(name: str) -> Plant:
    def plant(run: Path, canary: Path) -> None:
        path = name.format(canary.with_name("outside"))
        written = {"num_bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
        manifest = json.loads((newest(run) / "manifest.json").read_text())
        del manifest["checksum"]
        manifest["files"][f"{path}.safetensors"] = written
        manifest["chunks"].append({"name": path, "complete": True})
        sign(newest(run), manifest)

    return plant


def _manifest(content: Callable[[Path], bytes]) -> Plant:
    def plant(run: Path, canary: Path) -> None:
        (newest(run) / "manifest.json").write_bytes(content(canary))

    return plant


def _state_value(value: object) -> Plant:
    return _state(lambda _: json.dumps(value).encode())


HOSTILE_CHECKPOINTS: dict[str, Plant] = {
    "a pickle for the tensors": _tensors(pickled),
    "a pickle for the state": _state(pickled),
    "a pickle for the manifest": _manifest(pickled),
    "a torch archive with a swapped data.pkl": _tensors(_torch_zip),
    "an npz of objects": _tensors(_numpy_objects),
    "a zip bomb": _tensors(_zip_bomb),
    "a zip with paths outside": _tensors(_zip_slip),
    "a tensor of dtype object": _tensors(lambda _: tensor_file_bytes({"x": entry("O")}, b"\0" * 4)),
    "a dtype that names code": _tensors(lambda _: tensor_file_bytes({"x": entry("os:system")}, b"\0" * 4)),
    "a dtype that is a list": _tensors(lambda _: tensor_file_bytes({"x": entry(["F32"])}, b"\0" * 4)),
    "a header longer than the file": _tensors(lambda _: (2**63).to_bytes(8, "little") + b"{}"),
    "a header of no bytes": _tensors(lambda _: b"\0" * 8),
    "no header": _tensors(lambda _: b""),
    "a header that is a list": _tensors(lambda _: tensor_file_bytes([1, 2])),
    "a header of twenty megabytes": _tensors(lambda _: tensor_file_bytes(b" " * 20 * 2**20)),
    "a header nested without end": _tensors(lambda _: tensor_file_bytes(b"[" * 10**6)),
    "a header with a name twice": _tensors(
        lambda _: tensor_file_bytes(b'{"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"x":1}')
    ),
    "forty thousand tensors": _tensors(lambda _: _many_tensors(40_000)),
    "a hundred thousand tensors": _tensors(lambda _: _many_tensors(100_000)),
    "a shape larger than its bytes": _tensors(lambda _: tensor_file_bytes({"x": entry(shape=[2**40])}, b"\0" * 4)),
    "a shape that overflows": _tensors(lambda _: tensor_file_bytes({"x": entry(shape=[2**32, 2**32])}, b"\0" * 4)),
    "an empty shape that overflows": _tensors(
        lambda _: tensor_file_bytes({"x": entry(shape=[0, 2**61, 2**61], offsets=[0, 0])})
    ),
    "a negative shape": _tensors(lambda _: tensor_file_bytes({"x": entry(shape=[-1, -1])}, b"\0" * 4)),
    "a shape of booleans": _tensors(lambda _: tensor_file_bytes({"x": entry(shape=[True])}, b"\0" * 4)),
    "a thousand dimensions": _tensors(lambda _: tensor_file_bytes({"x": entry(shape=[1] * 1000)}, b"\0" * 4)),
    "tensors that overlap": _tensors(
        lambda _: tensor_file_bytes({"x": entry(), "y": entry(offsets=[2, 6])}, b"\0" * 6)
    ),
    "a gap between tensors": _tensors(
        lambda _: tensor_file_bytes({"x": entry(), "y": entry(offsets=[8, 12])}, b"\0" * 12)
    ),
    "bytes after the tensors": _tensors(lambda _: tensor_file_bytes({"x": entry()}, b"\0" * 400)),
    "booleans of value 255": _tensors(lambda _: tensor_file_bytes({"x": entry("BOOL")}, b"\xff" * 4)),
    "a sparse file of four terabytes": _sparse,
    "tensors that the state does not know": _tensors(lambda _: tensor_file_bytes({"/\x1b[2Jevil": entry()}, b"\0" * 4)),
    "no tensors where the state has some": _tensors(lambda _: tensor_file_bytes({})),
    "a state with a pickle in base64": _state(
        lambda canary: json.dumps(
            {"agent": {"$is": "pickle", "data": base64.b64encode(pickled(canary)).decode()}}
        ).encode()
    ),
    "a state with a YAML tag": _state(lambda canary: f"!!python/object/apply:os.mknod ['{canary}']".encode()),
    "a state with an unknown mark": _state_value({"agent": {"$is": "object:os.mknod"}}),
    "a state whose mark is a list": _state_value({"agent": {"$is": ["tensor"]}}),
    "a state that is a list": _state_value([1]),
    "a state nested without end": _state(lambda _: b'{"a":' * 10**6),
    "a state with endless digits": _state(lambda _: b'{"a":' + b"9" * 10**6 + b"}"),
    "a state of empty lists": _state(lambda _: b'{"a":[' + b"[]," * (13 * 10**5) + b"[]]}"),
    "a state in another encoding": _state(lambda _: '{"a": "ü"}'.encode("utf-16")),
    "a manifest nested without end": _manifest(lambda _: b"[" * 10**6),
    "a manifest of twenty megabytes": _manifest(lambda _: b" " * 20 * 2**20),
    "a manifest that is a number": _manifest(lambda _: b"1"),
    "a manifest with a constant": _manifest(lambda _: b"NaN"),
    "a file name with separators": _file_named("../../../outside"),
    "an absolute file name": _file_named("{}"),
    "a chunk name with separators": _chunk_named("../../../outside"),
    "an absolute chunk name": _chunk_named("{}"),
    "a chunk name with terminal escapes": _chunk_named("\x1b]0;owned\x07\x1b[2J"),
    "a chunk name with a null byte": _chunk_named("a\0b"),
    "a chunk that takes the place of the tensors": _chunk_named("tensors"),
    "a link for the state": _replace_by_link("state.json"),
    "a link for the tensors": _replace_by_link("tensors.safetensors"),
    "a link for the manifest": _replace_by_link("manifest.json"),
    "a link for the checkpoint": _link_folder,
    "a pipe for the tensors": _pipe,
    "a device for the state": _device,
    "a folder for the state": _folder_in_place_of_file,
}
"""Each leaves the newest checkpoint unusable; anything but one line of refusal is a fault."""

LARGE = {"a state of empty lists", "forty thousand tensors", "a zip bomb"}
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
