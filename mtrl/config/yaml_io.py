"""YAML 1.2 settings: text, numbers, booleans, null, lists and mappings with text keys.

Tags, anchors, aliases, directives, merge keys, duplicate keys, several documents and deep nesting are refused. Dates
are text. A whole number with an exponent, such as `2.5e6`, is an integer.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, ScalarNode
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import SafeRepresenter

from mtrl.errors import BadInput

MAX_BYTES = 128 * 1024
MAX_DEPTH = 12
_TAG = "tag:yaml.org,2002:"
_PLAIN_WORD = re.compile(r"[\w.+~-]+")


def read_text(path: Path) -> str:
    """The text of a small regular file. Raises BadInput if there is none such."""
    try:
        # Without O_NONBLOCK a named pipe would block for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadInput(f"{path}: not a regular file")
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise BadInput(f"{path}: larger than {MAX_BYTES // 1024} KiB")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text (byte {error.start})") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def load_mapping(text: str, source: str) -> dict[str, Any]:
    """The mapping that `text` holds; `source` names it in errors. Raises BadInput."""
    try:
        _refuse_features(text)
        document = _yaml().load(text)
    except (YAMLError, ValueError) as error:  # ValueError: an integer of thousands of digits
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise BadInput(f"{source}:{where} not valid YAML for settings: {problem}") from error
    if not isinstance(document, dict | None):
        kind = type(document).__name__
        raise BadInput(f"{source}: a mapping of settings is expected, such as 'suite: mt10', not {kind}")
    return document or {}


def dump_mapping(document: dict[str, Any]) -> str:
    """Readable YAML that `load_mapping` reads back equal: lists on one line, mappings as blocks, keys in order."""
    stream = io.StringIO()
    _yaml().dump(document, stream)
    return stream.getvalue()


def scalar(word: str) -> Any:
    """The number, boolean or null that a plain scalar of YAML stands for, or else `word`."""
    try:
        return _yaml().load(word) if _PLAIN_WORD.fullmatch(word) and word not in ("---", "...") else word
    except (YAMLError, ValueError):
        return word


def _yaml() -> YAML:
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Constructor, yaml.Representer = _Constructor, _Representer
    yaml.default_flow_style, yaml.allow_unicode, yaml.width = False, True, 120
    yaml.sort_base_mapping_type_on_output = False
    return yaml


def _refuse_features(text: str) -> None:
    """Raises YAMLError for what settings do not need."""
    depth = documents = 0
    for event in _yaml().parse(text):
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        documents += kind == "DocumentStartEvent"
        refused = {
            "anchors and aliases are not allowed": getattr(event, "anchor", None),
            "tags are not allowed": getattr(event, "tag", None),
            "directives are not allowed": getattr(event, "version", None) or getattr(event, "tags", None),
            "a second document is not allowed": documents > 1,
            f"nested more than {MAX_DEPTH} deep": depth > MAX_DEPTH + 2,  # the stream and the document count too
        }
        for problem in (problem for problem, found in refused.items() if found):
            raise ConstructorError(problem=problem, problem_mark=event.start_mark)


class _Constructor(SafeConstructor):
    def construct_number(self, node: ScalarNode) -> int | float:
        value: float = self.construct_yaml_float(node)
        return int(value) if "e" in node.value.lower() and value.is_integer() else value

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise ConstructorError(problem="a key must be plain text", problem_mark=key.start_mark)
            key.tag = f"{_TAG}str"  # a task may be called 1 or null
        return super().construct_mapping(node, deep)


class _Representer(SafeRepresenter):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Constructor.add_constructor(f"{_TAG}float", _Constructor.construct_number)
_Constructor.add_constructor(f"{_TAG}timestamp", SafeConstructor.construct_yaml_str)
_Representer.add_representer(list, lambda self, items: self.represent_sequence(f"{_TAG}seq", items, flow_style=True))
_Representer.add_representer(
    # The writer's own choice of quotes loses line breaks other than a newline, and `?` in a list.
    str,
    lambda self, text: self.represent_scalar(f"{_TAG}str", text, style=None if _PLAIN_WORD.fullmatch(text) else '"'),
)


def flattened(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings, each with its dotted key: `agent.batch_size`."""
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
