"""Configurations from keyword arguments: the keys of YAML, with classes in place of names where the caller has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.api.plugins import import_plugins
from mtrl.config.schema import CONFIG_GROUPS, ConfigGroup, RunConfig, resolve_config
from mtrl.config.yaml_io import load_mapping, read_text
from mtrl.registry import trust_class, trust_module

Choosable = str | type | Mapping[str, Any]
"""A class by its registered name or `MODULE:Class`, the class itself, or a mapping of settings, `name` among them."""

Plugins = Sequence[str | type]
"""Modules to import, as with `--plugin`, or classes of the caller's own."""


def configuration(
    settings: Mapping[str, Any], file: str | Path | Mapping[str, Any] | None = None, plugins: Plugins = ()
) -> RunConfig:
    """The configuration that keyword arguments describe; they override those of a file. Raises BadInput."""
    import_plugins([])
    modules = named_modules(plugins)
    document = load_mapping(read_text(Path(file)), str(file)) if isinstance(file, str | Path) else file or {}
    layers = []
    for layer in (document, settings):
        layer = {key: _plain(value) for key, value in layer.items()}
        for group in CONFIG_GROUPS:
            if group.name in layer:
                layer[group.name] = _named(group, layer[group.name], modules)
        layers.append(layer)
    return resolve_config(*layers, plugins=list(dict.fromkeys(modules)))


def named_modules(plugins: Plugins) -> list[str]:
    """The modules of plug-ins, which are imported; those of classes count as named. Raises BadInput."""
    modules = []
    for plugin in [plugins] if isinstance(plugins, str | type) else plugins:
        if isinstance(plugin, type):
            modules.append(trust_class(plugin).partition(":")[0])
        else:
            trust_module(plugin)
            modules.append(plugin)
    return modules


def _named(group: ConfigGroup, choice: Any, modules: list[str]) -> Any:
    """A choice with the name in place of a class, whose module is added to `modules`."""
    if isinstance(choice, dict):
        return {key: _named(group, value, modules) if key == "name" else value for key, value in choice.items()}
    if not isinstance(choice, type):
        return choice
    if ":" not in (name := group.registry.name_of(choice)):
        return name
    name = trust_class(choice)
    modules.append(name.partition(":")[0])
    return name


def _plain(value: Any) -> Any:
    """A value as YAML would hold it."""
    if isinstance(value, Mapping):
        return {key: _plain(own) for key, own in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(own) for own in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def default_run_dir(config: RunConfig, with_seed: bool = True) -> Path:
    """`runs/SUITE-AGENT-ARCHITECTURE-seedN`, with nothing in it that a file system or shell trips over."""
    names = (config.suite.name, config.agent.name, config.architecture.name)
    name = "-".join(["".join(c if c.isalnum() or c in "-." else "-" for c in name)[:60] for name in names])
    return Path("runs") / (f"{name}-seed{config.settings.seed}" if with_seed else name)
