"""An evaluation plays what it says, counts it right and leaves no trace. Shapes: M tasks, E episodes per task."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.ppo import PPO
from agents.sac import SAC
from envs.point_mass import PointMass
from mtrl.agent import Agent
from mtrl.env.episodes import EpisodeSource
from mtrl.env.suite import Mode, Suite
from mtrl.env.vector_env import MultiTaskVectorEnv, RawStep
from mtrl.evaluation import evaluator as evaluator_module
from mtrl.evaluation.evaluator import EvaluationResult, EvaluationStopped, Evaluator, evaluate
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.generators import global_generators_untouched
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from mtrl.types import ActionStep, SuiteSpec, TaskSpec
from tests.env.counting import counting_suite

SAC_CONFIG = SAC.Config(batch_size=16, learning_starts=20)


def point_mass(name: str = "point-mass") -> PointMass:
    return PointMass(name, PointMass.Config(), 1)


def sac(suite: Suite) -> Agent:
    agent = make_agent(SAC, SAC_CONFIG, suite.spec)
    with torch.no_grad():  # new output layers are near zero, and all actions alike
        for parameter in agent.policy.parameters():
            parameter.mul_(30)
    return agent


@pytest.mark.parametrize("name", ["point-mass", "point-mass-discrete"])
def test_the_numbers_do_not_depend_on_how_many_slots_play(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = point_mass(name)
    agent, results = sac(suite), []
    for slots in (1, 10, 12, 40):
        monkeypatch.setattr(evaluator_module, "MIN_SLOTS", slots)
        results.append(evaluate(agent, suite, 7, seed=1, num_workers=0))
    for result in results[1:]:
        assert leaves(result) == leaves(results[0])
    assert results[0].returns.std() > 0


class Recorded(Suite):
    """A suite whose episodes are noted as they end."""

    def __init__(self, suite: Suite):
        self.spec = suite.spec
        self.suite = suite
        self.episodes: list[tuple[int, int]] = []

    def make_envs(self, num_envs: int, episodes: EpisodeSource, **rest: Any) -> MultiTaskVectorEnv:
        envs = self.suite.make_envs(num_envs, episodes, **rest)
        recv = envs.recv

        def recorded() -> Any:
            step = recv()
            self.episodes += [(episode.task, episode.variation) for episode in step.episodes]
            return step

        envs.recv = recorded  # type: ignore[method-assign]
        return envs


@pytest.mark.parametrize("slots", [1, 12, 30])
def test_every_variation_of_every_task_is_played_once(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator_module, "MIN_SLOTS", slots)
    suite = Recorded(point_mass())
    evaluate(sac(suite.suite), suite, 25, seed=1, num_workers=0)
    assert Counter(suite.episodes) == Counter((task, variation) for task in range(4) for variation in range(25))


def test_fewer_episodes_are_spread_over_the_variations_and_more_go_round() -> None:
    for episodes, expected in ((5, [0, 5, 10, 15, 20]), (1, [0]), (30, [*range(25), *range(5)])):
        suite = Recorded(point_mass("point-mass-conflict"))
        evaluate(sac(suite.suite), suite, episodes, seed=1, num_workers=0)
        assert Counter(suite.episodes) == Counter((task, variation) for task in range(2) for variation in expected)


def test_unlimited_variations_follow_from_the_seed() -> None:
    suite = counting_suite(num_variations=None)
    agent, played = make_agent(SAC, SAC_CONFIG, suite.spec), []
    for seed in (1, 1, 2):
        recorded = Recorded(suite)
        evaluate(agent, recorded, 20, seed=seed, num_workers=0)
        played.append(Counter(recorded.episodes))
    assert played[0] == played[1]
    assert not played[0] & played[2]


class ProbeSuite(Suite):
    """Every variation of a task has a plan: the steps of the episode with success, and its length."""

    suite_names: ClassVar[Mapping[str, str]] = {}

    def __init__(self, plans: list[list[tuple[tuple[int, ...], int]]]):
        self.plans = plans
        self.spec = SuiteSpec(
            name="probe",
            tasks=tuple(
                TaskSpec(name=f"probe-{index}", index=index, max_episode_steps=500, num_variations=len(own))
                for index, own in enumerate(plans)
            ),
            observation_space=gym.spaces.Box(-1, 1, (1,), np.float32),
            action_space=gym.spaces.Box(-1, 1, (1,), np.float32),
            protocol="probe",
        )

    def make_envs(
        self, num_envs: int, episodes: EpisodeSource, *, mode: Mode, num_workers: int, worker_timeout: float
    ) -> MultiTaskVectorEnv:
        return ProbeEnvs(self, num_envs, episodes)


class ProbeEnvs(MultiTaskVectorEnv):
    """Plays the plans of a probe suite."""

    def __init__(self, suite: ProbeSuite, num_envs: int, episodes: EpisodeSource):
        super().__init__(suite.spec, num_envs, episodes)
        self.suite = suite
        self.step_of_episode = np.zeros(num_envs, np.int64)

    def _start(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
        self.playing, self.variations = tasks.copy(), variations.copy()
        self.step_of_episode[:] = 0
        return np.zeros((self.num_envs, 1), np.float32)

    def _send(self, action: np.ndarray, next_tasks: np.ndarray, next_variations: np.ndarray) -> None:
        self.coming = next_tasks, next_variations

    def _recv(self) -> RawStep:
        self.step_of_episode += 1
        success, ended = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        for slot in np.flatnonzero(self.playing >= 0):
            at, length = self.suite.plans[self.playing[slot]][self.variations[slot]]
            success[slot] = self.step_of_episode[slot] in at
            ended[slot] = self.step_of_episode[slot] == length
        self.playing[ended], self.variations[ended] = self.coming[0][ended], self.coming[1][ended]
        self.step_of_episode[ended] = 0
        nothing = np.zeros((self.num_envs, 1), np.float32)
        return RawStep(nothing, np.ones(self.num_envs, np.float32), ended & False, ended, success, nothing)

    def _replay(self, tasks: np.ndarray, variations: np.ndarray, actions: list[np.ndarray]) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Still(Agent):
    """Does nothing; can be told what to do instead when it is asked to act."""

    rollout_steps = 1
    buffer_size = 1

    def __init__(self, spec: SuiteSpec, when_acting: Callable[[], None] = lambda: None):
        torch.nn.Module.__init__(self)
        self.spec = spec
        self.when_acting = when_acting
        self.frozen = torch.nn.Dropout()
        self.frozen.eval()
        self.trained = torch.nn.Dropout()

    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        assert not explore
        assert not self.training
        self.when_acting()
        return ActionStep(np.zeros((len(observation), *(self.spec.action_space.shape or ())), np.float32))

    def update(self, buffer: Any, task_weights: Any) -> dict[str, Any]:
        raise NotImplementedError

    def groups(self) -> dict[str, Any]:
        return {}

    def streams(self) -> dict[str, torch.Generator]:
        return {}


def played(plans: list[list[tuple[tuple[int, ...], int]]], episodes: int) -> EvaluationResult:
    suite = ProbeSuite(plans)
    return evaluate(Still(suite.spec), suite, episodes, seed=1, num_workers=0)


def test_success_at_any_step_of_an_episode_counts() -> None:
    reached_and_left, never, at_the_last_step, late, all_along = ((3,), 9), ((), 9), ((9,), 9), ((5, 6), 9), ((1,), 1)
    plans = [[reached_and_left], [never], [at_the_last_step], [late], [all_along]]
    result = played(plans, 4)
    assert result.success_rates.tolist() == [1, 0, 1, 1, 1]
    assert result.mean_returns.tolist() == [9, 9, 9, 9, 1]
    assert result.mean_success_rate == pytest.approx(0.8)


def biased(episodes: int) -> list[tuple[tuple[int, ...], int]]:
    """Half the episodes succeed after 5 steps, half fail after 50, in random order."""
    order = np.random.Generator(np.random.PCG64(1)).permutation(episodes)
    return [((5,), 5) if place % 2 else ((), 50) for place in order]


@pytest.mark.parametrize("slots", [1, 10, 50])
def test_short_successes_do_not_crowd_out_long_failures(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Who counts the first episodes that end reports far more than a half.
    monkeypatch.setattr(evaluator_module, "MIN_SLOTS", slots)
    assert played([biased(50)], 50).success_rates.tolist() == [0.5]


@pytest.mark.full
def test_ten_thousand_episodes_report_their_true_rate() -> None:
    assert played([biased(10_000)], 10_000).success_rates.tolist() == [0.5]


def test_an_evaluation_leaves_a_running_training_untouched() -> None:
    suite = point_mass()
    state = make_train_state(make_agent(SAC, SAC_CONFIG, suite.spec), suite)
    run = training_loop(state, 10_000)
    for _ in range(30):
        next(run)
    before = leaves(state)
    with global_generators_untouched("the evaluator"):
        evaluate(state.agent, suite, 5, seed=1, num_workers=0)
    after = leaves(state)
    assert before == after, differences(before, after)


def test_an_evaluation_plays_on_one_thread_and_gives_the_others_back() -> None:
    suite = point_mass()
    agent = make_agent(SAC, SAC_CONFIG, suite.spec)
    act, threads = agent.act, set()
    agent.act = lambda *a, **k: threads.add(torch.get_num_threads()) or act(*a, **k)  # type: ignore[method-assign]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        evaluate(agent, suite, 2, seed=1, num_workers=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == {1}


def test_a_run_with_evaluations_learns_what_a_run_without_learns() -> None:
    suite, finals = point_mass(), []
    for every in (1000, 3):
        state = make_train_state(make_agent(SAC, SAC_CONFIG, suite.spec), suite)
        with Evaluator(suite, 1, 0) as evaluator:
            for turn, _ in zip(range(24), training_loop(state, 10_000), strict=False):
                if turn % every == every - 1:
                    evaluator.evaluate(state.agent, 2)
        finals.append(leaves(state.agent))
    assert finals[0] == finals[1], differences(*finals)


def flags(agent: torch.nn.Module) -> list[bool]:
    return [module.training for module in agent.modules()]


def raising() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("training", [True, False])
def test_training_flags_are_put_back_also_when_the_agent_raises(training: bool) -> None:
    suite = ProbeSuite([[((1,), 3)]])
    for agent in (Still(suite.spec), Still(suite.spec, raising)):
        agent.trained.train(training)
        before = flags(agent)
        assert not agent.frozen.training
        try:
            evaluate(agent, suite, 2, seed=1, num_workers=0)
        except ZeroDivisionError:
            assert agent.when_acting is raising
        assert flags(agent) == before


class CountedCloses(ProbeSuite):
    """Counts the environments made and closed."""

    made = closed = 0

    def make_envs(self, num_envs: int, episodes: EpisodeSource, **rest: Any) -> MultiTaskVectorEnv:
        envs = super().make_envs(num_envs, episodes, **rest)
        self.made += 1

        def close() -> None:
            self.closed += 1

        envs.close = close  # type: ignore[method-assign]
        return envs


def test_environments_are_kept_for_the_next_evaluation_but_not_after_a_failure() -> None:
    suite = CountedCloses([[((1,), 3)]])
    with Evaluator(suite, 1, 0) as evaluator:
        for _ in range(3):
            evaluator.evaluate(Still(suite.spec), 2)
        assert (suite.made, suite.closed) == (2, 0), "one set for each crew"
        with pytest.raises(ZeroDivisionError):
            evaluator.evaluate(Still(suite.spec, raising), 2)
        assert (suite.made, suite.closed) == (2, 2)
        # The half-played episodes of the failed evaluation are gone.
        assert evaluator.evaluate(Still(suite.spec), 2).success_rates.tolist() == [1]
    assert (suite.made, suite.closed) == (4, 4)


def test_an_evaluation_stops_when_it_is_asked_to() -> None:
    suite = CountedCloses([[((1,), 300)]])
    asked: Iterator[bool] = iter([False] * 5 + [True])
    with Evaluator(suite, 1, 0) as evaluator, pytest.raises(EvaluationStopped):
        evaluator.evaluate(Still(suite.spec), 2, should_stop=lambda: next(asked))
    assert suite.closed == suite.made == 2


def test_a_suite_of_many_tasks_plays_in_one_set_of_environments() -> None:
    suite = CountedCloses([[((1,), 3)]] * 11)
    with Evaluator(suite, 1, 0) as evaluator:
        result = evaluator.evaluate(Still(suite.spec), 2)
    assert suite.made == 1
    assert result.successes.shape == (11, 2)


@pytest.mark.parametrize(("cls", "config"), [(SAC, SAC_CONFIG), (PPO, PPO.Config())], ids=["sac", "ppo"])
def test_a_protocol_may_play_actions_drawn_from_the_policy(cls: type[Agent], config: Any) -> None:
    suite = PointMass("point-mass-discrete", PointMass.Config(), 1)
    agent = make_agent(cls, config, suite.spec)
    mode = evaluate(agent, suite, 10, seed=1, num_workers=0)
    suite.spec = dataclasses.replace(suite.spec, samples_policy=True)
    before = leaves(agent)
    drawn = [evaluate(agent, suite, 10, seed=seed, num_workers=0).returns for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0], mode.returns)
    assert before == leaves(agent)


def test_a_result_carries_the_protocol_it_belongs_to() -> None:
    suite = point_mass()
    result = evaluate(sac(suite), suite, 2, seed=1, num_workers=0)
    assert (result.suite, result.protocol) == ("point-mass", "point-mass")
    assert result.settings == suite.spec.settings
    assert result.task_names == suite.spec.task_names
    assert result.episodes_per_task == 2
    assert dataclasses.is_dataclass(result)
