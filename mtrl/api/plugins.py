"""Import of plug-ins for a command, the start of what takes long, and the check of contracts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mtrl.config.schema import REGISTRY_GROUPS, RunConfig
from mtrl.env.suite import suites
from mtrl.faults import PluginFault
from mtrl.registry import plugins_one_by_one, trust_module


def import_plugins(
    modules: Sequence[str], names: Mapping[str, str] | None = None, warm_up: str | None = None
) -> list[str]:
    """Imports installed plug-ins, `modules`, and the modules of `names` (by config group) written as `module:Class`.

    Returns what the command line named. The suite called `warm_up` is told to start what takes long as soon as it is
    known, which is before anything imports torch. Raises BadInput.
    """
    for _ in plugins_one_by_one():
        _warm_up(warm_up)
    named = list(dict.fromkeys(modules))
    for module in named:
        trust_module(module)
    trust_modules_of((names or {}).items(), named)
    _warm_up(warm_up)
    return named


def trust_modules_of(names: Iterable[tuple[str, str]], named: list[str]) -> None:
    """Imports the modules of names, each behind its config group, that are `module:Class`; adds them to `named`.

    Raises BadInput.
    """
    for group, name in names:
        module, colon, _ = name.partition(":")
        if colon and module not in named and not _is_registered(group, name):
            trust_module(module)
            named.append(module)


def check_chosen_plugins(config: RunConfig) -> None:
    """Checks the contracts of classes given as `module:Class` in `mtrl.testing`. Raises PluginFault.

    Agents are left out, whose check trains for minutes, and suites, whose environments are checked at every step.
    """
    chosen = [(group, choice) for _, group, choice in config.keyed_choices() if ":" in choice.name]
    if {group.name for group, _ in chosen}.isdisjoint(("architecture", "aggregator", "scheduler", "auxiliary")):
        return

    from mtrl import testing

    checks: dict[str, Callable[[Any, Any], None]] = {
        "architecture": testing.check_architecture,
        "aggregator": testing.check_aggregator,
        "scheduler": testing.check_scheduler,
        "auxiliary": testing.check_auxiliary,
    }
    for group, choice in chosen:
        if group.name in checks:
            try:
                checks[group.name](group.find(choice.name), choice.config)
            except AssertionError as error:
                hint = "--no-check-plugins trains with it as it is"
                raise PluginFault(f"{group.name} {choice.name!r}: {error}; {hint}") from error


def _warm_up(suite: str | None) -> None:
    for cls in suites.classes():
        if suite is not None and cls.accepts(suite):
            cls.warm_up()


def _is_registered(group: str, name: str) -> bool:
    """Whether a name with a colon is a registered one, such as the suite `metaworld:reach-v3`."""
    if group == "suite":
        return name.partition(":")[0] in suites or any(cls.accepts(name) for cls in suites.classes())
    return any(name in known.registry for known in REGISTRY_GROUPS if known.name == group)
