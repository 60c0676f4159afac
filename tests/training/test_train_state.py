"""The train state holds all that changes: what is loaded into a fresh one is equal in every attribute, and goes on so.

Shapes: N slots, M tasks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from agents.ppo import PPO
from agents.sac import SAC
from envs.point_mass import PointMass
from mtrl.agent import Agent
from mtrl.aggregation.projection.pcgrad import PCGrad
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.checkpoints.store import CheckpointStore
from mtrl.env.vector_env import MultiTaskVectorEnv
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.networks.hard_sharing.multi_head import MultiHead
from mtrl.normalization.return_scale import ReturnScale
from mtrl.scheduling import schedulers
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.restore import restore
from mtrl.training.run import training_loop
from mtrl.training.train_state import TrainState
from mtrl.types import Progress

NUM_ENVS = 6
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mlp": {"architecture": MLP, "architecture_config": MLP.Config(width=16, depth=1)},
    "multi-head": {"architecture": MultiHead, "architecture_config": MultiHead.Config(width=16, depth=1)},
}
AGGREGATORS: dict[str, dict[str, Any]] = {"mean": {}, "pcgrad": {"aggregator": PCGrad}}
CONFIGS: dict[type[Agent], Any] = {
    SAC: SAC.Config(batch_size=24, learning_starts=8 * NUM_ENVS, buffer_size=25 * NUM_ENVS),
    PPO: PPO.Config(rollout_steps=9, epochs=2, annealing_steps=1000),
}
AGENTS: dict[str, type[Agent]] = {"sac": SAC, "ppo": PPO}
CELLS = [
    (suite, architecture, aggregator, agent)
    for suite in ("point-mass", "point-mass-discrete")
    for architecture in ARCHITECTURES
    for aggregator in AGGREGATORS
    for agent in AGENTS
]


IDS = [", ".join(cell) for cell in CELLS]


def new_state(
    suite: str, architecture: str = "mlp", aggregator: str = "mean", agent: str = "sac", seed: int = 1
) -> TrainState:
    suite = PointMass(suite, PointMass.Config(), seed)
    cls = AGENTS[agent]
    parts = ARCHITECTURES[architecture] | AGGREGATORS[aggregator]
    learner = make_agent(cls, CONFIGS[cls], suite.spec, seed, num_envs=NUM_ENVS, **parts)
    return make_train_state(learner, suite, seed)


def advance(state: TrainState, vector_steps: int) -> list[Progress]:
    """Trains on; returns what was reported."""
    return list(training_loop(state, state.env_steps + vector_steps * NUM_ENVS))


def save(state: TrainState, folder: Path) -> None:
    CheckpointStore(folder).save(state.env_steps, state.state(), state.buffer.chunks(), info={})


def load(state: TrainState, folder: Path) -> bool:
    checkpoint = CheckpointStore(folder).load("latest")
    return state.load_state(checkpoint.state, checkpoint.chunks())


def stored_rows(buffer: RolloutBuffer) -> dict[str, Any]:
    """All attributes; of the ring and the index only what is stored, not where."""
    held = {name: value for name, value in vars(buffer).items() if name not in ("_columns", "_finals", "_index")}
    rows = {"columns": list(buffer._columns), "sizes": buffer.task_sizes}
    return held | rows | {"rows": vars(buffer.rollout()) if buffer.num_rows else None}


def running_episodes(envs: MultiTaskVectorEnv) -> dict[str, Any]:
    """All attributes but what a step leaves behind when it is over; of the actions those of the running episodes."""
    held = {name: value for name, value in vars(envs).items() if name not in ("_actions", "_next", "_pending")}
    return held | {"actions": [envs._actions[slot, :length] for slot, length in enumerate(envs._lengths)]}


VIEWS = {RolloutBuffer: stored_rows, MultiTaskVectorEnv: running_episodes}


@pytest.mark.parametrize("cell", CELLS, ids=IDS)
def test_every_attribute_of_a_train_state_is_saved_and_loaded(cell: tuple[str, ...], tmp_path: Path) -> None:
    state, restored = new_state(*cell), new_state(*cell, seed=2)
    advance(state, 34)  # beyond the buffer's 25 rows, and in the middle of episodes
    save(state, tmp_path)
    assert load(restored, tmp_path)
    found = differences(leaves(state, VIEWS), leaves(restored, VIEWS), limit=20)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("cell", CELLS, ids=IDS)
def test_saving_in_the_middle_changes_no_bit_of_what_follows(cell: tuple[str, ...], tmp_path: Path) -> None:
    whole, first, second = (new_state(*cell, seed=seed) for seed in (1, 1, 2))
    expected = advance(whole, 45)
    found = advance(first, 27)
    save(first, tmp_path)
    load(second, tmp_path)
    found += advance(second, 18)
    assert leaves(found) == leaves(expected)
    changed = differences(leaves(whole, VIEWS), leaves(second, VIEWS), limit=20)
    assert not changed, "\n".join(changed)


@pytest.mark.parametrize("mode", ["sample", pytest.param("weight", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [
        "a5c",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("distance", "ua4c", "ea4c", "explicit", "t3s", "smt")
        ),
    ],
)
def test_a_run_with_changing_shares_is_saved_whole(name: str, mode: str, tmp_path: Path) -> None:
    def new(seed: int) -> TrainState:
        suite = PointMass("point-mass-hard", PointMass.Config(), seed)
        config = SAC.Config(batch_size=16, learning_starts=30 * 5, buffer_size=50 * 5)
        cls: Any = schedulers.get(name)
        quick = {"decisions_per_update": 2} if name == "ea4c" else {}
        scheduler = cls(suite.spec, cls.Config(mode=mode, uniform_episodes=1, **quick), seed)
        # Five slots for eight tasks: what each plays changes all the time.
        return make_train_state(make_agent(SAC, config, suite.spec, seed, num_envs=5), suite, seed, scheduler)

    def go_on(state: TrainState, vector_steps: int) -> list[Progress]:
        return list(training_loop(state, state.env_steps + 5 * vector_steps))

    whole, first, second = new(1), new(1), new(2)
    expected = go_on(whole, 140)
    found = go_on(first, 105)
    save(first, tmp_path)
    assert load(second, tmp_path)
    found += go_on(second, 35)
    assert leaves(found) == leaves(expected)
    changed = differences(leaves(whole, VIEWS), leaves(second, VIEWS), limit=20)
    assert not changed, "\n".join(changed)
    assert len({*whole.scheduler.weights().tolist()}) > 1


@pytest.mark.parametrize("vector_steps", [0, 1, 7, 9, 10])
def test_a_state_can_be_saved_at_any_time_of_a_run(vector_steps: int, tmp_path: Path) -> None:
    # Before the first reset, before learning, and after the first updates.
    whole, second = new_state("point-mass"), new_state("point-mass", seed=2)
    advance(whole, vector_steps)
    save(whole, tmp_path)
    assert load(second, tmp_path)
    expected, found = advance(whole, 12), advance(second, 12)
    assert leaves(found) == leaves(expected)


def test_one_saved_state_can_be_taken_up_twice() -> None:
    # Within one process: neither run may write into the tensors of the other.
    state = new_state("point-mass")
    advance(state, 20)
    saved = state.state()
    chunks = [(chunk.name, dict(chunk.tensors())) for chunk in state.buffer.chunks()]
    runs = [new_state("point-mass", seed=2), new_state("point-mass", seed=3)]
    for run in runs:
        run.load_state(saved, iter(chunks))
    reported = [advance(run, 10) for run in runs]
    reported.append(advance(state, 10))
    assert leaves(reported[0]) == leaves(reported[1]) == leaves(reported[2])


def test_a_resume_takes_the_thread_count_of_the_checkpoint(tmp_path: Path, three_threads: None) -> None:
    state = new_state("point-mass")
    save(state, tmp_path)
    torch.set_num_threads(2)
    restore(new_state("point-mass"), CheckpointStore(tmp_path).load("latest"))
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("threads", [-1, 0, 10**9, "abc", True, None])
def test_a_thread_count_that_makes_no_sense_is_passed_over(
    tmp_path: Path, three_threads: None, threads: object
) -> None:
    state = new_state("point-mass")
    CheckpointStore(tmp_path).save(0, state.state() | {"torch_threads": threads}, state.buffer.chunks(), info={})
    restore(new_state("point-mass"), CheckpointStore(tmp_path).load("latest"))
    assert torch.get_num_threads() == 3


def test_a_replay_that_leads_elsewhere_is_reported(tmp_path: Path) -> None:
    state, restored = new_state("point-mass"), new_state("point-mass")
    advance(state, 12)
    saved = state.state()
    saved["observation"] = saved["observation"] + 1e-7
    assert not restored.load_state(saved, ((chunk.name, dict(chunk.tensors())) for chunk in state.buffer.chunks()))


def test_new_episodes_begin_with_a_sum_of_rewards_of_0(tmp_path: Path) -> None:
    def make() -> TrainState:
        suite = PointMass("point-mass", PointMass.Config(), 1)
        agent = make_agent(PPO, CONFIGS[PPO], suite.spec, num_envs=NUM_ENVS, normalizer=ReturnScale)
        return make_train_state(agent, suite)

    state, restored = make(), make()
    advance(state, 12)
    assert state.agent.normalizer.sums.any()
    saved = state.state()
    saved["observation"] = saved["observation"] + 1e-7
    restored.load_state(saved, ((chunk.name, dict(chunk.tensors())) for chunk in state.buffer.chunks()))
    assert restored.agent.normalizer.sums.tolist() == [0] * NUM_ENVS


def test_the_walk_finds_an_attribute_that_is_not_saved(tmp_path: Path) -> None:
    # The tests above can fail: each planted fault is found and named.
    def forgotten(plant: Any) -> str:
        state, restored = new_state("point-mass"), new_state("point-mass", seed=2)
        advance(state, 12)
        plant(state)
        save(state, tmp_path / plant.__name__)
        load(restored, tmp_path / plant.__name__)
        return "\n".join(differences(leaves(state, VIEWS), leaves(restored, VIEWS)))

    def counter(state: TrainState) -> None:
        state.agent.actor_group.turns = 3

    def generator(state: TrainState) -> None:
        state.scheduler.generator = torch.Generator()

    def buffer_of_a_module(state: TrainState) -> None:
        state.agent.critics.register_buffer("average", torch.ones(2), persistent=False)

    def nested(state: TrainState) -> None:
        state.envs.history = [{"deep": [1, 2]}]

    assert "agent.actor_group.turns" in forgotten(counter)
    assert "scheduler.generator" in forgotten(generator)
    assert "agent.critics.average" in forgotten(buffer_of_a_module)
    assert "envs['history'][0]['deep'][1]" in forgotten(nested)
