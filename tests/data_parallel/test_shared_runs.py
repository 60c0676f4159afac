"""Whole runs of two ranks: what they leave, and what becomes of them when one rank meets a fault."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from mtrl.config.schema import RunConfig
from mtrl.data_parallel.ranks import WORLD, agreed
from mtrl.env.episodes import RandomEpisodes
from mtrl.env.shared_out import SharedOutEnvs, shared_out
from mtrl.errors import BadInput
from mtrl.faults import WrongResult
from mtrl.training import run
from mtrl.training.build import build_suite
from mtrl.training.train_state import TrainState
from tests.data_parallel.two_ranks import in_ranks
from tests.training.tiny_runs import differences, final_state, in_child, log_rows, tiny_config

CONFIG = {"total_env_steps": 320, "eval_interval": 240, "checkpoint_interval": 80}
PPO = {"name": "ppo", "rollout_steps": 3, "epochs": 1, "minibatches": 2}


def config_of(agent: str) -> RunConfig:
    """Shares that change over time make slots change tasks, and batches that are not cut into equal parts."""
    if agent == "ppo":
        return tiny_config(**CONFIG, agent=PPO)
    return tiny_config("point-mass-hard", **CONFIG, scheduler={"name": "a5c", "uniform_episodes": 1})


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Undisturbed runs of two ranks, by the agent's name."""
    folder = tmp_path_factory.mktemp("calm")
    for agent in ("ppo", "sac"):
        assert in_ranks(lambda agent=agent: run.train(config_of(agent), folder / agent), folder / "words") == [0, 0]
    assert (folder / "words").read_text() == ""
    return folder


def numbers(tree: Any) -> list[float]:
    """All numbers of a nested state, in order."""
    if isinstance(tree, dict):
        return [number for name in sorted(tree) for number in numbers(tree[name])]
    if isinstance(tree, list | tuple):
        return [number for part in tree for number in numbers(part)]
    if isinstance(tree, torch.Tensor | np.ndarray):
        return [] if str(tree.dtype).endswith("uint8") else np.asarray(tree, np.float64).ravel().tolist()
    return [float(tree)] if isinstance(tree, int | float) else []


@pytest.mark.parametrize("agent", ["ppo", "sac"])
def test_two_ranks_leave_the_run_of_one_process(tmp_path: Path, calm: Path, agent: str) -> None:
    assert in_child(lambda: run.train(config_of(agent), tmp_path / "one")) == 0
    one, two = final_state(tmp_path / "one"), final_state(calm / agent)
    assert one["step"] == two["step"] == 320
    for part in ("modules", "groups"):
        found, expected = (numbers(state["state"]["agent"][part]) for state in (two, one))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(numbers(two["rows"]), numbers(one["rows"]), rtol=1e-3, atol=1e-4)
    for found, expected in zip(log_rows(calm / agent), log_rows(tmp_path / "one"), strict=True):
        assert [getattr(row, "keys", list)() for row in found] == [getattr(row, "keys", list)() for row in expected]
    names = [sorted(path.name for path in folder.iterdir()) for folder in (calm / agent, tmp_path / "one")]
    assert names[0] == names[1]


@pytest.mark.parametrize("agent", ["ppo", pytest.param("sac", marks=pytest.mark.slow)])
def test_a_rank_that_is_killed_costs_no_bit(tmp_path: Path, calm: Path, agent: str) -> None:
    folder, words = tmp_path / "run", tmp_path / "words"
    # 10 vector steps lie between checkpoints, and 20 in an episode: both kills hit the middle of one.
    statuses = in_ranks(lambda: run.train(config_of(agent), folder), words, at_progress=13)
    assert statuses == [4, -signal.SIGKILL]
    (line,) = words.read_text().splitlines()
    assert "another process of this data-parallel run ended" in line
    assert json.loads((folder / "meta.json").read_text())["status"] == "failed"
    statuses = in_ranks(lambda: run.resume(folder, {}), words, at_progress=17, faulty=0)
    assert statuses == [-signal.SIGKILL, 4]
    assert in_ranks(lambda: run.resume(folder, {}), words) == [0, 0]
    assert differences(final_state(folder), final_state(calm / agent)) == []
    assert differences(log_rows(folder), log_rows(calm / agent)) == []


def test_a_signal_to_one_rank_stops_all_at_one_step(tmp_path: Path, calm: Path) -> None:
    folder, words = tmp_path / "run", tmp_path / "words"
    train = lambda: run.train(config_of("sac"), folder)  # noqa: E731
    assert in_ranks(train, words, at_progress=17, fault=signal.SIGTERM) == [143, 143]
    assert final_state(folder)["step"] == 17 * 8
    assert in_ranks(lambda: run.resume(folder, {}), words) == [0, 0]
    assert differences(final_state(folder), final_state(calm / "sac")) == []


def test_a_resume_with_another_number_of_ranks_goes_on_and_says_so(
    tmp_path: Path, calm: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, words = tmp_path / "run", tmp_path / "words"
    train = lambda: run.train(config_of("sac"), folder)  # noqa: E731
    in_ranks(train, words, at_progress=17, fault=signal.SIGTERM)
    capfd.readouterr()
    assert in_ranks(lambda: run.resume(folder, {}), words, size=3) == [0, 0, 0]
    assert "'number of ranks' '2', now '3'; a resume is exact with the same ones only" in capfd.readouterr().out
    two, other = final_state(calm / "sac"), final_state(folder)
    found, expected = (numbers(state["state"]["agent"]["modules"]) for state in (other, two))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert run.resume(folder, {"total_env_steps": 328}) == 0
    assert "'number of ranks' '3', now 'unknown'" in capfd.readouterr().out


def spoil(state: TrainState) -> None:
    dict(state.agent.named_parameters())["temperatures.log_alpha"].data.fill_(torch.nan)


def break_environments(state: TrainState) -> None:
    def fail() -> NoReturn:
        raise LookupError("the drawer is stuck")

    assert isinstance(state.envs, SharedOutEnvs)
    state.envs._own._recv = fail  # type: ignore[method-assign]


def break_update(state: TrainState) -> None:
    def fail(*arguments: object) -> NoReturn:
        raise WrongResult("returned nothing")

    state.agent.update = fail  # type: ignore[method-assign]


def test_a_value_that_is_not_finite_on_one_rank_stops_all(tmp_path: Path) -> None:
    folder, words = tmp_path / "run", tmp_path / "words"
    train = lambda: run.train(config_of("sac"), folder)  # noqa: E731
    assert in_ranks(train, words, at_progress=17, fault=spoil) == [3, 3]
    (line,) = words.read_text().splitlines()  # rank 0 reports it
    assert "critic loss is not finite" in line
    assert final_state(folder)["step"] == 80
    assert in_ranks(lambda: run.resume(folder, {}), words) == [0, 0]


def test_an_environment_that_fails_on_one_rank_stops_all_with_a_checkpoint(tmp_path: Path) -> None:
    folder, words = tmp_path / "run", tmp_path / "words"
    train = lambda: run.train(config_of("sac"), folder)  # noqa: E731
    assert in_ranks(train, words, at_progress=17, fault=break_environments) == [4, 4]
    line, *_ = words.read_text().splitlines()  # and the traceback of the environment
    assert line.startswith("rank 1: environment")
    assert "the drawer is stuck" in line
    assert words.read_text().count("rank 1") == 1
    assert final_state(folder)["step"] == 17 * 8


def test_a_bug_on_one_rank_ends_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, words = tmp_path / "run", tmp_path / "words"
    train = lambda: run.train(config_of("sac"), folder)  # noqa: E731
    assert in_ranks(train, words, at_progress=17, fault=break_update) == [4, 70]
    assert "another process of this data-parallel run ended" in words.read_text()
    assert "returned nothing" in capfd.readouterr().err


def test_bad_input_on_one_rank_is_reported_once(tmp_path: Path) -> None:
    words = tmp_path / "words"

    def refuse() -> int:
        with agreed():
            if WORLD.rank == 1:
                raise BadInput("no room here")
        return 0

    assert in_ranks(refuse, words) == [2, 2]
    assert words.read_text() == "rank 1: no room here\n"
    assert in_ranks(lambda: run.train(tiny_config(num_envs=1), tmp_path / "run"), words) == [2, 2]
    assert words.read_text() == "num_envs: 1 slots cannot be shared out over 2 ranks\n"
    config = tiny_config(agent={"batch_size": 1}, total_env_steps=160)
    assert in_ranks(lambda: run.train(config, tmp_path / "batch"), words) == [2, 2]
    assert words.read_text() == "a batch of 1 samples cannot be shared out over 2 ranks\n"
    in_ranks(lambda: run.train(tiny_config(total_env_steps=160), tmp_path / "there"), words)
    assert in_ranks(lambda: run.train(tiny_config(), tmp_path / "there"), words) == [2, 2]
    (line,) = words.read_text().splitlines()
    assert "exists; use --resume" in line


@pytest.mark.parametrize(
    "name", [pytest.param("metaworld:reach-v3,drawer-close-v3", marks=pytest.mark.slow), "point-mass-visible"]
)
def test_slots_of_three_ranks_play_what_one_process_plays(tmp_path: Path, name: str) -> None:
    suite = build_suite(tiny_config(name).suite, 1)
    space = suite.spec.action_space

    def trajectory(make_envs: Any) -> list[Any]:
        envs = make_envs(7, RandomEpisodes(suite.spec, 7, 1))
        observation, found = envs.reset(), []
        for step in range(50):
            action = np.sin(np.arange(7 * space.shape[0], dtype=np.float32) + step).reshape(7, -1)
            result = envs.step(action)
            found.append([observation, *vars(result).values()])
            observation = result.observation
            if step == 30:  # in the middle of episodes
                state = envs.state()
                envs = make_envs(7, RandomEpisodes(suite.spec, 7, 2))
                assert np.array_equal(envs.load_state(state), observation)
        return found

    def compare() -> int:
        def make(num_envs: int, episodes: RandomEpisodes) -> Any:
            return suite.make_envs(num_envs, episodes, mode="train", num_workers=0, worker_timeout=60)

        together = trajectory(lambda *arguments: shared_out(make, *arguments))
        assert differences(together, trajectory(make)) == []
        return 0

    assert in_ranks(compare, tmp_path / "words", size=3) == [0, 0, 0]
    assert os.environ.get("RANK") is None
