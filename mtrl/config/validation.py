"""Checks of settings: one check for YAML, flags and presets, and one line when it fails.

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

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError, with_config
from pydantic_core import to_jsonable_python
from typing_extensions import TypedDict

from mtrl.errors import BadInput
from mtrl.registry import listed, nearest

T = TypeVar("T")

SYNONYMS = {
    "lr": "learning_rate",
    "gamma": "discount",
    "tau": "target_rate",
    "bs": "batch_size",
    "steps": "total_env_steps",
    "timesteps": "total_env_steps",
    "total_timesteps": "total_env_steps",
    "env": "suite",
    "algo": "agent",
    "network": "architecture",
    "workers": "num_workers",
    "output": "run_dir",
    "logdir": "run_dir",
    "out": "run_dir",
    "n_envs": "num_envs",
    "num_environments": "num_envs",
    "env_id": "suite",
    "task": "suite",
    "tasks": "suite",
    "benchmark": "suite",
    "algorithm": "agent",
    "arch": "architecture",
    "policy_lr": "learning_rate",
    "n_steps": "rollout_steps",
    "n_epochs": "epochs",
    "ent_coef": "entropy_coefficient",
    "vf_coef": "value_coefficient",
    "lam": "gae_lambda",
    "lambda": "gae_lambda",
    "cliprange": "clip_range",
    "buffer": "buffer_size",
    "replay_size": "buffer_size",
    "warmup_steps": "learning_starts",
    "hidden_size": "width",
    "hidden_sizes": "width",
    "layers": "depth",
    "num_layers": "depth",
    "n_eval_episodes": "eval_episodes_per_task",
    "eval_freq": "eval_interval",
    "save_freq": "checkpoint_interval",
    "gpu": "device",
    "cuda": "device",
}
"""Other common names of settings, for hints."""

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
_LENGTHS = {"min_length": "at least {} long", "max_length": "at most {} long"}
_NAMES = {bool: "true or false", int: "an integer", float: "a finite number", str: "text", types.NoneType: "null"}


def validated(cls: type[T], values: Mapping[str, Any], path: str) -> T:
    """An instance of the dataclass `cls` with `values` over its defaults.

    `path` is the prefix of the keys in errors ("agent." or nothing). Raises BadInput.
    """
    try:
        return cls(**validated_values(cls, values, path))
    except (TypeError, ValueError) as error:  # of a __post_init__, or a field without a default
        raise BadInput(f"{path.rstrip('.') or 'settings'}: {error}") from error


def validated_values(cls: Any, values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """`values` as the types of the fields of the dataclass `cls` that they name. Raises BadInput."""
    refuse_unknown(values, field_types(cls), path)
    try:
        return _adapter(cls).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:  # text that is no Unicode
            raise BadInput(f"{path.rstrip('.') or 'settings'}: {first['msg']}") from error
        name = str(first["loc"][0])
        value, annotation = values[name], field_types(cls)[name]
        allowed = describe(annotation) or first["msg"]
        known = [choice for choice in typing.get_args(annotation) if isinstance(choice, str)]
        hint = nearest(value, known) if isinstance(value, str) else ""
        raise BadInput(f"{path}{name}: {shown(value)} is not allowed; must be {allowed}{hint}") from error


def refuse_unknown(values: Iterable[str], known: Iterable[str], path: str) -> None:
    """Raises BadInput for the first key of `values` that is not in `known`."""
    known = list(known)
    for key in values:
        if key not in known:
            hint = nearest(SYNONYMS.get(key, key), known)
            raise BadInput(f"unknown key {shown(path + key)}{hint}; {listed(known)}")


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
def _adapter(cls: Any) -> TypeAdapter[dict[str, Any]]:
    """A check of the fields of a dataclass that leaves the dataclass as it is."""
    try:
        return TypeAdapter(with_config(_STRICT)(TypedDict(cls.__name__, field_types(cls), total=False)))  # type: ignore
    except PydanticUserError as error:
        raise BadInput(f"{cls.__module__}.{cls.__qualname__}: a field cannot be a setting: {error.message}") from error


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
    if origin in (list, tuple, dict) and arguments:
        items = describe(arguments[1] if origin is dict else arguments[0])
        return items and f"{'a mapping from names' if origin is dict else 'a list'}, each {items}"
    return _NAMES.get(annotation, "")


def _bounds(metadata: Iterable[Any]) -> list[str]:
    """The ranges in an annotation, from pydantic's `Field` or the classes of annotated_types."""
    found = []
    for item in metadata:
        for single in getattr(item, "metadata", None) or [item]:
            found += [f"{words} {getattr(single, name)}" for name, words in _BOUNDS.items() if hasattr(single, name)]
            found += [words.format(getattr(single, name)) for name, words in _LENGTHS.items() if hasattr(single, name)]
    return found
