"""A caller's defaults of torch change nothing about training, loading and predicting, and stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import mtrl
from mtrl.optim.torch_defaults import torch_defaults
from mtrl.training import run
from tests.training.tiny_runs import differences, final_state, in_child, tiny_config

CONFIG = tiny_config(total_env_steps=400, checkpoint_interval=200, eval_interval=200, final_eval_episodes_per_task=1)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


CALLERS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "float64": partial(default_dtype, torch.float64),
    "bfloat16": partial(default_dtype, torch.bfloat16),
    "default device": partial(default_device, "meta"),
    "device context": partial(torch.device, "meta"),
    "no grad": torch.no_grad,
    "inference mode": torch.inference_mode,
}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a caller who changed nothing."""
    folder = tmp_path_factory.mktemp("calm") / "run"
    assert in_child(lambda: run.train(CONFIG, folder)) == 0
    return folder


@pytest.mark.parametrize("caller", CALLERS)
def test_training_and_resuming_do_not_depend_on_the_callers_defaults(caller: str, calm: Path, tmp_path: Path) -> None:
    half = tiny_config(total_env_steps=200, eval_interval=200, final_eval_episodes_per_task=1)

    def train() -> int:
        with CALLERS[caller]():
            run.train(half, tmp_path / "run")
            return run.resume(tmp_path / "run", {"total_env_steps": 400})

    assert in_child(train) == 0
    assert differences(final_state(tmp_path / "run")["state"]["agent"], final_state(calm)["state"]["agent"]) == []


@pytest.mark.parametrize("caller", CALLERS)
def test_loading_and_predicting_do_not_depend_on_the_callers_defaults(caller: str, calm: Path) -> None:
    observation = np.array([0.1, -0.2], np.float32)
    expected = mtrl.load(str(calm)).predict(observation, 2)
    with CALLERS[caller]():
        before = torch.get_default_dtype(), torch.empty(0).device, torch.is_grad_enabled()
        trained = mtrl.load(str(calm))
        action = trained.predict(observation, 2)
        assert (torch.get_default_dtype(), torch.empty(0).device, torch.is_grad_enabled()) == before
    assert action.dtype == np.float32
    np.testing.assert_array_equal(action, expected)
    np.testing.assert_array_equal(trained.predict(observation, 2), expected)


@torch_defaults()
def fail() -> None:
    assert (torch.get_default_dtype(), torch.empty(0).device.type) == (torch.float32, "cpu")
    raise ZeroDivisionError


@pytest.mark.parametrize("caller", CALLERS)
def test_the_callers_defaults_are_back_after_an_error(caller: str) -> None:
    with CALLERS[caller]():
        before = torch.get_default_dtype(), torch.empty(0).device, torch.is_grad_enabled()
        with pytest.raises(ZeroDivisionError):
            fail()
        assert (torch.get_default_dtype(), torch.empty(0).device, torch.is_grad_enabled()) == before
