"""YAML without its dangers: the reader builds text, numbers, booleans, null, lists and mappings, and nothing else.

Tags, anchors, aliases, merge keys, duplicate keys and several documents in one file are refused, size and nesting are
bounded. Scalars follow YAML 1.2: `1e-3` is a number, `on`, `no` and `2026-01-01` are text, a key is always text.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mtrl.errors import BadInput

MAX_BYTES = 128 * 1024
MAX_DEPTH = 12

_INTEGER = re.compile(r"[-+]?[0-9][0-9_]{0,400}")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False, ".nan": float("nan")}
_WORDS |= {sign + ".inf": float(sign + "inf") for sign in ("", "+", "-")}


def read_text(path: Path) -> str:
    """The text of a small regular file. Raises BadInput if there is none such."""
    try:
        # Without O_NONBLOCK a named pipe would block for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadInput(f"{path}: not a regular file")
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"{path}: cannot be read: {reason}") from error
    if len(content) > MAX_BYTES:
        raise BadInput(f"{path}: larger than {MAX_BYTES // 1024} KiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text (byte {error.start})") from error


def load_mapping(text: str, source: str) -> dict[str, Any]:
    """The mapping that `text` holds; `source` names it in errors. Raises BadInput."""
    try:
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        document = _Reader(events, source).document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        raise BadInput(f"{source}:{where} not valid YAML: {problem}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise BadInput(
            f"{source}: a mapping of settings is expected, such as 'suite: mt10', not {type(document).__name__}"
        )
    return document


def dump_mapping(document: dict[str, Any]) -> str:
    """Readable YAML that `load_mapping` reads back equal: lists on one line, mappings as blocks, keys in order."""
    return yaml.dump(document, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=120)


def scalar(text: str) -> Any:
    """What an unquoted scalar stands for."""
    word = text if text != text.title() and text != text.upper() else text.lower()
    if word in _WORDS:
        return _WORDS[word]
    if _INTEGER.fullmatch(text):
        return int(text.replace("_", ""))
    return float(text.replace("_", "")) if _NUMBER.fullmatch(text) else text


class _Reader:
    """Builds the document from parser events, so that nothing has to be switched off."""

    def __init__(self, events: Iterator[yaml.Event], source: str):
        self._events = events
        self._source = source

    def document(self) -> Any:
        documents: list[Any] = []
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if documents:
                    raise self._refuse(event, "a second document is not allowed")
                documents.append(self._value(next(self._events), depth=0))
        return documents[0] if documents else None

    def _value(self, event: yaml.Event, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self._refuse(event, "anchors and aliases are not allowed")
        if (tag := getattr(event, "tag", None)) is not None:
            raise self._refuse(event, f"the tag {tag!r} is not allowed")
        if depth > MAX_DEPTH:
            raise self._refuse(event, f"nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.ScalarEvent):
            return scalar(event.value) if event.implicit[0] else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return [self._value(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
        mapping: dict[str, Any] = {}
        for key in self._until(yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise self._refuse(key, "a key must be plain text")
            self._value(key, depth + 1)
            if key.value in mapping:
                raise self._refuse(key, f"the key {key.value!r} appears twice")
            mapping[key.value] = self._value(next(self._events), depth + 1)
        return mapping

    def _until(self, end: type[yaml.Event]) -> Iterator[yaml.Event]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _refuse(self, event: yaml.Event, problem: str) -> BadInput:
        line = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
        return BadInput(f"{self._source}: {line}{problem}")


class _Writer(yaml.SafeDumper):
    """Writes what the reader above reads."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(writer: _Writer, text: str) -> yaml.ScalarNode:
    # The writer quotes what YAML 1.1 would misread; the reader's rules are those of 1.2.
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=None if scalar(text) == text else '"')


def _represent_list(writer: _Writer, items: list[Any]) -> yaml.SequenceNode:
    return writer.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)


_Writer.add_representer(str, _represent_text)
_Writer.add_representer(list, _represent_list)
