"""Weights & Biases (https://docs.wandb.ai): curves on its server, or in a folder that `wandb sync` uploads."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mtrl.config.yaml_io import load_mapping
from mtrl.loggers.metric_logger import loggers
from mtrl.loggers.tracking.tracked_run import TrackedRun
from mtrl.runs.run_directory import LOGGERS

LOGIN_SECONDS = 20
FINISH_SECONDS = 300.0
"""How long the end of a run waits for the upload; what is left is in the folder `wandb`."""


@loggers.register("wandb")
class WandbLogger(TrackedRun):
    """Weights & Biases (extra `wandb`)."""

    name, package = "wandb", "wandb"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        project: str = "mtrl"  # that the run belongs to
        entity: str | None = None  # user or team; None: the default of the account
        group: str | None = None  # of runs that belong together
        mode: Literal["online", "offline"] | None = None  # None: WANDB_MODE, or else online

    def start(self, run_id: str | None) -> str:
        import wandb

        self._run: Any = wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            group=self.config.group,
            mode=self.config.mode,
            id=run_id or uuid.uuid4().hex[:12],
            resume="allow",
            name=self.run.name,
            config=load_mapping(self.run.config, "config.yaml"),
            dir=str(self.run.folder / LOGGERS),
            settings=wandb.Settings(
                # The terminal belongs to the live table, and what is trained to nobody but its user.
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                login_timeout=LOGIN_SECONDS,
                finish_timeout=FINISH_SECONDS,
            ),
        )
        self._run.define_metric("env_steps", hidden=True)
        self._run.define_metric("*", step_metric="env_steps")
        return str(self._run.id)

    def send(self, index: int, env_steps: int, values: Mapping[str, float]) -> None:
        # The tool's own steps have to grow: several rows may be of the same env steps.
        self._run.log({"env_steps": env_steps, **values}, step=index)

    def close(self) -> None:
        self._run.finish()
