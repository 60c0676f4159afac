"""Scenarios of ViZDoom as one suite, such as `vizdoom:basic,health-gathering` (Kempka et al., 2016, arXiv:1605.02097).

They are the Gymnasium environments of the package `vizdoom` with the screen as the only observation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from envs.gymnasium_suite.suite import GymnasiumSuite
from envs.vizdoom.presets import fast
from envs.vizdoom.recipe import ScreenRecipe
from envs.vizdoom.scenarios import FRAMES, PREFIX, SCENARIOS, SIZE, parse
from mtrl.env.suite import suites


@suites.register("vizdoom")
class ViZDoom(GymnasiumSuite):
    """Scenarios with one button pressed at a time, or none; each has its own number of buttons.

    An action is held for `frame_skip` frames. Rewards and returns are raw.
    """

    suite_names: ClassVar[Mapping[str, str]] = {
        "vizdoom:TASK,TASK": f"3-D scenarios of ViZDoom as pixels: {', '.join(SCENARIOS)}",
    }

    packages = ("vizdoom", "gymnasium")
    recipe_class = ScreenRecipe

    @dataclass(frozen=True, kw_only=True)
    class Config:
        frame_skip: Annotated[int, Field(ge=1)] = 4  # frames that an action is held; a second has 35

    def __init__(self, name: str, config: Config, seed: int):
        """Raises BadInput for an unknown scenario, or where ViZDoom is not installed."""
        scenarios = parse(name)
        limits = {own: {"max_episode_steps": -(-SCENARIOS[own].max_frames // config.frame_skip)} for own in scenarios}
        settings = GymnasiumSuite.Config(
            env_kwargs={"frame_skip": config.frame_skip, "screen_resolution": "RES_160X120", **limits},
            score="return",
            samples_policy=True,
        )
        super().__init__("gym:" + ",".join(f"{own}={SCENARIOS[own].environment}" for own in scenarios), settings, seed)
        self.spec = replace(
            self.spec,
            name=PREFIX + ",".join(scenarios),
            frame_stack=FRAMES,
            protocol="vizdoom",
            settings={**self.spec.settings, "observation": f"the last {FRAMES} screens, RGB, {SIZE} x {SIZE} pixels"},
        )

    @classmethod
    def accepts(cls, name: str) -> bool:
        return name.startswith(PREFIX)

    @classmethod
    def suggestion(cls, name: str) -> str | None:
        """The suite that is meant by `VizdoomBasic-v1` or `health_gathering`."""
        by_environment = {scenario.environment.lower(): own for own, scenario in SCENARIOS.items()}
        meant = [by_environment.get(entry.lower(), entry.lower().replace("_", "-")) for entry in name.split(",")]
        return PREFIX + ",".join(meant) if all(own in SCENARIOS for own in meant) else None

    @classmethod
    def presets(cls, name: str, agent: str) -> Mapping[str, Mapping[str, Any]]:
        return {"fast": fast(1 + name.count(","), agent)}

    @classmethod
    def diagnose(cls) -> Iterable[tuple[str, str]]:
        """Nothing of its own: the family of Gymnasium's environments says whether ViZDoom is installed."""
        return ()
