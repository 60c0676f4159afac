"""Manifest of a checkpoint: its kind and step, the versions it was made with, and the digest of every file in it.

The manifest is written last and carries a checksum of itself, so a folder with a valid manifest is a whole checkpoint.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mtrl.checkpoints.files import FileDigest, printable
from mtrl.checkpoints.json_text import dump_json, parse_json
from mtrl.errors import BadInput

FORMAT: Literal[2] = 2
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"

Kind = Literal["step", "best"]

# No separators, no dots: a name can neither leave the folder nor hide in it.
ChunkName = Annotated[str, Field(pattern="^[a-z][a-z0-9]*(-[a-z0-9]+){0,9}$", max_length=100)]


class UnsupportedFormat(BadInput):
    """A whole checkpoint of another format. It is never passed over: an older one would silently lose progress."""


class ChunkEntry(BaseModel):
    """One chunk of the replay buffer."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: ChunkName
    complete: bool

    @property
    def file_name(self) -> str:
        return f"{self.name}.safetensors"


class Manifest(BaseModel):
    """The content of `manifest.json` without its checksum."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: Literal[2]
    kind: Kind
    step: Annotated[int, Field(ge=0, lt=10**12)]  # env steps
    info: dict[str, Any]  # JSON of the caller
    versions: dict[str, str]
    chunks: tuple[ChunkEntry, ...]
    files: dict[str, FileDigest]

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        names = [STATE, TENSORS, *(chunk.file_name for chunk in self.chunks)]
        if len(set(names)) != len(names) or set(names) != set(self.files):
            raise ValueError(f"lists other files than {STATE}, {TENSORS} and one per chunk")
        return self

    def to_bytes(self) -> bytes:
        """Raises TypeError or ValueError if `info` is not JSON."""
        fields = self.model_dump()
        return dump_json(fields | {"checksum": _checksum(dump_json(fields))})

    @staticmethod
    def from_bytes(data: bytes) -> Manifest:
        """Raises BadInput for a damaged or malformed manifest, UnsupportedFormat for one of another format."""
        fields = parse_json(data)
        if not isinstance(fields, dict):
            raise BadInput("not a JSON object")
        checksum = fields.pop("checksum", None)
        try:
            text = dump_json(fields)
        except ValueError as error:  # a number beyond every float
            raise BadInput(str(error)) from None
        if checksum != _checksum(text):
            raise BadInput("does not match its own checksum")
        # The checksum has the same rule in every format, so another format is told apart from damage.
        if fields.get("format") != FORMAT:
            raise UnsupportedFormat(_unsupported(fields.get("format")))
        try:
            return Manifest.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise BadInput(printable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", 160)) from None


def folder_name(kind: str, step: int) -> str:
    """Name of a checkpoint's folder, e.g. `step_000000012345`."""
    return f"{kind}_{step:012d}"


def _checksum(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _unsupported(found: Any) -> str:
    if found == 1:
        return "checkpoint format 1 was written by an older version of mtrl-suite; mtrl-suite 0.2 reads it"
    return f"checkpoint format {printable(found)} is not known to this version of mtrl-suite, which reads {FORMAT}"
