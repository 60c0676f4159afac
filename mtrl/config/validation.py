"""Values into a dataclass of settings: one check for YAML, flags and presets, and one line when it fails.

Types are strict (no `"3"` for 3, no 1 for true), ranges come from the annotations, numbers must be finite, unknown
keys are refused with the nearest known one.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from mtrl.errors import BadInput
from mtrl.registry import nearest

T = TypeVar("T")

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
_LENGTHS = {"min_length": "at least {} long", "max_length": "at most {} long"}


def validated(cls: type[T], values: Mapping[str, Any], path: str) -> T:
    """An instance of the dataclass `cls` with `values` over its defaults.

    `path` is the prefix of the keys in errors ("agent." or nothing). Raises BadInput.
    """
    refuse_unknown(values, field_types(typing.cast(Any, cls)), path)
    checked = {name: validated_value(cls, name, value, path) for name, value in values.items()}
    try:
        return cls(**checked)
    except (TypeError, ValueError) as error:  # of a __post_init__, or a field without a default
        raise BadInput(f"{path.rstrip('.') or 'settings'}: {error}") from error


def validated_value(cls: Any, name: str, value: Any, path: str) -> Any:
    """`value` as the type of the field `name` of `cls`. Raises BadInput."""
    annotation = field_types(cls)[name]
    key = path + name
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        if not isinstance(value, Mapping):
            raise BadInput(f"{key}: {shown(value)} is not allowed; must be a mapping")
        return validated(annotation, value, f"{key}.")
    try:
        return _adapter(cls, name).validate_json(json.dumps(value))
    except ValidationError as error:
        allowed = describe(annotation) or error.errors(include_url=False)[0]["msg"]
        raise BadInput(
            f"{key}: {shown(value)} is not allowed; must be {allowed}{_nearest_choice(value, annotation)}"
        ) from (error)


def refuse_unknown(values: Iterable[str], known: Iterable[str], path: str) -> None:
    """Raises BadInput for the first key of `values` that is not in `known`."""
    known = list(known)
    for key in values:
        if key not in known:
            raise BadInput(f"unknown key {shown(path + key)}{nearest(key, known)}; known: {', '.join(known) or 'none'}")


def plain(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass of settings as JSON values, in order."""
    return {field.name: to_jsonable_python(getattr(instance, field.name)) for field in dataclasses.fields(instance)}


@functools.cache
def field_types(cls: Any) -> dict[str, Any]:
    """Annotation of every field of a dataclass, `Annotated` kept. Raises BadInput if one names what is not there."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError) as error:
        raise BadInput(
            f"{cls.__module__}.{cls.__qualname__}: a type of its fields cannot be resolved: {error}"
        ) from error
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


@functools.cache
def _adapter(cls: Any, name: str) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(field_types(cls)[name], config=_STRICT)
    except PydanticUserError as error:
        raise BadInput(f"{cls.__module__}.{cls.__qualname__}: the type of {name!r} cannot be a setting") from error


def shown(value: Any) -> str:
    """A value for an error message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def describe(annotation: Any) -> str:
    """What values a type allows, in words; empty for types without a short description."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        base = describe(arguments[0])
        return f"{base} {' and '.join(_bounds(arguments[1:]))}".strip() if base else ""
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        members = [describe(argument) for argument in arguments]
        return " or ".join(members) if all(members) else ""
    if origin in (list, tuple) and arguments:
        items = {describe(argument) for argument in arguments if argument is not Ellipsis}
        return f"a list, each {items.pop()}" if len(items) == 1 and all(items) else ""
    if origin is dict:
        values = describe(arguments[1])
        return f"a mapping from names, each {values}" if values else ""
    names = {bool: "true or false", int: "an integer", float: "a finite number", str: "text", types.NoneType: "null"}
    return names.get(annotation, "")


def _bounds(metadata: Iterable[Any]) -> list[str]:
    """The ranges in an annotation, from pydantic's `Field` or the classes of annotated_types."""
    found = []
    for item in metadata:
        for single in getattr(item, "metadata", None) or [item]:
            found += [f"{words} {getattr(single, name)}" for name, words in _BOUNDS.items() if hasattr(single, name)]
            found += [words.format(getattr(single, name)) for name, words in _LENGTHS.items() if hasattr(single, name)]
    return found


def _nearest_choice(value: Any, annotation: Any) -> str:
    choices = [choice for choice in typing.get_args(annotation) if isinstance(choice, str)]
    return nearest(value, choices) if isinstance(value, str) and typing.get_origin(annotation) is Literal else ""
