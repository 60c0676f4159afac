"""How the environment of a scenario is made; light, because the main process holds and sends it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from envs.gymnasium_suite.environments import Environment, Recipe


@dataclass(frozen=True, kw_only=True)
class ScreenRecipe(Recipe):
    """A ViZDoom environment whose observation is the screen."""

    def make(self, render_mode: str | None = None) -> Environment:
        from envs.vizdoom.screens import Screens

        # The game writes its settings when it starts, by default into the current folder.
        settings = Path(tempfile.gettempdir()) / f"mtrl-vizdoom-{os.getuid()}.ini"
        own = Recipe(
            environment=self.environment,
            arguments={**self.arguments, "doom_config_path": str(settings)},
            wrappers=self.wrappers,
        )
        return Screens(own.make(render_mode))
