"""Lists of Gymnasium environments as suites: their spaces, their protocol, and what is refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from toy_environments import register_toy

from envs.gymnasium_suite.slot_env import episode_seed
from envs.gymnasium_suite.suite import GymnasiumSuite
from mtrl.env.episodes import ListedEpisodes, RandomEpisodes
from mtrl.env.suite import find_suite
from mtrl.env.vector_env import MultiTaskVectorEnv
from mtrl.errors import BadInput
from mtrl.registry import trust_module
from mtrl.testing import check_suite


def suite(name: str, **config: Any) -> GymnasiumSuite:
    return GymnasiumSuite(name, GymnasiumSuite.Config(**config), 1)


def listed(made: GymnasiumSuite, *episodes: tuple[int, int], num_workers: int = 0) -> MultiTaskVectorEnv:
    """A slot for each of the episodes (task, variation)."""
    lists = ListedEpisodes([[episode] for episode in episodes])
    return made.make_envs(len(episodes), lists, mode="train", num_workers=num_workers, worker_timeout=30.0)


@pytest.mark.parametrize(
    "name",
    ["gym:CartPole-v1,Acrobot-v1", "gym:Pendulum-v1", "gym:ToyTwo-v0,ToyThree-v0", "gym:ToyBox-v0,b=ToyUnit-v0"],
)
def test_the_contract_of_suites_is_kept(name: str) -> None:
    assert find_suite(name) is GymnasiumSuite
    check_suite(GymnasiumSuite, name, num_steps=25)


def test_the_contract_is_kept_by_workers_with_modules_and_wrappers() -> None:
    trust_module("toy_environments")
    config = GymnasiumSuite.Config(import_=("toy_environments",), wrappers=("toy_environments:half",))
    check_suite(GymnasiumSuite, "gym:ToyTwo-v0,ToyThree-v0", config, num_workers=2)


def test_observations_are_padded_with_zeros_and_discrete_actions_masked() -> None:
    made = suite("gym:CartPole-v1,Acrobot-v1")
    spec = made.spec
    assert (spec.observation_space.shape, spec.observation_space.dtype) == ((6,), np.float32)
    assert spec.action_space == gym.spaces.Discrete(3)
    assert spec.action_mask is not None
    assert spec.action_mask.tolist() == [[True, True, False], [True, True, True]]
    with listed(made, (0, 7), (1, 7)) as envs:
        observation = envs.reset()
        step = envs.step(np.array([1, 2]))
    cart, acrobot = gym.make("CartPole-v1"), gym.make("Acrobot-v1")
    expected = [cart.reset(seed=episode_seed(7))[0], acrobot.reset(seed=episode_seed(7))[0]]
    assert observation.tolist() == [[*expected[0].tolist(), 0.0, 0.0], expected[1].tolist()]
    assert step.observation[0].tolist() == [*cart.step(1)[0].tolist(), 0.0, 0.0]
    assert step.observation[1].tolist() == acrobot.step(2)[0].tolist()
    assert step.reward.tolist() == [1.0, -1.0]


def test_boxes_are_scaled_to_unit_bounds_and_padded() -> None:
    made = suite(f"gym:a={register_toy(action='box')},b={register_toy(action='unit')}")
    assert made.spec.action_space == gym.spaces.Box(-1, 1, (3,), np.float32)
    assert made.spec.action_mask is None
    with listed(made, (0, 0), (1, 0)) as envs:
        envs.reset()
        for action in ([-1, -1, 9], [1, 1, 9], [0.5, 0, 9], [3, -3, 0.25]):
            envs.step(np.array([action, action], np.float32))
        slots = envs._group._runner._envs  # type: ignore[attr-defined]
        played = [slots[slot].environment.played for slot in (0, 1)]
    assert np.array(played[0]).tolist() == [[0, -4], [2, 4], [1.5, 0], [2, -4]]
    assert np.array(played[1]).tolist() == [[-1, -1, 1], [1, 1, 1], [0.5, 0, 1], [1, -1, 0.25]]


def test_discrete_actions_may_begin_anywhere_and_observations_are_flattened() -> None:
    made = suite(f"gym:{register_toy(observation='dict', action='from one')}")
    assert made.spec.observation_space.shape == (5,)
    with listed(made, (0, 0)) as envs:
        observation = envs.reset()
        assert sorted(observation[0, 2:].tolist()) == [0, 0, 1]  # `room`, one-hot
        envs.step(np.array([0]))
        envs.step(np.array([2]))
        assert envs._group._runner._envs[0].environment.played == [1, 3]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("observation", "shape"), [("number", (3,)), ("matrix", (4,)), ("codes", (147,)), ("dict", (5,)), ("vector", (3,))]
)
def test_what_gymnasium_flattens_becomes_a_vector(observation: str, shape: tuple[int, ...]) -> None:
    space = suite(f"gym:{register_toy(observation=observation)}").spec.observation_space
    assert (space.shape, space.dtype) == (shape, np.float32)


@pytest.mark.parametrize(("kind", "channels"), [("image", 3), ("channels first", 3), ("grey", 1)])
def test_pixels_have_their_channels_first(kind: str, channels: int) -> None:
    name = register_toy(observation=kind)
    made = suite(f"gym:{name}")
    space = made.spec.observation_space
    assert (space.shape, space.dtype) == ((channels, 40, 48), np.uint8)
    with listed(made, (0, 3)) as envs:
        found = envs.reset()[0]
    pixels, _ = gym.make(name).reset(seed=episode_seed(3))
    expected = pixels.transpose(2, 0, 1) if kind == "image" else pixels.reshape(space.shape)
    assert np.array_equal(found, expected)


def test_one_environment_with_several_arguments_is_several_tasks() -> None:
    made = suite(
        "gym:light=Pendulum-v1,heavy=Pendulum-v1", env_kwargs={"g": 3.0, "heavy": {"g": 10.0, "max_episode_steps": 7}}
    )
    assert made.spec.name == "gym:light=Pendulum-v1,heavy=Pendulum-v1"
    assert made.spec.task_names == ("light", "heavy")
    assert [task.max_episode_steps for task in made.spec.tasks] == [200, 7]
    assert [recipe.make().unwrapped.g for recipe in made.recipes] == [3.0, 10.0]  # type: ignore[attr-defined]
    assert made.spec.settings["env_kwargs"] == {"g": 3.0, "heavy": {"g": 10.0, "max_episode_steps": 7}}


def test_a_time_limit_is_the_registered_one_or_has_to_be_given() -> None:
    endless = register_toy(limit=None)
    with pytest.raises(BadInput, match=r"without a time limit; add --suite\.max-episode-steps N"):
        suite(f"gym:{endless}")
    made = suite(f"gym:{endless},ToyTwo-v0", max_episode_steps=4)
    assert [task.max_episode_steps for task in made.spec.tasks] == [4, 4]
    with listed(made, (0, 0)) as envs:
        envs.reset()
        ends = [envs.step(np.array([0])) for _ in range(4)]
    assert [bool(step.truncated[0]) for step in ends] == [False, False, False, True]
    assert not any(step.terminated[0] for step in ends)


@pytest.mark.parametrize("key", ["success", "is_success"])
def test_success_is_the_score_where_every_environment_reports_it(key: str) -> None:
    reporting = register_toy(success=key)
    made = suite(f"gym:{reporting}")
    assert made.spec.score == "success"
    with listed(made, (0, 0)) as envs:
        envs.reset()
        finished = [episode for _ in range(5) for episode in envs.step(np.array([0])).episodes]
    assert [episode.success for episode in finished] == [True]  # at its second step
    assert suite(f"gym:{reporting},ToyTwo-v0").spec.score == "return"
    assert suite(f"gym:{reporting}", score="return").spec.score == "return"


def test_elsewhere_a_success_is_an_episode_of_the_target_return() -> None:
    made = suite("gym:ToyTwo-v0,b=ToyTwo-v0,c=ToyTwo-v0", target_returns={"ToyTwo-v0": 5.0, "b": 5.5})
    assert made.spec.score == "return"
    assert [task.target_return for task in made.spec.tasks] == [5.0, 5.5, None]
    with listed(made, (0, 0), (1, 0), (2, 0)) as envs:
        envs.reset()
        finished = [episode for _ in range(5) for episode in envs.step(np.array([0, 0, 0])).episodes]
    assert [(episode.return_, episode.success) for episode in finished] == [(5, True), (5, False), (5, False)]


def test_target_returns_are_the_registered_thresholds_and_references_are_optional() -> None:
    made = suite("gym:CartPole-v1", random_returns={"CartPole-v1": 20.0}, human_returns={"CartPole-v1": 300.0})
    (task,) = made.spec.tasks
    assert (task.target_return, task.random_return, task.human_return) == (475.0, 20.0, 300.0)
    assert made.spec.target_scores is not None
    with pytest.raises(BadInput, match=r"suite.human_returns: the suite has no task 'Cart-v1' \(did you mean"):
        suite("gym:CartPole-v1", human_returns={"Cart-v1": 300.0})


@pytest.mark.parametrize(
    ("random", "human", "message"),
    [
        ({"CartPole-v1": 500.0}, {"CartPole-v1": 500.0}, "'CartPole-v1' must not be its random return, 500"),
        ({"CartPole-v1": 20.0}, {}, "suite.human_returns: task 'CartPole-v1' is missing"),
        ({}, {"CartPole-v1": 500.0}, "suite.random_returns: task 'CartPole-v1' is missing"),
        ({"CartPole-v1": 20.0}, {"CartPole-v1": 500.0}, "suite.random_returns: task 'b' is missing"),
    ],
)
def test_references_that_normalize_nothing_are_refused(
    random: dict[str, float], human: dict[str, float], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        suite("gym:CartPole-v1,b=CartPole-v1", random_returns=random, human_returns=human)


def test_success_is_no_score_where_no_episode_can_be_one() -> None:
    with pytest.raises(BadInput, match=r"no episode of task 'b' can be a success.*--suite\.target-returns b RETURN"):
        suite("gym:ToyTwo-v0,b=ToyTwo-v0", score="success", target_returns={"ToyTwo-v0": 5.0})
    assert suite("gym:ToyTwo-v0", score="success", target_returns={"ToyTwo-v0": 5.0}).spec.score == "success"
    assert suite(f"gym:{register_toy(success='success')}", score="success").spec.score == "success"


def test_an_episode_does_not_depend_on_the_number_of_workers() -> None:
    made = suite("gym:CartPole-v1,Acrobot-v1")
    played = []
    for num_workers in (0, 1, 3):
        episodes = RandomEpisodes(made.spec, 4, 1)
        with made.make_envs(4, episodes, mode="train", num_workers=num_workers, worker_timeout=30.0) as envs:
            rows = [envs.reset()]
            rows += [envs.step(np.array([step % 2] * 4)).observation for step in range(40)]
        played.append(np.stack(rows))
    assert played[0].tobytes() == played[1].tobytes() == played[2].tobytes()


def test_episodes_are_replayed_where_two_tries_agree_and_nowhere_else() -> None:
    def replays(name: str, **config: Any) -> bool:
        return listed(suite(name, **config), (0, 0)).replays_exactly

    forgetful, remembering = register_toy(), register_toy(remembers=True)
    assert replays(f"gym:{forgetful}")
    assert not replays(f"gym:{remembering}")
    assert not replays(f"gym:{forgetful},{remembering}")
    assert replays(f"gym:{remembering}", exact_resume="always")
    assert not replays(f"gym:{forgetful}", exact_resume="never")


@pytest.mark.parametrize(
    ("name", "fragments"),
    [
        ("gym:", ("a task has no name",)),
        ("gym:CartPole-v1,", ("a task has no name",)),
        ("gym:CartPole-v1,CartPole-v1", ("twice", "CartPole-v1-a=CartPole-v1")),
        ("gym:my_envs:Drawer-v0", ("'Drawer-v0'", "--suite.import my_envs")),
        ("gym:ALE/Pong-v9", ("did you mean the suite atari:ALE/Pong-v9?", "--suite.import MODULE")),
        ("gym:Cartpole-v1", ("'Cartpole-v1' is not registered (did you mean 'CartPole-v1'?)", "--suite.import MODULE")),
        ("gym:CartPole-v1,Pendulum-v1", ("'CartPole-v1' has discrete", "'Pendulum-v1' continuous")),
        ("gym:{image},CartPole-v1", ("pixels", "'CartPole-v1' has numbers")),
        ("gym:{image},{large}", ("(3, 40, 48)", "(3, 64, 64)", "gymnasium.wrappers.ResizeObservation")),
        ("gym:{custom}", ("observations Dict (with 'note' Space)", "gymnasium.wrappers.FilterObservation")),
        ("gym:{endless}", ("actions Box", "without finite bounds", "gymnasium.wrappers.TransformAction")),
        ("gym:{whole}", ("whole numbers", "gymnasium.wrappers.TransformAction")),
        ("gym:{several}", ("MultiDiscrete([2 3]), neither", "gymnasium.wrappers.TransformAction")),
        ("gym:{unmade}", ("cannot be made: TypeError", "no_such_argument")),
        ("gym:{raising}", ("cannot be played: Toy (", "toy_environments.py:", "LookupError: the drawer is stuck")),
    ],
)
def test_what_cannot_be_in_one_suite_is_refused_in_one_line(name: str, fragments: tuple[str, ...]) -> None:
    toys = {
        "image": {"observation": "image"},
        "large": {"observation": "large image"},
        "custom": {"observation": "custom"},
        "endless": {"action": "endless"},
        "whole": {"action": "whole"},
        "several": {"action": "several"},
        "unmade": {"no_such_argument": 1},
        "raising": {"fault": "raises", "fault_step": 1},
    }
    filled = name.format(**{key: register_toy(**own) for key, own in toys.items() if f"{{{key}}}" in name})
    with pytest.raises(BadInput) as refused:
        suite(filled)
    for fragment in fragments:
        assert fragment in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ToyTwo-v0": 3}, "ToyTwo-v0 is a task, so its value must be a mapping, not 3"),
        ({"ToyTwo-v1": {"reward": 2.0}}, r"'ToyTwo-v1' is neither an argument's name nor a task \(did you mean"),
    ],
)
def test_arguments_belong_to_all_tasks_or_to_one(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        suite("gym:ToyTwo-v0", env_kwargs=arguments)


def test_a_video_is_drawn_by_the_environment() -> None:
    made = suite("gym:ToyTwo-v0,b=ToyTwo-v0", target_returns={"b": 5.0})
    frames, return_, success = made.render_episode(1, 0, lambda observation: np.int64(observation.shape == (3,)))
    assert [frame[0, 0, 0] for frame in frames] == [0, 1, 2, 3, 4, 5]
    assert return_ == 5
    assert success
    assert not made.render_episode(0, 0, lambda observation: np.int64(0)).success


def test_what_cannot_be_drawn_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    made = suite("gym:ToyTwo-v0")
    monkeypatch.setattr("toy_environments.Toy.render", lambda self: None)
    with pytest.raises(BadInput, match="gives NoneType in place of a picture"):
        made.render_episode(0, 0, lambda observation: np.int64(0))
    monkeypatch.setattr("toy_environments.Toy.render", lambda self: 1 / 0)
    with pytest.raises(BadInput, match="task 'ToyTwo-v0' cannot be drawn: ZeroDivisionError"):
        made.render_episode(0, 0, lambda observation: np.int64(0))
