"""Every formula against numbers worked by hand. Shapes: M tasks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mtrl.env.target_quality import MIN_FRACTION, solved_fractions, target_quality
from mtrl.errors import BadInput
from mtrl.scheduling import ActiveScheduler, schedulers
from mtrl.scheduling.active.a5c import A5C
from mtrl.scheduling.active.distance import Distance
from mtrl.scheduling.active.dtp import DTP
from mtrl.scheduling.active.explicit import Explicit
from mtrl.scheduling.active.implicit import Implicit
from mtrl.scheduling.active.smt import SMT
from mtrl.scheduling.active.t3s import T3S
from mtrl.scheduling.active.ua4c import UA4C
from mtrl.testing.scheduler import suite_with_targets
from tests.scheduling.histories import episodes, suite_of

ACTIVE = [name for name, cls in schedulers.items() if issubclass(cls, ActiveScheduler)]
AT_ONCE: dict[str, Any] = {"uniform_episodes": 0, "min_share": 0.0}


def weights_after(scheduler: ActiveScheduler, *scores: tuple[int, float]) -> list[float]:
    scheduler.on_episodes(episodes(*scores))
    return scheduler.weights().tolist()


def test_fractions_are_clipped_and_count_what_was_not_measured_as_nothing() -> None:
    scores = np.array([5.0, 30.0, -21.0, np.nan])
    assert solved_fractions(scores, np.array([10.0, 20.0, 19.5, 1.0])).tolist() == [0.5, 1.0, 0.0, 0.0]


def test_the_three_means() -> None:
    found = target_quality(np.array([5.0, 30.0]), np.array([10.0, 20.0]))
    assert found == pytest.approx({"q_am": 0.75, "q_gm": math.sqrt(0.5), "q_hm": 2 / (2 + 1)})
    floored = target_quality(np.array([0.0, 1.0]), np.ones(2))
    assert MIN_FRACTION == 0.01
    assert floored == pytest.approx({"q_am": 0.5, "q_gm": 0.1, "q_hm": 2 / 101})
    assert target_quality(np.ones(2), None) == {}


def test_distance() -> None:
    # m = (1/2, 1, 0).
    spec = suite_of([10.0, 10.0, 10.0])
    found = weights_after(Distance(spec, Distance.Config(**AT_ONCE), 1), (0, 5.0), (1, -3.0), (2, 40.0))
    assert found == pytest.approx([1 / 3, 2 / 3, 0])
    solved = weights_after(Distance(spec, Distance.Config(**AT_ONCE), 1), (0, 10.0), (1, 11.0), (2, 40.0))
    assert solved == pytest.approx([1 / 3] * 3)


def test_a5c() -> None:
    # m = (0.5, 0.45) and tau = 0.05: the ratio of the shares is e.
    found = weights_after(A5C(suite_of([10.0, 20.0]), A5C.Config(**AT_ONCE), 1), (0, 5.0), (1, 11.0))
    assert found == pytest.approx([math.e / (1 + math.e), 1 / (1 + math.e)])


def test_explicit() -> None:
    # (1/2)^3 + 0.1 = 0.225, and 1.1 for the solved task.
    found = weights_after(Explicit(suite_of([10.0, 10.0]), Explicit.Config(**AT_ONCE), 1), (0, 5.0), (1, 12.0))
    assert found == pytest.approx([1.1 / 1.325, 0.225 / 1.325])


def test_dtp() -> None:
    # k = (1/2, 0), gamma = 1: -1/2 ln 1/2 = 0.34657, and -ln 0.01 = 4.60517 at the floor.
    raw = np.array([0.34657, 4.60517])
    found = weights_after(DTP(suite_of([10.0, 10.0]), DTP.Config(**AT_ONCE), 1), (0, 5.0), (1, -3.0))
    assert found == pytest.approx((raw / raw.sum()).tolist(), rel=1e-4)
    # gamma = 2: -(1/2)^2 ln 1/2 and -(1/4)^2 ln 3/4.
    raw = np.array([0.25 * math.log(2), math.log(4 / 3) / 16])
    found = weights_after(DTP(suite_of([10.0, 10.0]), DTP.Config(**AT_ONCE, gamma=2.0), 1), (0, 5.0), (1, 7.5))
    assert found == pytest.approx((raw / raw.sum()).tolist())
    solved = weights_after(DTP(suite_of([10.0, 10.0]), DTP.Config(**AT_ONCE), 1), (0, 10.0), (1, 40.0))
    assert solved == [0.5, 0.5]


def test_implicit() -> None:
    # S = (0.2, 0.6), mean 0.4: 1 + min(0.5, 0.6 * 0.2) = 1.12 and 0.88, which have mean 1.
    found = weights_after(Implicit(suite_of([10.0, 10.0]), Implicit.Config(**AT_ONCE), 1), (0, 2.0), (1, 6.0))
    assert found == pytest.approx([1.12 / 2, 0.88 / 2])
    bounded = Implicit.Config(**AT_ONCE, gamma=0.05)
    found = weights_after(Implicit(suite_of([10.0, 10.0]), bounded, 1), (0, 2.0), (1, 6.0))
    assert found == pytest.approx([1.05 / 2, 0.95 / 2])
    # No task has a score: (max S)^alpha = 0.
    found = weights_after(Implicit(suite_of([10.0, 10.0]), Implicit.Config(**AT_ONCE), 1), (0, -1.0), (1, -9.0))
    assert found == [0.5, 0.5]


def test_t3s() -> None:
    # A time constant of 2 episodes: after one of score k, s = k / 2 and the speed is (k / 2) / (1 - k / 2).
    config = T3S.Config(**AT_ONCE, speed_episodes=2, epsilon=0.1)
    scheduler = T3S(suite_of([10.0, 10.0, 10.0]), config, 1)
    found = weights_after(scheduler, (0, 5.0), (1, 10.0), (2, 0.0))
    raw = np.array([1 / (0.6 * (1 / 3 + 0.1)), 1 / (1.1 * 1.1), 1 / (0.1 * 0.1)])
    assert found == pytest.approx((raw / raw.sum()).tolist())
    # Task 0 stands still at 1/2: s = 3/8, speed (1/8) / (5/8).
    found = weights_after(scheduler, (0, 5.0))
    raw[0] = 1 / (0.6 * (0.2 + 0.1))
    assert found == pytest.approx((raw / raw.sum()).tolist())


def test_t3s_gives_a_solved_task_the_least_share_for_good() -> None:
    scheduler = T3S(suite_of([10.0] * 3), T3S.Config(uniform_episodes=0), 1)
    for episode in range(2000):
        shares = weights_after(scheduler, (0, 11.0), (1, episode / 200), (2, 0.0))
        assert shares[0] <= min(shares) + 1e-12
    assert shares[2] > 10 * shares[0]


def test_smt_trains_the_hardest_tasks_until_they_are_solved() -> None:
    config = SMT.Config(**AT_ONCE, trained_fraction=0.5, solved_score=0.9, window=1)
    scheduler = SMT(suite_of([10.0] * 4), config, 1)
    assert weights_after(scheduler, (0, 8.0), (1, 2.0), (2, 5.0), (3, 9.5)) == [0, 0.5, 0.5, 0]
    # Task 1 is better than task 0 now, and keeps its place: its turn is not over.
    assert weights_after(scheduler, (1, 8.5)) == [0, 0.5, 0.5, 0]
    assert weights_after(scheduler, (1, 9.0)) == [0.5, 0, 0.5, 0]
    assert weights_after(scheduler, (2, 10.0)) == [1, 0, 0, 0]
    # A solved task that is forgotten waits again, here for a free place.
    assert weights_after(scheduler, (3, 1.0)) == [0.5, 0, 0, 0.5]
    assert weights_after(scheduler, (0, 10.0), (3, 9.0)) == [0.25] * 4


def test_smt_reopens_a_task_after_all_others_had_a_turn() -> None:
    config = SMT.Config(**AT_ONCE, trained_fraction=0.3, turn_episodes=2, window=1)
    scheduler = SMT(suite_of([10.0] * 3), config, 1)
    weights_after(scheduler, (0, 0.0), (1, 3.0), (2, 1.0))
    trained = []
    for _ in range(12):
        (task,) = np.flatnonzero(scheduler.weights()).tolist()
        trained.append(task)
        scheduler.on_episodes(episodes((task, float(task))))
    assert trained == [0, 0, 2, 2, 1, 1, 0, 0, 1, 1, 2, 2]


def test_ua4c() -> None:
    # Discount 0.5. First step: n = (1, 1), rewards (1, 0.25). Then one more episode of task 1, whose mean return is
    # then 7.5 as before: n = (0.5, 1.5), rewards (0.5, 0.125 + 0.25), means (1, 0.25), sum of n = 2.
    config = UA4C.Config(**AT_ONCE, discount=0.5, picks=4)
    scheduler = UA4C(suite_of([10.0, 10.0]), config, 1)
    scheduler.on_episodes(episodes((0, 0.0), (1, 7.5)))
    scheduler.on_episodes(episodes((1, 7.5)))
    # The second step forgets half of the first.
    assert scheduler._counts.tolist() == [0.5, 1.5]
    assert scheduler._rewards.tolist() == [0.5, 0.375]
    bound = math.sqrt(0.25 * 0.75 * math.log(2))
    indices = {
        0: [1 + math.sqrt(0.002 * math.log(2) / (0.5 + ahead)) for ahead in range(4)],
        1: [0.25 + bound / math.sqrt(1.5 + ahead) for ahead in range(4)],
    }
    assert min(indices[0]) > max(indices[1])
    assert scheduler.weights().tolist() == [1, 0]


def test_ua4c_picks_one_by_one_as_if_the_mean_reward_had_come() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        config = UA4C.Config(**AT_ONCE, exploration=3.0)
        scheduler = UA4C(suite_with_targets(6), config, 1)
        for _ in range(10):
            tasks = generator.integers(6, size=3).tolist()
            scheduler.on_episodes(episodes(*[(task, float(generator.uniform(0, 10))) for task in tasks]))
        counts, log_sum = scheduler._counts.copy(), math.log(scheduler._counts.sum())
        counts = np.maximum(counts, 1e-9)
        means = scheduler._rewards / counts
        picks = np.zeros(6)
        for _ in range(config.picks):
            variance = np.maximum(means * (1 - means), 0.002)
            task = np.argmax(means + 3 * np.sqrt(variance * log_sum / (counts + picks)))
            picks[task] += 1
        assert scheduler.weights().tolist() == pytest.approx((picks / config.picks).tolist())


def test_ua4c_comes_back_to_a_task_that_it_has_not_seen_for_long() -> None:
    scheduler = UA4C(suite_of([10.0, 10.0]), UA4C.Config(**AT_ONCE), 1)
    scheduler.on_episodes(episodes((0, 0.0), (1, 9.0)))
    shares = []
    for _ in range(800):
        scheduler.on_episodes(episodes((0, 0.0)))
        shares.append(scheduler.weights()[1])
    assert shares[20] == 0
    assert shares[-1] > 0


def test_a_task_without_an_episode_is_furthest_from_its_target() -> None:
    found = weights_after(Distance(suite_of([10.0, 10.0]), Distance.Config(**AT_ONCE), 1), (0, 7.5))
    assert found == pytest.approx([0.2, 0.8])


def test_the_score_is_the_mean_of_the_last_ten_episodes() -> None:
    scheduler = Distance(suite_of([10.0, 10.0]), Distance.Config(**AT_ONCE), 1)
    for score in [-1000.0, 0.0, 10.0, *8 * [5.0], 5.0]:  # the last ten are 10 and nine times 5
        scheduler.on_episodes(episodes((0, score)))
    scheduler.on_episodes(episodes((1, 0.0)))
    assert scheduler.weights().tolist() == pytest.approx([0.45 / 1.45, 1 / 1.45])


def test_success_is_the_score_where_the_suite_says_so() -> None:
    scheduler = Distance(suite_with_targets(2, "success"), Distance.Config(**AT_ONCE), 1)
    # Task 0 succeeds in one of four episodes, task 1 in both; returns are not read.
    for score in (-1e6, 100.0, 0.0, 3.0):
        scheduler.on_episodes(episodes((0, score)))
    scheduler.on_episodes(episodes((1, 10.0), (1, 1e9)))
    assert scheduler.weights().tolist() == [1, 0]
    scheduler.on_episodes(episodes((1, 0.0)))
    assert scheduler.weights().tolist() == pytest.approx([0.75 / (0.75 + 1 / 3), (1 / 3) / (0.75 + 1 / 3)])


@pytest.mark.parametrize("name", ACTIVE)
def test_all_tasks_are_equal_until_each_has_had_its_episodes(name: str) -> None:
    cls: Any = schedulers.get(name)
    scheduler = cls(suite_of([10.0, 10.0]), cls.Config(uniform_episodes=3), 1)
    for _ in range(5):
        scheduler.on_episodes(episodes((0, 0.0)))
    scheduler.on_episodes(episodes((1, 12.0), (1, 12.0)))
    assert scheduler.weights().tolist() == [0.5, 0.5]
    scheduler.on_episodes(episodes((1, 12.0)))
    scheduler.on_episodes(episodes((0, 0.0)))
    if name != "ea4c":  # which begins with a uniform policy
        assert scheduler.weights()[0] > 0.5


@pytest.mark.parametrize("name", ACTIVE)
def test_every_task_keeps_a_tenth_of_a_uniform_share(name: str) -> None:
    cls: Any = schedulers.get(name)
    scheduler = cls(suite_of([10.0] * 5), cls.Config(uniform_episodes=0), 1)
    for _ in range(60):
        scheduler.on_episodes(episodes((0, 0.0), (1, 0.0), (2, 20.0), (3, 20.0), (4, 20.0)))
        assert scheduler.weights().min() >= 0.1 / 5 - 1e-12


@pytest.mark.parametrize("target", [None, 0.0, -16.4])
@pytest.mark.parametrize("name", ACTIVE)
def test_a_suite_without_a_target_is_refused_by_name(name: str, target: float | None) -> None:
    cls: Any = schedulers.get(name)
    with pytest.raises(BadInput, match="count-1"):
        cls(suite_of([10.0, target]), cls.Config(), 1)
