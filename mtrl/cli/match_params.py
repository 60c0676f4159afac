"""A fair baseline: the plain MLP, as wide as gives the agent the parameters it has with another architecture."""

from __future__ import annotations

import dataclasses

import torch

from mtrl.config.schema import Choice, RunConfig
from mtrl.env.suite import Suite
from mtrl.errors import BadInput
from mtrl.networks.size import num_parameters
from mtrl.training.build import build_agent, build_suite

MATCHED = "mlp"
MAX_WIDTH = 2**16


def with_parameters_of(config: RunConfig, target: RunConfig) -> RunConfig:
    """`config`, whose architecture is `mlp`, with the width that brings its agent nearest to the size of `target`'s.

    What counts is everything the agent trains, actor and critics. Raises BadInput.
    """
    if config.architecture.name != MATCHED:
        raise BadInput(
            f"match_params: architecture {config.architecture.name!r} has no common measure of size; "
            f"it is {MATCHED!r} that can be widened, with --architecture {MATCHED}"
        )
    suite = build_suite(config.suite, config.settings.seed)
    wanted = _size(target, suite)
    high = 1
    while _size(_of_width(config, high), suite) < wanted:
        high *= 2
        if high > MAX_WIDTH:
            raise BadInput(
                f"match_params: an {MATCHED} as large as {target.architecture.name!r} would be wider than {MAX_WIDTH}"
            )
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _size(_of_width(config, middle), suite) < wanted else (low, middle)
    nearest = min((max(low, 1), high), key=lambda width: abs(_size(_of_width(config, width), suite) - wanted))
    return _of_width(config, nearest)


def _of_width(config: RunConfig, width: int) -> RunConfig:
    settings = dataclasses.replace(config.architecture.config, width=width)
    return dataclasses.replace(config, architecture=Choice(MATCHED, settings))


def _size(config: RunConfig, suite: Suite) -> int:
    return num_parameters(build_agent(config, suite, torch.device("cpu")))
