"""Contracts of the plug-ins that a configuration names as `module:Class`, checked before training."""

from __future__ import annotations

from mtrl.config.schema import RunConfig
from mtrl.faults import PluginFault


def check_chosen_plugins(config: RunConfig) -> None:
    """Raises PluginFault where a class breaks its contract in `mtrl.testing`, with the settings of the run.

    Agents are left out, whose check trains for minutes, and suites, whose environments are checked at every step.
    """
    from mtrl import testing  # it holds small training runs, and so imports what imports this

    checks = {
        "architecture": testing.check_architecture,
        "aggregator": testing.check_aggregator,
        "scheduler": testing.check_scheduler,
    }
    for group, choice in config.choices():
        if ":" not in choice.name or group.name not in checks:
            continue
        try:
            checks[group.name](group.find(choice.name), choice.config)
        except AssertionError as error:
            raise PluginFault(
                f"{group.name} {choice.name!r} breaks its contract: {error}; --no-check-plugins trains with it as it is"
            ) from error
