"""JSON documents of bounded size. Files of a run directory may come from a stranger."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic_core import from_json

from mtrl.checkpoints.files import printable
from mtrl.errors import BadInput

MAX_BYTES = 4 * 2**20  # a parsed document takes up to some 50 times its size in memory

# Python refuses to print integers this long, and would do so in the middle of an error message.
_ENDLESS_DIGITS = re.compile(rb"[0-9]{4300}")


def dump_json(value: Any, indent: int | None = None) -> bytes:
    """ASCII JSON with sorted keys: equal values give equal bytes.

    Raises ValueError for NaN, infinity and what `parse_json` would not read back, TypeError for what JSON lacks.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, sort_keys=True, allow_nan=False, indent=indent, separators=separators).encode()
    try:
        parse_json(text)
    except BadInput as error:
        raise ValueError(f"cannot be read back: {error}") from error
    return text


def parse_json(data: bytes) -> Any:
    """The value of a JSON document. Raises BadInput."""
    if len(data) > MAX_BYTES:
        raise BadInput(f"{len(data)} bytes of JSON; at most {MAX_BYTES} are read")
    if _ENDLESS_DIGITS.search(data):
        raise BadInput("a number in the JSON has too many digits")
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise BadInput(f"not JSON: {printable(str(error))}") from None
