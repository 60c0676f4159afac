"""A sweep as a YAML file says it: flags of `mtrl train`, the grid over some of them, and the seeds.

    folder: runs/widths             # of the runs; by default runs/ and the name of the file
    flags: {suite: mt10, total-env-steps: 2_000_000}    # of every run
    grid:                           # every combination
      architecture: [mlp, multi-head]
      agent.learning-rate: [3e-4, 1e-3]
    seeds: [1, 2, 3]

A value of a class may be a mapping, `architecture: [{name: mlp, width: 800}, film]`, for settings that go together.
`search` has the ranges of a search, see mtrl/launch/search.py.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

from pydantic import Field, NonNegativeFloat, PositiveFloat

from mtrl.config.schema import (
    AUXILIARY,
    GROUP_BY_NAME,
    ConfigGroup,
    RunConfig,
    RunSettings,
    changed,
    config_class,
    dump_yaml,
    resolve_config,
)
from mtrl.config.validation import field_types, plain, shown, validated
from mtrl.config.yaml_io import flattened, load_mapping, read_text
from mtrl.errors import BadInput

MAX_RUNS = 10_000

_OF_THE_SWEEP = {
    "seed": "'seeds' of the file has them",
    "seeds": "'seeds' of the file has them",
    "run_dir": "'folder' of the file has the runs",
    "jobs": "it is a flag of mtrl sweep",
    "resume": "a sweep that is repeated continues its runs",
    "overwrite": "a sweep that is repeated continues its runs",
    "plugin": "a file runs no code; it is a flag of mtrl sweep",
    "plugins": "a file runs no code; mtrl sweep --plugin MODULE",
    "match_params": "give the width that --match-params --print-config prints",
}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one run takes; None: what its configuration lets expect."""

    cpus: PositiveFloat | None = None  # cores
    gpus: NonNegativeFloat | None = None  # may be a fraction on Ray and on this machine
    memory_gib: PositiveFloat | None = None


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """The keys of the file."""

    folder: str | None = None
    flags: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    seeds: Annotated[list[int], Field(min_length=1)] = field(default_factory=lambda: [1])
    search: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)
    slurm: dict[str, Any] = field(default_factory=dict)  # parameters of submitit


class PlannedRun(NamedTuple):
    """One run of a sweep."""

    name: str  # its path in the folder
    run_dir: Path
    config: RunConfig
    flags: list[str]  # of `mtrl train`, but for the run directory
    given: Collection[str]  # the groups and settings that the file, or the one it names as `config`, sets

    @property
    def arguments(self) -> list[str]:
        """What follows `mtrl` to begin the run."""
        return ["train", *self.flags, f"--run-dir={self.run_dir}"]

    def settings_flags(self, names: Sequence[str]) -> list[str]:
        """Those of these settings that the file sets, as flags."""
        settings, types = self.config.settings, field_types(RunSettings)
        given = [name for name in names if name in self.given]
        return [flag for name in given for flag in _setting_flags(f"--{name}", getattr(settings, name), types[name])]


class Sweep:
    """A file and the runs it describes."""

    def __init__(self, path: Path, plugins: Sequence[str] = ()):
        """plugins: modules that the command line names. Raises BadInput."""
        self.path, self.plugins = path, list(plugins)
        document = {name.replace("-", "_"): value for name, value in load_mapping(read_text(path), str(path)).items()}
        document = {name: {} if value is None else value for name, value in document.items()}
        try:
            self.settings = validated(SweepSettings, document, "")
            self.resources = validated(Resources, self.settings.resources, "resources.")
            self._check()
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from error
        self.folder = Path(self.settings.folder or Path("runs") / path.stem)

    def runs(self) -> list[PlannedRun]:
        """Every combination of the grid with every seed. Raises BadInput."""
        grid = self.settings.grid
        labels = [_labels(_short(key, grid), values) for key, values in grid.items()]
        runs: list[PlannedRun] = []
        for cell in itertools.product(*(range(len(values)) for values in grid.values())):
            values = {key: grid[key][position] for key, position in zip(grid, cell, strict=True)}
            name = "_".join(own[position] for own, position in zip(labels, cell, strict=True))
            if len(name) > 150:
                name = f"{name[:140]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
            runs += self.of_values(name, values)
        seen: dict[str, str] = {}
        for run in runs:
            other = seen.setdefault(dump_yaml(run.config), run.name)
            if other != run.name:
                raise BadInput(f"{self.path}: grid: {other!r} and {run.name!r} are the same run")
        return runs

    def of_values(self, name: str, values: Mapping[str, Any]) -> list[PlannedRun]:
        """The runs with all seeds where the flags have these values beside the common ones. Raises BadInput."""
        try:
            document: dict[str, Any] = {}
            for key, value in {**self.settings.flags, **values}.items():
                _put(document, key, value)
            base = document.pop("config", None)
            layers = [] if base is None else [load_mapping(read_text(Path(str(base))), str(base))]
            config = resolve_config(*layers, document, plugins=self.plugins)
            flags = [] if base is None else [f"--config={Path(str(base)).absolute()}"]
            flags += [*_flags(config, document), *(f"--plugin={module}" for module in config.plugins)]
            given = {*document}.union(*layers)
            return [
                self._run(name, seed, flags, changed(config, {"seed": seed}), given) for seed in self.settings.seeds
            ]
        except BadInput as error:
            raise BadInput(f"{self.path}: {f'{name}: ' if name else ''}{error}") from error

    def _run(self, name: str, seed: int, flags: list[str], config: RunConfig, given: Collection[str]) -> PlannedRun:
        path = f"{name}/seed-{seed}" if name else f"seed-{seed}"
        return PlannedRun(path, self.folder / path, config, [*flags, f"--seed={seed}"], given)

    def _check(self) -> None:
        settings = self.settings
        if len(set(settings.seeds)) < len(settings.seeds):
            raise BadInput(f"seeds: {shown(settings.seeds)} is not allowed; a seed stands there twice")
        for group in ("flags", "grid", "search"):
            for key in getattr(settings, group):
                if (reason := _OF_THE_SWEEP.get(_normal(key))) is not None:
                    raise BadInput(f"{group}: {shown(key)} cannot be set here: {reason}")
        for key, values in settings.grid.items():
            if not values:
                raise BadInput(f"grid: {shown(key)} has an empty list; every flag needs a value")
            texts = [json.dumps(value, sort_keys=True) for value in values]
            twice = next((value for value, text in zip(values, texts, strict=True) if texts.count(text) > 1), None)
            if len(set(texts)) < len(texts):
                raise BadInput(f"grid: {shown(key)} has {shown(twice)} twice")
        keys = [_normal(key) for group in (settings.flags, settings.grid, settings.search) for key in group]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise BadInput(f"{shown(twice)} is given twice in flags, grid and search")
        count = math.prod(map(len, settings.grid.values())) * len(settings.seeds)
        if count > MAX_RUNS:
            raise BadInput(f"these are {count:,} runs; at most {MAX_RUNS:,} are allowed")


def _normal(key: str) -> str:
    return key.replace("-", "_")


def _short(key: str, keys: Mapping[str, Any]) -> str:
    """The last part of a flag's name where that is enough to tell it from the others."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def _labels(key: str, values: Sequence[Any]) -> list[str]:
    """Names of the values that a file system takes, all different."""
    labels = []
    for value in values:
        if key in GROUP_BY_NAME:
            parts = {"name": value} if not isinstance(value, Mapping) else dict(value)
            name = [str(parts.pop("name"))] if "name" in parts else [key]
            text = "-".join([*name, *(f"{_normal(part)}-{own}" for part, own in parts.items())])
        else:
            words = "-".join(map(str, value)) if isinstance(value, list) else value
            text = Path(str(value)).stem if key == "config" else f"{key}-{words}"
        labels.append("".join(c if c.isascii() and (c.isalnum() or c in "-.+") else "-" for c in text)[:60])
    # What was cut or replaced may have told two of them apart.
    labels = [f"{label}-{place}" if labels.count(label) > 1 else label for place, label in enumerate(labels, 1)]
    return [label if label.strip(".") else f"value-{place}" for place, label in enumerate(labels, 1)]


def _put(document: dict[str, Any], key: str, value: Any) -> None:
    """Sets `agent.batch-size` in a nested document. The name of a class stands beside its settings. Raises BadInput."""
    *inner, last = _normal(key).split(".")
    if inner[:1] == [AUXILIARY.name]:
        inner[1:2] = key.split(".")[1:-1]  # the name of a task
    for name in inner:
        child = document.setdefault(name, {})
        if isinstance(child, str | list):
            child = document[name] = {"name": child}
        if not isinstance(child, dict):
            raise BadInput(f"{shown(key)} cannot be set beside {name!r}, which is {shown(child)}")
        document = child
    there = document.get(last)
    if last not in document:
        document[last] = dict(value) if isinstance(value, Mapping) else value
        return
    own = {"name": value} if isinstance(value, str | list) else value
    if not isinstance(there, dict) or not isinstance(own, Mapping) or there.keys() & own.keys():
        raise BadInput(f"{shown(key)} is given twice")
    there.update(own)


def _flags(config: RunConfig, document: Mapping[str, Any]) -> list[str]:
    """A document of settings as flags of `mtrl train`."""
    words: list[str] = []
    for key, value in document.items():
        if key == AUXILIARY.name:
            words += [f"--{key}", *(choice.name for choice in config.auxiliary.values())]
            for name, choice in config.auxiliary.items():
                default = plain(type(choice.config)())
                changes = {part: own for part, own in plain(choice.config).items() if own != default[part]}
                words += _class_flags(f"{key}.{name}", AUXILIARY, choice.name, changes)
            continue
        if key not in GROUP_BY_NAME:
            words += _setting_flags(f"--{key}", value, field_types(RunSettings)[key])
            continue
        choices = {"aggregator": config.group_aggregators} if key == "aggregator" else {}
        parts = {"name": value} if isinstance(value, str) else dict(value)
        own = {name: parts.pop(name) for name in choices.get(key, {}) if name in parts}
        words += _class_flags(key, GROUP_BY_NAME[key], getattr(config, key).name, parts)
        for name, given in own.items():
            inner = {"name": given} if isinstance(given, str) else given
            words += _class_flags(f"{key}.{name}", GROUP_BY_NAME[key], config.group_aggregators[name].name, inner)
    return words


def _class_flags(prefix: str, group: ConfigGroup, name: str, values: Mapping[str, Any]) -> Iterator[str]:
    types = field_types(config_class(group, name))
    if "name" in values:
        yield f"--{prefix}={values['name']}"
    for key, value in values.items():
        if key != "name":
            yield from _setting_flags(f"--{prefix}.{key}", value, types[key])


def _setting_flags(flag: str, value: Any, annotation: Any) -> list[str]:
    if is_dataclass(annotation) and isinstance(value, Mapping):
        types = field_types(cast(type, annotation))
        return [word for name, own in value.items() for word in _setting_flags(f"{flag}.{name}", own, types[name])]
    flag = flag.replace("_", "-").rstrip("-")
    if annotation is bool:
        start, _, last = flag.rpartition(".")
        return [flag if value else f"{start}.no-{last}" if start else f"--no-{last[2:]}"]
    if isinstance(value, Mapping):
        nested = not value or any(isinstance(own, Mapping | list) for own in value.values())
        pairs = [str(word) for pair in value.items() for word in pair]
        return [f"{flag}={json.dumps(value)}"] if nested else [flag, *pairs]
    return [flag, *map(str, value)] if isinstance(value, list) else [f"{flag}={value}"]


def difference(planned: RunConfig, text: str, ignored: Sequence[str]) -> str | None:
    """The first setting in which the config.yaml of a run differs from what is planned, `agent.batch_size is 64, not
    32`; None if they agree. Raises BadInput for a file that cannot be read.
    """
    there = dict(flattened(load_mapping(text, "config.yaml")))
    wanted = dict(flattened(load_mapping(dump_yaml(planned), "")))
    for key in {**wanted, **there}:
        if key not in ignored and key != "plugins" and there.get(key) != wanted.get(key):
            return f"{key} is {shown(there.get(key))}, not {shown(wanted.get(key))}"
    return None
