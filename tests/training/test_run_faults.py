"""What a run does when something breaks: the right exit code, the right words, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from mtrl.training import run
from mtrl.training.train_state import TrainState
from tests.training.tiny_runs import LAST_WORDS, differences, final_state, in_child, tiny_config


def poison_reward(state: TrainState) -> None:
    receive = state.envs._recv

    def broken() -> Any:
        raw = receive()
        reward = raw.reward.copy()
        reward[3] = np.nan
        return raw._replace(reward=reward)

    state.envs._recv = broken  # type: ignore[method-assign]


def poison_observation(state: TrainState) -> None:
    receive = state.envs._recv

    def broken() -> Any:
        raw = receive()
        final_observation = raw.final_observation.copy()
        final_observation[5, 0] = np.inf
        return raw._replace(final_observation=final_observation)

    state.envs._recv = broken  # type: ignore[method-assign]


def poison_parameter(name: str) -> Callable[[TrainState], None]:
    def poison(state: TrainState) -> None:
        with torch.no_grad():
            dict(state.agent.named_parameters())[name].view(-1)[0] = torch.nan

    return poison


def poison_buffer(state: TrainState) -> None:
    sample = state.buffer.sample

    def broken(*arguments: Any) -> Any:
        batch = sample(*arguments)
        return replace(batch, reward=torch.where(batch.task_ids == 2, torch.inf, batch.reward))

    state.buffer.sample = broken  # type: ignore[method-assign]


def poison_gradient(state: TrainState) -> None:
    group = state.agent.groups()["actor"]
    backward = group.aggregator.backward

    def broken(loss_of: Any, batch: Any, parameters: Any) -> Any:
        result = backward(loss_of, batch, parameters)
        next(iter(parameters.values())).grad.view(-1)[0] = torch.nan
        return result

    group.aggregator.backward = broken  # type: ignore[method-assign]


def poison_rollout(state: TrainState) -> None:
    rollout = state.buffer.rollout

    def broken(horizon: int) -> Any:
        batch = rollout(horizon)
        return replace(batch, reward=torch.where(batch.task_ids == 2, torch.inf, batch.reward))

    state.buffer.rollout = broken  # type: ignore[method-assign]


PPO = {"name": "ppo", "rollout_steps": 4, "epochs": 1, "minibatches": 2}
POISONS: dict[str, tuple[dict[str, Any], Callable[[TrainState], None], str]] = {
    "reward": ({}, poison_reward, "reward is not finite: task goal"),
    "observation": ({}, poison_observation, "observation is not finite: task goal"),
    "loss": ({}, poison_buffer, "critic loss is not finite for the task(s) goal+0.8-0.8"),
    "gradient": ({}, poison_gradient, "actor gradient is not finite: architecture.trunk.0.weight"),
    "weight": ({}, poison_parameter("policy.architecture.head.bias"), "not finite"),
    "target": ({}, poison_parameter("target_critics.ensemble.members.1.head.bias"), "critic loss is not finite"),
    "temperature": ({}, poison_parameter("temperatures.log_alpha"), "not finite"),
    "ppo, reward": (PPO, poison_reward, "reward is not finite: task goal"),
    "ppo, loss": (PPO, poison_rollout, "return is not finite for the task(s) goal+0.8-0.8"),
    "ppo, weight": (PPO, poison_parameter("networks.policy.architecture.head.bias"), "action is not finite"),
    "ppo, value weight": (PPO, poison_parameter("networks.value.members.0.head.bias"), "return is not finite"),
    "ppo, standard deviation": (PPO, poison_parameter("networks.policy.head.log_std"), "not finite"),
}


@pytest.mark.parametrize("what", POISONS)
def test_a_value_that_is_not_finite_stops_the_run_by_name(tmp_path: Path, what: str) -> None:
    agent, poison, message = POISONS[what]
    run_dir = tmp_path / "run"
    config = tiny_config(agent=agent, total_env_steps=480, eval_interval=0, final_eval_episodes_per_task=0)
    assert in_child(lambda: run.train(config, run_dir), 50, poison) == 3  # of PPO in the middle of a rollout
    assert message in LAST_WORDS.read_text()
    meta = json.loads((run_dir / "meta.json").read_text())
    assert (meta["status"], meta["exit_code"]) == ("failed", 3)
    # The checkpoint before it stays, is finite, and is gone on from.
    stored = final_state(run_dir)
    assert stored["step"] == 320
    assert all(bool(torch.isfinite(value).all()) for value in stored["state"]["agent"]["modules"].values())
    assert in_child(lambda: run.resume(run_dir, {})) == 0


def kill_worker(state: TrainState) -> None:
    workers = [process for process in psutil.Process().children(recursive=True) if not process.children()]
    WORKERS.write_text(json.dumps([process.pid for process in workers]))
    os.kill(max(process.pid for process in workers), signal.SIGKILL)


WORKERS = Path(f"{LAST_WORDS}-workers")


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_a_checkpoint_of_that_step(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    config = tiny_config(
        "metaworld:reach-v3,drawer-close-v3",
        num_envs=2,
        num_workers=2,
        total_env_steps=300,
        eval_interval=0,
        final_eval_episodes_per_task=0,
    )
    assert in_child(lambda: run.train(config, run_dir), 60, kill_worker) == 4
    message = LAST_WORDS.read_text()
    assert "SIGKILL" in message
    assert "-v3" in message
    assert final_state(run_dir)["step"] == 120
    for pid in json.loads(WORKERS.read_text()):
        with contextlib.suppress(psutil.NoSuchProcess):
            # The processes whose parent died are reaped by init in its own time.
            process = psutil.Process(pid)
            assert process.status() == psutil.STATUS_ZOMBIE or process.wait(5) is None
    assert in_child(lambda: run.resume(run_dir, {})) == 0
    # The agent has acted, and may have learned, in the step that failed.
    output = capfd.readouterr()
    assert "an environment failed in the step after 120: this resume of it is not exact" in output.out + output.err
    assert final_state(run_dir)["step"] == 300


def fill_disk(state: TrainState) -> None:
    """No file may grow beyond 4 kB from now on: what a full disk looks like to one process."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    run_dir, calm = tmp_path / "run", tmp_path / "calm"
    config = tiny_config(eval_interval=0, log_interval=10**6)
    assert in_child(lambda: run.train(config, calm)) == 0
    assert in_child(lambda: run.train(config, run_dir), 50, fill_disk) == 5
    assert "bytes" in LAST_WORDS.read_text()
    assert final_state(run_dir)["step"] == 320
    assert in_child(lambda: run.resume(run_dir, {})) == 0
    assert differences(final_state(run_dir), final_state(calm)) == []


def test_a_checkpoint_of_another_suite_is_refused(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    config = tiny_config(total_env_steps=400, eval_interval=0, final_eval_episodes_per_task=0)
    assert in_child(lambda: run.train(config, run_dir)) == 0
    text = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(text.replace("name: point-mass", "name: point-mass-conflict"))
    assert in_child(lambda: run.resume(run_dir, {})) == 2
    assert "suite is 'point-mass', not 'point-mass-conflict'" in LAST_WORDS.read_text()
    (run_dir / "config.yaml").write_text(text.replace("width: 16", "width: 17"))
    assert in_child(lambda: run.resume(run_dir, {})) == 2
    assert "does not fit this configuration" in LAST_WORDS.read_text()
