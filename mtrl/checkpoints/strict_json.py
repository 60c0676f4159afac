"""JSON that means one thing only: no repeated keys, no NaN, bounded size and depth.

Files of a run directory may come from a stranger. Python's parser alone takes the last of two equal keys, accepts
`NaN`, and fails in ways of its own on deep nesting or endless digits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

MAX_BYTES = 4 * 2**20  # a parsed document takes up to some 50 times its size in memory
MAX_DEPTH = 64


class InvalidJson(ValueError):
    """The text is not JSON that this module accepts."""


def dump(value: Any, indent: int | None = None) -> bytes:
    """`value` as ASCII JSON with sorted keys: equal values give equal bytes.

    Raises ValueError on NaN or infinity and on more than MAX_BYTES, TypeError on what JSON does not have.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, sort_keys=True, allow_nan=False, indent=indent, separators=separators).encode()
    if len(text) > MAX_BYTES:
        raise ValueError(f"JSON of {len(text)} bytes; at most {MAX_BYTES} can be read back")
    return text


def parse(data: bytes) -> Any:
    """The value of a JSON document. Raises InvalidJson."""
    if len(data) > MAX_BYTES:
        raise InvalidJson(f"{len(data)} bytes of JSON; at most {MAX_BYTES} are read")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except InvalidJson:
        raise
    except RecursionError:
        raise InvalidJson(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:  # syntax, encoding, too many digits
        raise InvalidJson(f"not JSON: {str(error)[:80]}") from None
    _check_depth(value)
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise InvalidJson("a key appears twice")
    return value


def _refuse_constant(name: str) -> Any:
    raise InvalidJson(f"{name} is not JSON")


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise InvalidJson(f"nested deeper than {MAX_DEPTH}")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
