"""MLflow (https://mlflow.org/docs): curves on a tracking server, or in a local database that `mlflow ui` shows."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mtrl.config.yaml_io import flattened, load_mapping
from mtrl.loggers.metric_logger import loggers
from mtrl.loggers.tracking.tracked_run import TrackedRun

MAX_METRICS, MAX_PARAMS = 1000, 100
"""In one request."""
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""Requests hold up the training: by default they are repeated for many minutes. Yours stay where you set them."""


@loggers.register("mlflow")
class MLflowLogger(TrackedRun):
    """MLflow (extra `mlflow`)."""

    name, package = "mlflow", "mlflow"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        experiment: str = "mtrl"  # that the run belongs to
        tracking_uri: str | None = None  # None: MLFLOW_TRACKING_URI, or else mlflow.db in the current folder

    def start(self, run_id: str | None) -> str:
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client: Any = MlflowClient(tracking_uri=self.config.tracking_uri)
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        found = self._client.get_experiment_by_name(self.config.experiment)
        experiment = self._client.create_experiment(self.config.experiment) if found is None else found.experiment_id
        new: str = self._client.create_run(experiment, run_name=self.run.name).info.run_id
        flat = flattened(load_mapping(self.run.config, "config.yaml"))
        params = [Param(_allowed(key), str(value)) for key, value in flat]
        for first in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(new, params=params[first : first + MAX_PARAMS])
        return new

    def send(self, index: int, env_steps: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_allowed(name), value, now, env_steps) for name, value in values.items()]
        for first in range(0, len(metrics), MAX_METRICS):
            self._client.log_batch(self._id, metrics=metrics[first : first + MAX_METRICS])

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _allowed(name: str) -> str:
    """MLflow takes few characters beside letters and digits."""
    return re.sub(r"[^\w\-. :/]", "_", name)
