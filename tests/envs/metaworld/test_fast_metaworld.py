"""The fast Meta-World classes compute the same bits as the official ones."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import metaworld.policies
import mujoco
import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.types import Task
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

from envs.metaworld import fast
from envs.metaworld.suite import MetaWorld

TASKS = list(ALL_V3_ENVIRONMENTS)
HORIZON = 500


@pytest.fixture(scope="module")
def goals() -> dict[str, np.ndarray]:
    """Of each task the official 50 goal vectors."""
    suite = MetaWorld("mt50", MetaWorld.Config(), seed=1)
    return dict(zip(suite.spec.task_names, suite.goals, strict=True))


def bits(value: Any) -> tuple[str, bytes]:
    """Type and memory: a float32 that equals a float64 goes on to round differently."""
    return type(value).__name__, np.asarray(value).tobytes()


def step_bits(step: tuple) -> list:
    observation, reward, terminated, truncated, info = step
    named = [(name, bits(value)) for name, value in info.items()]
    return [bits(observation), bits(reward), terminated, truncated, *named]


def play_both(task: str, vectors: np.ndarray, *, episodes: int, steps: int, seed: int = 0) -> int:
    """Plays an official and a fast environment side by side and compares all; returns the number of successful steps.

    Goals change from episode to episode, random actions take turns with the scripted policy, V2 rewards with V1.
    """
    official = ALL_V3_ENVIRONMENTS[task](reward_function_version="v2")
    generator = np.random.default_rng([seed, TASKS.index(task)])
    # The quick one's model is copied from one in use, with the objects where another goal has them.
    make = fast.fast_class(ALL_V3_ENVIRONMENTS[task])
    used = make(reward_function_version="v2")
    data = {"rand_vec": vectors[generator.integers(50)], "env_cls": ALL_V3_ENVIRONMENTS[task]}
    used.set_task(Task(env_name=task, data=pickle.dumps(data | {"partially_observable": False})))
    used.reset()
    quick = make(reward_function_version="v2")
    policy = metaworld.policies.ENV_POLICY_MAP[task]()
    successes = 0
    for episode in range(episodes):
        data = {"rand_vec": vectors[generator.integers(50)], "env_cls": ALL_V3_ENVIRONMENTS[task]}
        goal = Task(env_name=task, data=pickle.dumps(data | {"partially_observable": episode == 1}))
        for env in (official, quick):
            env.set_task(goal)
            env.reward_function_version = "v1" if episode % 4 in (1, 2) else "v2"
        observation, _ = official.reset()
        assert quick.reset()[0].tobytes() == observation.tobytes(), f"first observation of episode {episode}"
        for step in range(steps):
            if episode % 2:
                action = generator.uniform(-1, 1, 4).astype(np.float32)
            else:
                action = np.clip(policy.get_action(observation), -1, 1).astype(np.float32)
            expected, actual = official.step(action), quick.step(action)
            assert step_bits(actual) == step_bits(expected), f"step {step} of episode {episode}"
            observation = expected[0]
            successes += int(expected[4]["success"])
    return successes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Constant")
@pytest.mark.parametrize("task", TASKS)
def test_episodes_equal_the_official_ones(task: str, goals: dict[str, np.ndarray]) -> None:
    play_both(task, goals[task], episodes=4, steps=25)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:Constant")
@pytest.mark.parametrize("task", TASKS)
def test_whole_episodes_equal_the_official_ones(task: str, goals: dict[str, np.ndarray]) -> None:
    successes = play_both(task, goals[task], episodes=8, steps=HORIZON, seed=1)
    assert successes, "no episode reached the rewards near success"


def test_goals_drawn_at_reset_are_drawn_as_often() -> None:
    """The official reset draws twice, so the goal of an environment that is not frozen depends on it."""
    ours, theirs = (make(reward_function_version="v2") for make in _both("push-v3"))
    for env in (ours, theirs):
        env.set_task(_any_task("push-v3"))
        env._freeze_rand_vec, env.seeded_rand_vec = False, True
        env.seed(3)
    for _ in range(3):
        assert ours.reset()[0].tobytes() == theirs.reset()[0].tobytes()


def test_tolerance_equals_the_official_one() -> None:
    generator = np.random.default_rng(1)
    for case in range(20_000):
        x = generator.normal() * 10 ** generator.uniform(-8, 3)
        lower, upper = sorted(generator.normal(size=2) * 0.1)
        lower, upper = [(lower, upper), (0, abs(upper)), (lower, np.inf), (lower, lower)][case % 4]
        margin = abs(generator.normal()) * 10 ** generator.uniform(-5, 1) if case % 9 else 0.0
        of_type = (float, np.float64, np.asarray)[case % 3]
        arguments = {"bounds": (lower, upper), "margin": margin, "sigmoid": ("long_tail", "gaussian")[case % 2]}
        assert bits(fast._tolerance(of_type(x), **arguments)) == bits(reward_utils.tolerance(of_type(x), **arguments))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x in (np.inf, -np.inf, np.nan, 1e200, np.float64(-1e308)):
            for sigmoid in ("long_tail", "gaussian", "linear"):
                ours, theirs = (
                    tolerance(x, bounds=(0, 0.1), margin=0.5, sigmoid=sigmoid)
                    for tolerance in (fast._tolerance, reward_utils.tolerance)
                )
                assert bits(ours) == bits(theirs)
    with pytest.raises(ValueError, match="must be non-negative"):
        fast._tolerance(0.5, margin=-1.0, sigmoid="long_tail")
    with pytest.raises(ValueError, match="Lower bound"):
        fast._tolerance(0.5, bounds=(1, 0), sigmoid="long_tail")


def test_norm_equals_numpys() -> None:
    generator = np.random.default_rng(2)
    for _ in range(5_000):
        vector = generator.normal(size=6) * 10 ** generator.uniform(-8, 3)
        for x in (vector[:3], vector[::2], vector[:2], vector[0], vector.astype(np.float32), vector.reshape(2, 3)):
            assert bits(fast._norm(x)) == bits(np.linalg.norm(x))
    assert bits(fast._norm(vector, ord=2)) == bits(np.linalg.norm(vector, ord=2))
    assert bits(fast._norm(vector, ord=1)) == bits(np.linalg.norm(vector, ord=1))


def test_quaternions_equal_scipys() -> None:
    generator = np.random.default_rng(3)
    for case in range(5_000):
        quaternion = generator.normal(size=4)
        if case % 3 == 0:
            quaternion = np.eye(4)[generator.integers(4)] + 1e-9 * quaternion
        if case % 5 == 0:
            quaternion[generator.integers(4)] = 0
        mujoco.mju_normalize4(quaternion)
        matrix = np.empty(9)
        mujoco.mju_quat2Mat(matrix, quaternion)
        expected = Rotation.from_matrix(matrix.reshape(3, 3)).as_quat()
        assert fast._QuickRotation.from_matrix(matrix.reshape(3, 3)).as_quat().tobytes() == expected.tobytes()


def test_another_version_runs_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "version", lambda name: "3.1.2")
    fast._is_known_version.cache_clear()
    with pytest.warns(UserWarning, match=r"metaworld 3\.1\.2 runs unchanged"):
        assert fast.environment_class("reach-v3") is ALL_V3_ENVIRONMENTS["reach-v3"]
    monkeypatch.undo()
    fast._is_known_version.cache_clear()
    assert fast.environment_class("reach-v3") is fast.fast_class(ALL_V3_ENVIRONMENTS["reach-v3"])


def test_the_official_classes_stay_untouched() -> None:
    """Somebody else's environments in this process are theirs."""
    before = dict(vars(ALL_V3_ENVIRONMENTS["push-v3"]))
    tolerance, norm = reward_utils.tolerance, np.linalg.norm
    fast.fast_class(ALL_V3_ENVIRONMENTS["push-v3"])
    assert vars(ALL_V3_ENVIRONMENTS["push-v3"]) == before
    assert reward_utils.tolerance is tolerance
    assert np.linalg.norm is norm


def test_environments_of_a_task_parse_its_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    parse = mujoco.MjModel.from_xml_path
    monkeypatch.setattr(mujoco.MjModel, "from_xml_path", lambda path: parsed.append(path) or parse(path))
    make = fast.fast_class(ALL_V3_ENVIRONMENTS["window-open-v3"])
    first, second = make(), make()
    assert len(parsed) == 1
    assert first.model is not second.model, "each changes its model at reset"


def _both(task: str) -> tuple[type, type]:
    return fast.fast_class(ALL_V3_ENVIRONMENTS[task]), ALL_V3_ENVIRONMENTS[task]


def _any_task(name: str) -> Task:
    data = {"rand_vec": np.zeros(6), "env_cls": ALL_V3_ENVIRONMENTS[name], "partially_observable": False}
    return Task(env_name=name, data=pickle.dumps(data))
