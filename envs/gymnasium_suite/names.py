"""The tasks that a suite name stands for: `gym:CartPole-v1,Acrobot-v1`, or `gym:a=Pendulum-v1,b=Pendulum-v1`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import gymnasium as gym
from gymnasium.error import Error as GymnasiumError

from mtrl.errors import BadInput
from mtrl.registry import nearest

PREFIX = "gym:"

KNOWN_PACKAGES: Mapping[str, str] = {
    "MiniGrid-": "minigrid",
    "BabyAI-": "minigrid",
    "dm_control/": "shimmy",
    "Fetch": "gymnasium-robotics",
    "HandManipulate": "gymnasium-robotics",
    "HandReach": "gymnasium-robotics",
    "AntMaze_": "gymnasium-robotics",
    "PointMaze_": "gymnasium-robotics",
    "Adroit": "gymnasium-robotics",
    "FrankaKitchen-": "gymnasium-robotics",
    "Vizdoom": "vizdoom",
}
"""Packages that register environments when they are imported, by the start of the environments' names."""


def parse(name: str) -> dict[str, str]:
    """Environments (Gymnasium ids) by task, in order. Raises BadInput."""
    tasks: dict[str, str] = {}
    for entry in name.removeprefix(PREFIX).split(","):
        task, equals, environment = (part.strip() for part in entry.partition("="))
        environment = environment if equals else task
        if not task or not environment:
            raise BadInput(f"suite {name!r}: a task has no name; write gym:CartPole-v1,Acrobot-v1")
        if ":" in environment:
            module, _, rest = environment.partition(":")
            raise BadInput(f"suite {name!r}: write the environment as {rest!r}, and add --suite.import {module}")
        if task in tasks:
            raise BadInput(f"suite {name!r} names task {task!r} twice; {task}-a={environment} gives it another name")
        tasks[task] = environment
    return tasks


def suggested_name(name: str) -> str | None:
    """The suite that is meant by `CartPole-v1` or `CartPole-v1,Acrobot-v1`."""
    known = all(entry in gym.registry or entry.startswith(tuple(KNOWN_PACKAGES)) for entry in name.split(","))
    return f"{PREFIX}{name}" if known else None


def register_known(environment: str) -> None:
    """Imports the package that is known to register an environment. Raises BadInput if it is not installed."""
    if environment in gym.registry:
        return
    package = next((package for start, package in KNOWN_PACKAGES.items() if environment.startswith(start)), None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of machines without a display, and of old versions of environments
            if package == "minigrid":
                import minigrid  # noqa: F401
            elif package == "shimmy":
                import shimmy  # noqa: F401
            elif package == "vizdoom":
                import vizdoom.gymnasium_wrapper  # noqa: F401
            elif package == "gymnasium-robotics":
                import gymnasium_robotics

                gym.register_envs(gymnasium_robotics)
    except ImportError as error:
        extra = "dm-control" if package == "shimmy" else package
        raise BadInput(
            f"environment {environment!r} needs the package {package} ({error}): pip install 'mtrl-suite[{extra}]'"
        ) from error


def check_registered(environment: str) -> None:
    """Raises BadInput for an environment that no module imported so far has registered."""
    register_known(environment)
    try:
        gym.spec(environment)
    except GymnasiumError as error:
        game = environment.startswith("ALE/")
        hint = f" (did you mean the suite atari:{environment}?)" if game else nearest(environment, gym.registry)
        raise BadInput(
            f"environment {environment!r} is not registered{hint}: {str(error).rstrip('.')}; "
            "--suite.import MODULE imports what registers it"
        ) from error
