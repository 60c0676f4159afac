"""Configurations from keyword arguments: the keys of YAML, with classes in place of names where the caller has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.api.plugins import import_plugins, trust_modules_of
from mtrl.config.schema import (
    REGISTRY_GROUPS,
    ConfigGroup,
    RunConfig,
    RunSettings,
    config_class,
    named_modules,
    resolve_config,
)
from mtrl.config.yaml_io import load_mapping, read_text
from mtrl.registry import trust_class, trust_module

Choosable = str | type | Mapping[str, Any]
"""A class by its registered name or `MODULE:Class`, the class itself, or a mapping of settings, `name` among them."""

GROUPS = {group.name: group for group in REGISTRY_GROUPS}

Plugins = Sequence[str | type]
"""Modules to import, as with `--plugin`, or classes of the caller's own."""


def configuration(
    settings: Mapping[str, Any], file: str | Path | Mapping[str, Any] | None = None, plugins: Plugins = ()
) -> RunConfig:
    """The configuration that keyword arguments describe; they override those of a file. Raises BadInput.

    Code that the keywords name, `architecture="film:FiLM"`, is imported as if it were typed as a flag; in a file it
    counts only beside `plugins`.
    """
    import_plugins([])
    modules = plugin_modules(plugins)
    document = load_mapping(read_text(Path(file)), str(file)) if isinstance(file, str | Path) else file or {}
    document, settings = (
        {key: named(GROUPS.get(key), value, modules) for key, value in layer.items()} for layer in (document, settings)
    )
    choices = {key: value for key, value in settings.items() if key in GROUPS or key == "preset"}
    trust_modules_of(_names(choices), modules)
    names = {
        key: value if isinstance(value, str) else {"name": value["name"]}
        for key, value in choices.items()
        if isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("name"), str))
    }
    base = resolve_config(document, names, plugins=modules)
    given = [(config_class(group, choice.name), settings.get(group.name)) for group, choice in base.choices()]
    for cls, values in (*given, (RunSettings, settings)):
        for module in named_modules(cls, values if isinstance(values, dict) else {}):
            if module not in modules:
                trust_module(module)
                modules.append(module)
    return resolve_config(document, settings, plugins=list(dict.fromkeys(modules)))


def plugin_modules(plugins: Plugins) -> list[str]:
    """The modules of plug-ins, which are imported; those of classes count as named. Raises BadInput."""
    modules = []
    for plugin in [plugins] if isinstance(plugins, str | type) else plugins:
        if isinstance(plugin, type):
            modules.append(trust_class(plugin).partition(":")[0])
        else:
            trust_module(plugin)
            modules.append(plugin)
    return modules


def named(group: ConfigGroup | None, choice: Any, modules: list[str]) -> Any:
    """A value as YAML would hold it: the name in place of a class, whose module is added to `modules`."""
    if isinstance(choice, Mapping):
        return {key: named(group, value, modules) for key, value in choice.items()}
    if isinstance(choice, tuple | list):
        return [named(group, value, modules) for value in choice]
    if isinstance(choice, np.generic):
        return choice.item()
    if isinstance(choice, Path):
        return str(choice)
    if not isinstance(choice, type):
        return choice
    if group is not None and ":" not in (name := group.registry.name_of(choice)):
        return name
    name = trust_class(choice)
    modules.append(name.partition(":")[0])
    return name


def _names(choices: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The names in choices, each behind its group; of groups within a group too."""
    for key, choice in choices.items():
        items = choice if isinstance(choice, list) else [choice]
        for item in items:
            own = item.get("name") if isinstance(item, dict) else item
            yield from ((key, name) for name in (own if isinstance(own, list) else [own]) if isinstance(name, str))
            if key == "aggregator" and isinstance(item, dict):
                yield from _names({key: [value for value in item.values() if isinstance(value, dict)]})


def default_run_dir(config: RunConfig, with_seed: bool = True) -> Path:
    """`runs/SUITE-AGENT-ARCHITECTURE-seedN`, with nothing in it that a file system or shell trips over."""
    names = (config.suite.name, config.agent.name, config.architecture.name)
    name = "-".join(["".join(c if c.isalnum() or c in "-." else "-" for c in name)[:60] for name in names])
    return Path("runs") / (f"{name}-seed{config.settings.seed}" if with_seed else name)
