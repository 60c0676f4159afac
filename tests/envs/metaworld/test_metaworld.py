"""The Meta-World suites: official goals, official trajectories, exact resume."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import metaworld
import numpy as np
import psutil
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, ML10_V3, ML45_V3, MT10_V3, MT25_V3, MT50_V3
from metaworld.policies import SawyerReachV3Policy

from envs.metaworld import goals as goal_store
from envs.metaworld.factory import MetaWorldFactory
from envs.metaworld.suite import MetaWorld
from envs.metaworld.tasks import BENCHMARKS, MT3, MT10, MT25, MT50, parse
from envs.workers.pool import WorkerPool
from mtrl.env.episodes import EpisodeSource, ListedEpisodes, RandomEpisodes
from mtrl.env.suite import Mode, find_suite
from mtrl.env.vector_env import MultiTaskVectorEnv
from mtrl.errors import BadInput, WorkerFailure
from mtrl.types import EnvStep

CONFIG = MetaWorld.Config()


@pytest.fixture(scope="module", autouse=True)
def goal_cache(request: pytest.FixtureRequest) -> Iterator[None]:
    """Goals are kept from one run of the tests to the next, apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTRL_CACHE_DIR", str(request.config.cache.mkdir("metaworld")))
        yield


def make_envs(
    suite: MetaWorld, *, num_workers: int = 2, mode: Mode = "train", episodes: EpisodeSource | None = None
) -> MultiTaskVectorEnv:
    num_envs = suite.spec.num_tasks
    episodes = episodes or RandomEpisodes(suite.spec, num_envs, seed=1)
    return suite.make_envs(num_envs, episodes, mode=mode, num_workers=num_workers, worker_timeout=60)


def draw_actions(num_steps: int, num_envs: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(-1, 1, (num_steps, num_envs, 4)).astype(np.float32)


def official_goals(benchmark: Any, split: str = "train", hidden: bool = False) -> dict[str, np.ndarray]:
    """Goal vectors (50, G) of an official benchmark object."""
    goals: dict[str, list[np.ndarray]] = {}
    for task in getattr(benchmark, f"{split}_tasks"):
        data = pickle.loads(task.data)
        assert data["partially_observable"] is hidden
        goals.setdefault(task.env_name, []).append(data["rand_vec"])
    return {name: np.array(vectors) for name, vectors in goals.items()}


# Names.


def test_task_lists_are_the_official_ones() -> None:
    assert tuple(MT10_V3) == MT10
    assert tuple(MT25_V3) == MT25
    assert tuple(MT50_V3) == MT50 == tuple(metaworld.MT1.ENV_NAMES)
    assert set(MT3) < set(MT10)
    for name, official in (("ML10", ML10_V3), ("ML45", ML45_V3)):
        for split in ("train", "test"):
            assert tuple(official[split]) == BENCHMARKS[f"{name}-{split}"]


@pytest.mark.parametrize(
    ("name", "full", "tasks", "benchmarks"),
    [
        ("mt3", "mt3", MT3, 3 * ("MT10",)),
        ("mt10", "mt10", MT10, 10 * ("MT10",)),
        ("mt25", "mt25", MT25, 25 * ("MT25",)),
        ("mt50", "mt50", MT50, 50 * ("MT50",)),
        ("mt1-reach", "mt1-reach-v3", ("reach-v3",), ("MT1-reach-v3",)),
        ("mt1-reach-v3", "mt1-reach-v3", ("reach-v3",), ("MT1-reach-v3",)),
        (
            "metaworld:push-v3,reach",
            "metaworld:push-v3,reach-v3",
            ("push-v3", "reach-v3"),
            ("MT1-push-v3", "MT1-reach-v3"),
        ),
        ("ml10-train", "ml10-train", BENCHMARKS["ML10-train"], 10 * ("ML10-train",)),
        ("ml45-test", "ml45-test", BENCHMARKS["ML45-test"], 5 * ("ML45-test",)),
        (
            "ml10-test:lever-pull,door-close-v3",
            "ml10-test:lever-pull-v3,door-close-v3",
            ("lever-pull-v3", "door-close-v3"),
            2 * ("ML10-test",),
        ),
    ],
)
def test_a_suite_name_stands_for_tasks_and_goals(
    name: str, full: str, tasks: tuple[str, ...], benchmarks: tuple[str, ...]
) -> None:
    import envs

    envs.register()
    assert find_suite(name) is MetaWorld
    named = parse(name)
    assert (named.name, named.tasks, named.benchmarks) == (full, tasks, benchmarks)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mt1-reech", r"unknown Meta-World task 'reech' \(did you mean 'reach-v3'\?\)"),
        ("metaworld:push,", "unknown Meta-World task ''"),
        ("metaworld:push,push-v3", "names task 'push-v3' twice"),
        ("metaworld:", "unknown Meta-World task ''"),
        ("MT10", "'MT10' is not one of Meta-World's"),
        ("mt10:reach", "'mt10:reach' is not one of Meta-World's"),
        ("ml10-test:reach", "'reach-v3' is not in ml10-test, which has drawer-open-v3, door-close-v3"),
        ("ml10-test:door-close,door-close", "names task 'door-close-v3' twice"),
    ],
)
def test_a_wrong_name_is_refused(name: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        MetaWorld(name, CONFIG, 1)


def test_a_suite_says_what_its_protocol_fixes() -> None:
    settings = json.loads(json.dumps(dict(MetaWorld("mt3", CONFIG, 2**32 + 3).spec.settings)))
    assert settings.pop("goals_sha256") == MetaWorld("mt3", CONFIG, 3).spec.settings["goals_sha256"]
    assert settings == {
        "metaworld": "3.1.1",
        "mujoco": "3.3.0",
        "reward_function": "v2",
        "horizon": 500,
        "num_goals": 50,
        "goals_seed": 3,
        "tasks": list(MT3),
        "success": "at any step; an evaluation episode ends there",
    }


@pytest.mark.slow
def test_what_differs_between_seeds_and_sets_of_tasks_is_named() -> None:
    def same(name: str, seed: int, without: str) -> dict[str, object]:
        spec = MetaWorld(name, CONFIG, seed).spec
        left_out = {*spec.seed_settings, *(spec.task_settings if without == "tasks" else ())}
        return {key: value for key, value in spec.settings.items() if key not in left_out}

    assert same("mt3", 1, "seed") == same("mt3", 2, "seed")
    assert same("mt3", 1, "tasks") == same("mt1-push", 2, "tasks")


# Goals.


@pytest.mark.parametrize(
    ("name", "seed", "official"),
    [
        pytest.param("mt3", 1, metaworld.MT10, marks=pytest.mark.slow),
        ("mt1-drawer-open", 1, lambda seed: metaworld.MT1("drawer-open-v3", seed=seed)),
        pytest.param("mt10", 0, metaworld.MT10, marks=pytest.mark.full),
        pytest.param("mt25", 2, metaworld.MT25, marks=pytest.mark.full),
        pytest.param("mt50", 3, metaworld.MT50, marks=pytest.mark.full),
    ],
)
def test_goals_are_those_of_the_official_benchmark(
    name: str, seed: int, official: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTRL_CACHE_DIR", str(tmp_path))
    suite = MetaWorld(name, CONFIG, seed)
    expected = official_goals(official(seed=seed))
    for task, goals in zip(suite.spec.task_names, suite.goals, strict=True):
        np.testing.assert_array_equal(goals, expected[task])


def test_goals_do_not_depend_on_what_the_main_process_did_to_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = MetaWorld("mt1-reach", CONFIG, 1).goals
    monkeypatch.setenv("MTRL_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(metaworld, "_N_GOALS", 3)  # as `gym.make_vec(..., num_goals=3)` leaves it
    before = np.random.get_state()[1].copy()
    np.testing.assert_array_equal(MetaWorld("mt1-reach", CONFIG, 1).goals, expected)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_cached_goals_need_no_simulator() -> None:
    MetaWorld("mt3", CONFIG, 1)
    program = (
        "import sys, envs; envs.register()\n"
        "from mtrl.env.suite import suites\n"
        "family = suites.get('metaworld'); family('mt3', family.Config(), 1)\n"
        "print([name for name in ('mujoco', 'metaworld', 'torch') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[3], check=True
    )
    assert result.stdout == "[]\n"


def damage(content: bytes, how: str) -> bytes:
    middle = len(content) // 2
    if how == "flipped":
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return {"truncated": content[:middle], "empty": b"", "text": b"{}", "huge": content + bytes(2**21)}[how]


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "text", "huge", "foreign", "pickle"])
def test_a_cache_file_that_is_not_whole_is_computed_anew(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = goal_store.encode(goal_store.benchmark_goals("MT1-reach-v3", 1), goal_store._identity("MT1-reach-v3", 1))
    computed = []
    monkeypatch.setattr(goal_store, "_compute_elsewhere", lambda *asked: computed.append(asked) or content)
    monkeypatch.setenv("MTRL_CACHE_DIR", str(tmp_path))
    expected = goal_store.benchmark_goals("MT1-reach-v3", 1)
    file = tmp_path / "goals" / "metaworld-3.1.1-MT1-reach-v3-seed-1.npz"
    assert file.read_bytes() == content
    if how == "foreign":
        file.write_bytes(goal_store.encode(expected, goal_store._identity("MT1-reach-v3", 2)))
    elif how == "pickle":
        np.savez(file, **{"reach-v3": np.array([print], object)})
    else:
        file.write_bytes(damage(content, how))
    again = goal_store.benchmark_goals("MT1-reach-v3", 1)
    assert len(computed) == 2
    np.testing.assert_array_equal(again["reach-v3"], expected["reach-v3"])
    goal_store.benchmark_goals("MT1-reach-v3", 1)
    assert len(computed) == 2
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_processes_that_fill_the_cache_together_get_the_same_goals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTRL_CACHE_DIR", str(tmp_path))
    got: list[np.ndarray] = []
    readers = [
        threading.Thread(target=lambda: got.append(goal_store.benchmark_goals("MT1-reach-v3", 1)["reach-v3"]))
        for _ in range(3)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(got) == 3
    np.testing.assert_array_equal(got[0], got[1])
    np.testing.assert_array_equal(got[0], got[2])


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "goals").write_text("not a folder")
    monkeypatch.setenv("MTRL_CACHE_DIR", str(tmp_path))
    assert len(goal_store.benchmark_goals("MT1-reach-v3", 1)["reach-v3"]) == 50


@pytest.mark.slow
def test_goals_of_a_split_are_those_of_the_official_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = metaworld.ML10(seed=1)
    monkeypatch.setenv("MTRL_CACHE_DIR", str(tmp_path))
    for split in ("train", "test"):
        expected = official_goals(official, split, hidden=True)
        suite = MetaWorld(f"ml10-{split}", CONFIG, 1)
        assert suite.spec.task_names == tuple(expected)
        for task, goals in zip(suite.spec.task_names, suite.goals, strict=True):
            np.testing.assert_array_equal(goals, expected[task])


def test_some_of_the_goals_can_be_chosen_by_number() -> None:
    every = MetaWorld("ml10-test:door-close", CONFIG, 1)
    chosen = MetaWorld("ml10-test:door-close", MetaWorld.Config(goals=(7, 3)), 1)
    np.testing.assert_array_equal(chosen.goals[0], every.goals[0][[7, 3]])
    assert chosen.spec.tasks[0].num_variations == 2
    settings = dict(chosen.spec.settings)
    assert (settings["num_goals"], settings["goals"]) == (2, [7, 3])
    assert settings["goal"] == "hidden, zeros in the observation"
    assert "goals" not in every.spec.settings
    with pytest.raises(BadInput, match="names a goal twice"):
        MetaWorld("mt1-reach", MetaWorld.Config(goals=(1, 1)), 1)


# Trajectories.


class OfficialEnv:
    """An untouched official environment, stepped by hand."""

    def __init__(self, task: str, goals: np.ndarray, reward_function: str, hidden: bool):
        self.env = ALL_V3_ENVIRONMENTS[task](reward_function_version=reward_function)
        self.task, self.goals, self.hidden = task, goals, hidden

    def reset(self, goal: int) -> np.ndarray:
        data = {"rand_vec": self.goals[goal], "env_cls": type(self.env)}
        data["partially_observable"] = self.hidden
        self.env.set_task(metaworld.Task(env_name=self.task, data=pickle.dumps(data)))
        return self.env.reset()[0].astype(np.float32)


@pytest.mark.parametrize(
    ("name", "reward_function"),
    [
        ("mt3", "v2"),
        ("mt1-push", "v1"),
        ("ml10-test:door-close", "v2"),
        pytest.param("mt10", "v1", marks=pytest.mark.full),
        pytest.param("mt50", "v2", marks=pytest.mark.full),
    ],
)
def test_trajectories_are_those_of_the_official_environment(name: str, reward_function: Literal["v1", "v2"]) -> None:
    suite = MetaWorld(name, MetaWorld.Config(reward_function=reward_function), 1)
    num_envs, hidden = suite.spec.num_tasks, name.startswith("ml")
    actions = draw_actions(505, num_envs)
    with make_envs(suite) as envs:
        tasks, goals = envs.episodes.peek()
        official = [
            OfficialEnv(suite.spec.task_names[task], suite.goals[task], reward_function, hidden) for task in tasks
        ]
        observation = envs.reset()
        successes = np.zeros(num_envs, bool)
        for slot, env in enumerate(official):
            np.testing.assert_array_equal(observation[slot], env.reset(goals[slot]))
        assert ((observation[:, -3:] == 0).all(axis=1) == hidden).all()
        for number, action in enumerate(actions, start=1):
            _, next_goals = envs.episodes.peek()
            step = envs.step(action)
            for slot, env in enumerate(official):
                expected, reward, _, truncated, info = env.env.step(action[slot])
                np.testing.assert_array_equal(step.final_observation[slot], expected.astype(np.float32))
                assert step.reward[slot] == np.float32(reward)
                assert step.truncated[slot] == truncated == (number == 500)
                assert not step.terminated[slot]
                successes[slot] |= info["success"] == 1.0
                if truncated:
                    expected = env.reset(next_goals[slot])
                np.testing.assert_array_equal(step.observation[slot], expected.astype(np.float32))
            assert [episode.success for episode in step.episodes] == (successes.tolist() if number == 500 else [])


def reach_goals(mode: Mode) -> list[EnvStep]:
    """Steps of the scripted policy on two goals of reach, until both slots have ended an episode."""
    suite = MetaWorld("mt1-reach", CONFIG, 1)
    policy, episodes = SawyerReachV3Policy(), ListedEpisodes([[(0, 7)], [(0, 8)]])
    steps: list[EnvStep] = []
    with suite.make_envs(2, episodes, mode=mode, num_workers=1, worker_timeout=60) as envs:
        observation = envs.reset()
        while (envs.task_ids != -1).any():
            action = np.array([policy.get_action(row) for row in observation], np.float32)
            steps.append(envs.step(np.clip(action, -1, 1)))
            observation = steps[-1].observation
    return steps


def test_success_ends_an_episode_in_an_evaluation_only() -> None:
    evaluated, trained = reach_goals("evaluate"), reach_goals("train")
    ended = {episode.slot: episode for step in evaluated for episode in step.episodes}
    assert all(episode.success and episode.length < 200 for episode in ended.values())
    assert sum(step.terminated.sum() for step in evaluated) == 2
    for episode in trained[-1].episodes:
        assert (episode.length, episode.success) == (500, True)
        before_success = [step.reward[episode.slot] for step in trained[: ended[episode.slot].length]]
        assert ended[episode.slot].return_ == pytest.approx(sum(map(float, before_success)), rel=1e-12)


def test_a_reset_draws_nothing_and_forgets_what_was_played() -> None:
    suite = MetaWorld("mt3", CONFIG, 1)
    factory = MetaWorldFactory(
        task_names=suite.spec.task_names, goals=suite.goals, reward_function="v2", end_at_success=False
    )
    before = np.random.get_state()[1].copy()
    for task in range(3):
        used, fresh = factory(), factory()
        for goal in (4, 9):
            used.begin(task, goal)
            for action in draw_actions(30, 1)[:, 0]:
                used.step(action)
        np.testing.assert_array_equal(used.begin(task, 2), fresh.begin(task, 2))
        for action in draw_actions(20, 1)[:, 0]:
            one, other = used.step(action), fresh.step(action)
            np.testing.assert_array_equal(one.observation, other.observation)
            assert one[1:] == other[1:]
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_slots_change_tasks_and_share_idle_environments() -> None:
    suite = MetaWorld("mt3", CONFIG, 1)
    factory = MetaWorldFactory(
        task_names=suite.spec.task_names, goals=suite.goals, reward_function="v2", end_at_success=False
    )
    one, other = factory(), factory()
    first = one.begin(0, 0)
    environment = one._env
    one.begin(1, 0)
    np.testing.assert_array_equal(other.begin(0, 0), first)
    assert other._env is environment
    for task in (0, 1, 2, 0, 1, 2):
        one.begin(task, 0)
    assert len(factory._stock._idle) <= 3


def test_the_seed_decides_which_goals_are_played() -> None:
    suite = MetaWorld("mt3", CONFIG, 1)
    played = {seed: RandomEpisodes(suite.spec, 3, seed).peek()[1].tolist() for seed in (0, 1, 2)}
    assert len({tuple(goals) for goals in played.values()}) == 3
    assert len(set(played[1])) > 1, "the tasks share one stream"


@pytest.mark.parametrize("name", ["mt3", pytest.param("mt50", marks=pytest.mark.full)])
def test_a_resumed_run_goes_on_bit_for_bit_in_mid_episode(name: str) -> None:
    suite = MetaWorld(name, CONFIG, 1)
    actions = draw_actions(80, suite.spec.num_tasks)
    with make_envs(suite, num_workers=2) as envs:
        envs.reset()
        for action in actions[:40]:
            observation = envs.step(action).observation
        state = envs.state()
        expected = [envs.step(action) for action in actions[40:]]
    with make_envs(suite, num_workers=1) as envs:
        np.testing.assert_array_equal(envs.load_state(state), observation)
        for action, step in zip(actions[40:], expected, strict=True):
            resumed = envs.step(action)
            np.testing.assert_array_equal(resumed.observation, step.observation)
            np.testing.assert_array_equal(resumed.reward, step.reward)


@pytest.mark.slow
def test_a_reset_that_never_ends_is_named() -> None:
    suite = MetaWorld("mt1-reach", CONFIG, 1)
    # Object and goal in one place break the task's distance rule: it draws the frozen goal again, for ever.
    factory = MetaWorldFactory(
        task_names=suite.spec.task_names,
        goals=tuple(np.zeros_like(goals) for goals in suite.goals),
        reward_function="v2",
        end_at_success=False,
    )
    episodes = RandomEpisodes(suite.spec, 1, seed=1)
    with (
        WorkerPool(suite.spec, 1, episodes, factory, num_workers=1, worker_timeout=6) as envs,
        pytest.raises(WorkerFailure, match=r"at task reach-v3 in slot 0 did not answer for 6 s\n(.*\n)*.*reset_model"),
    ):
        envs.reset()


def test_a_simulator_that_cannot_be_imported_is_named() -> None:
    MetaWorld("mt1-reach", CONFIG, 1)
    program = (
        "from envs.metaworld.suite import MetaWorld\nfrom mtrl.env.episodes import RandomEpisodes\n"
        "suite = MetaWorld('mt1-reach', MetaWorld.Config(), 1)\n"
        "episodes = RandomEpisodes(suite.spec, 1, 1)\n"
        "suite.make_envs(1, episodes, mode='train', num_workers=1, worker_timeout=60).reset()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "MUJOCO_GL": "nonsense"},
    )
    assert "WorkerFailure: environment worker 0" in result.stderr
    assert "invalid value for environment variable MUJOCO_GL: nonsense" in result.stderr


@pytest.mark.full
def test_fifty_environments_take_at_most_60_megabytes_each() -> None:
    suite = MetaWorld("mt50", CONFIG, 1)
    with make_envs(suite, num_workers=2) as envs:
        envs.reset()
        workers = [worker.process.pid for worker in envs._group._workers]
        taken = sum(psutil.Process(worker).memory_info().rss for worker in workers)
    assert taken / 50 < 60e6, f"{taken / 50e6:.0f} MB for each environment"


def test_the_user_chooses_where_goals_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTRL_CACHE_DIR", "/a")
    assert goal_store.cache_folder() == Path("/a/goals")
    monkeypatch.delenv("MTRL_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert goal_store.cache_folder() == Path("/b/mtrl/goals")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert goal_store.cache_folder() == Path(os.path.expanduser("~/.cache/mtrl/goals"))


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME and without an entry in the passwd file, as in `docker run --user`."""
    for name in ("MTRL_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.usefixtures("no_home")
def test_a_user_without_a_home_computes_the_goals_in_every_run() -> None:
    assert goal_store.cache_folder() is None
    assert len(goal_store.benchmark_goals("MT1-reach-v3", 1)["reach-v3"]) == 50
    assert dict(MetaWorld.diagnose())["goals cache"].startswith("none: no HOME")


def test_doctor_asks_what_renders_and_where_the_goals_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTRL_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("MUJOCO_GL", "egl")
    found = dict(MetaWorld.diagnose())
    assert found["rendering"].endswith("MUJOCO_GL egl")
    assert found["goals cache"] == f"{tmp_path}/goals (empty so far)"
    MetaWorld("mt1-reach", CONFIG, 1)
    assert dict(MetaWorld.diagnose())["goals cache"] == f"{tmp_path}/goals (1 file)"


def test_results_depend_on_the_recorded_packages() -> None:
    assert set(MetaWorld.packages) == {"metaworld", "mujoco"} < set(MetaWorld("mt3", CONFIG, 1).spec.settings)
