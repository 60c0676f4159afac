"""The manifest of a checkpoint: what it is, what it was made with, and size and SHA-256 of every file in it.

It is written last and carries a checksum of itself, so a folder with a whole manifest is a whole checkpoint.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from typing import Any, Literal, get_args

import mtrl
from mtrl.checkpoints.files import Written, printable
from mtrl.checkpoints.strict_json import InvalidJson, dump, parse
from mtrl.errors import BadInput

FORMAT = 1
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"
DEPENDENCIES = ("torch", "numpy", "gymnasium")

Kind = Literal["step", "best"]

# No separators, no dots: a name can neither leave the folder nor hide in it.
_CHUNK_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+){0,9}", re.ASCII)


class UnknownFormat(BadInput):
    """A whole checkpoint of a version that is not read here; an older one would silently lose progress."""


@dataclass(frozen=True)
class ChunkEntry:
    """One chunk of the replay buffer."""

    name: str
    complete: bool

    @property
    def file_name(self) -> str:
        return f"{self.name}.safetensors"


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says."""

    kind: Kind
    step: int  # env steps
    info: Mapping[str, Any]  # JSON of the caller
    versions: Mapping[str, str]
    chunks: tuple[ChunkEntry, ...]
    files: Mapping[str, Written]
    format: int = field(default=FORMAT)

    def to_bytes(self) -> bytes:
        """Raises TypeError or ValueError if `info` is not JSON."""
        fields = asdict(self) | {"files": {name: written._asdict() for name, written in self.files.items()}}
        return dump(fields | {"checksum": _checksum(fields)})

    @staticmethod
    def from_bytes(data: bytes) -> Manifest:
        """Raises BadInput if anything is missing, malformed or not covered by the checksum."""
        try:
            fields = parse(data)
        except InvalidJson as error:
            raise BadInput(f"{MANIFEST} is damaged: {error}") from None
        if not isinstance(fields, dict) or fields.pop("checksum", None) != _checksum(fields):
            raise BadInput(f"{MANIFEST} does not match its own checksum")
        # The checksum's rule is the same in every format, so a later format is known from a damaged one.
        if fields.get("format") != FORMAT:
            raise UnknownFormat(
                f"checkpoint format {printable(fields.get('format'))} is not known to this version "
                f"of mtrl-suite, which reads format {FORMAT}"
            )
        return _checked(fields)


def folder_name(kind: str, step: int) -> str:
    """Where a checkpoint stands, e.g. `step_000000012345`."""
    return f"{kind}_{step:012d}"


def check_chunk_name(name: str) -> None:
    """Raises ValueError unless `name` is lower-case words and numbers joined by hyphens."""
    if len(name) > 100 or not _CHUNK_NAME.fullmatch(name) or f"{name}.safetensors" == TENSORS:
        raise ValueError(f"{printable(name)} cannot name a chunk")


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions by distribution name."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


@cache
def dependency_versions() -> Mapping[str, str]:
    """Versions of what every checkpoint depends on."""
    return {"mtrl-suite": mtrl.__version__, **package_versions(DEPENDENCIES)}


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(dump(fields)).hexdigest()


def _checked(fields: dict[str, Any]) -> Manifest:
    expected = {"kind": str, "step": int, "info": dict, "versions": dict, "chunks": list, "files": dict, "format": int}
    if set(fields) != set(expected) or any(type(fields[name]) is not kind for name, kind in expected.items()):
        raise BadInput(f"{MANIFEST} does not have the fields of format {FORMAT}")
    if fields["kind"] not in get_args(Kind) or fields["step"] < 0:
        raise BadInput(f"{MANIFEST} has kind {printable(fields['kind'])} and step {printable(fields['step'])}")
    if not all(isinstance(version, str) for version in fields["versions"].values()):
        raise BadInput(f"{MANIFEST} has a version that is not a string")
    chunks = tuple(_checked_chunk(entry) for entry in fields["chunks"])
    files = {name: _checked_file(name, entry) for name, entry in fields["files"].items()}
    names = [STATE, TENSORS, *(chunk.file_name for chunk in chunks)]
    if len(set(names)) != len(names) or set(names) != set(files):
        raise BadInput(f"{MANIFEST} lists other files than {STATE}, {TENSORS} and one per chunk")
    return Manifest(fields["kind"], fields["step"], fields["info"], fields["versions"], chunks, files)


def _checked_chunk(entry: Any) -> ChunkEntry:
    if not isinstance(entry, dict) or set(entry) != {"name", "complete"} or type(entry["complete"]) is not bool:
        raise BadInput(f"{MANIFEST} has a malformed chunk {printable(entry)}")
    if not isinstance(entry["name"], str):
        raise BadInput(f"{MANIFEST} has a malformed chunk {printable(entry)}")
    try:
        check_chunk_name(entry["name"])
    except ValueError as error:
        raise BadInput(f"{MANIFEST}: {error}") from None
    return ChunkEntry(entry["name"], entry["complete"])


def _checked_file(name: str, entry: Any) -> Written:
    if not isinstance(entry, dict) or set(entry) != {"num_bytes", "sha256"}:
        raise BadInput(f"{MANIFEST} describes {printable(name)} by something else than size and SHA-256")
    size, sha256 = entry["num_bytes"], entry["sha256"]
    if type(size) is not int or not 0 <= size < 2**62 or not isinstance(sha256, str):
        raise BadInput(f"{MANIFEST} has a malformed size or SHA-256 for {printable(name)}")
    return Written(size, sha256)
