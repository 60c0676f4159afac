"""Atari games keep the contract, look exactly as ale-py shows them, and swap games at auto-reset.

Shapes: N slots, M games.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv

import agents
import envs
from envs.atari.games import ATARI57, SETS, full_game_name, parse
from envs.atari.legal_actions import LEGAL_ACTIONS, NUM_ACTIONS
from envs.atari.pool import GamePool, emulator_seed
from envs.atari.scores import REFERENCES, SHARMA_TARGETS
from envs.atari.suite import Atari
from envs.atari.vector_env import AtariEnvs
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.cli.main import main
from mtrl.config.schema import resolve_config
from mtrl.env.episodes import ListedEpisodes, RandomEpisodes
from mtrl.env.scores import HUMAN, TARGET, normalized_scores, overall_score, reference_returns
from mtrl.errors import BadInput, WorkerFailure
from mtrl.seeding import stream
from mtrl.testing import check_suite
from mtrl.types import ActionStep, EnvStep


def atari(name: str = "atari:pong,breakout", **config: Any) -> Atari:
    return Atari(name, Atari.Config(**config), 1)


@pytest.fixture
def short() -> Iterator[AtariEnvs]:
    """Three slots of pong and breakout in episodes of 12 env steps."""
    suite = atari(max_episode_frames=48)
    episodes = RandomEpisodes(suite.spec, 3, 1)
    with suite.make_envs(3, episodes, mode="train", num_workers=2, worker_timeout=1.0) as envs:
        assert isinstance(envs, AtariEnvs)
        yield envs


def legal(envs: AtariEnvs, generator: np.random.Generator) -> np.ndarray:
    return np.array([generator.choice(LEGAL_ACTIONS[envs.spec.tasks[max(task, 0)].name]) for task in envs.task_ids])


# The contract.


@pytest.mark.parametrize(
    ("name", "exact_resume", "frames"),
    [("atari:pong,breakout", False, 48), pytest.param("atari:breakout", True, 16, marks=pytest.mark.slow)],
)
def test_the_suite_keeps_its_contract(name: str, exact_resume: bool, frames: int) -> None:
    check_suite(Atari, name, Atari.Config(max_episode_frames=frames, exact_resume=exact_resume))


def test_observations_are_those_of_ale_py_bit_for_bit() -> None:
    # Of whole stacks: zeros before the episode, then the frames as they come; also the one an episode ends with.
    suite = atari(max_episode_frames=48)
    theirs = GamePool("breakout", suite.emulation)
    expected = [theirs.begin(emulator_seed(7))]
    actions = stream(1, "actions").choice(LEGAL_ACTIONS["breakout"], size=12)
    for action in actions:
        theirs.send(np.array([action]))
        expected.append(theirs.recv()[0][0].copy())
    assert [int(frame.any()) for frame in expected[0]] == [0, 0, 0, 1]
    with AtariEnvs(
        suite.spec, 1, ListedEpisodes([[(1, 7), (0, 3)]]), suite.emulation, seed_every_episode=False
    ) as envs:
        assert np.array_equal(envs.reset()[0], expected[0])
        for number, action in enumerate(actions, start=1):
            step = envs.step(np.array([action]))
            assert np.array_equal(step.final_observation[0], expected[number])
            if number < 12:
                assert np.array_equal(step.observation[0], expected[number])
        assert step.truncated.all()
        assert not step.terminated.any()
        assert envs.task_ids.tolist() == [0]
        pong = GamePool("pong", suite.emulation).begin(emulator_seed(3))
        assert np.array_equal(step.observation[0], pong)


def test_the_buffer_stacks_frames_as_ale_py_does(short: AtariEnvs) -> None:
    buffer, generator = RolloutBuffer(short.spec, 3, 20, 1), stream(1, "actions")
    observation = short.reset()
    played: list[tuple[np.ndarray, EnvStep]] = []
    for _ in range(31):
        action = legal(short, generator)
        step = short.step(action)
        buffer.add(observation, ActionStep(action), step)
        played.append((observation, step))
        observation = step.observation
        if len(played) in (14, 25):
            short.set_task_weights(np.array([0.0, 1.0]) if len(played) == 14 else np.array([1.0, 0.0]))
    batch = buffer.rollout()
    kept = played[-20:]
    assert len({tuple(step.task_ids.tolist()) for _, step in kept}) > 1
    assert np.array_equal(batch.observation.numpy(), np.stack([before for before, _ in kept]))
    assert np.array_equal(batch.next_observation.numpy(), np.stack([step.final_observation for _, step in kept]))


def test_slots_take_up_the_games_that_the_weights_ask_for(short: AtariEnvs) -> None:
    short.reset()
    assert set(short.task_ids.tolist()) == {0, 1}
    generator = stream(1, "actions")
    short.set_task_weights(np.array([0.0, 1.0]))
    for _ in range(12):
        step = short.step(legal(short, generator))
    assert step.truncated.all()
    assert short.task_ids.tolist() == [1, 1, 1]
    first_frames = step.observation[:, -1]
    # All show breakout: its wall, which no slot of pong has.
    assert (first_frames[:, 25:35, 10:70] > 0).mean() > 0.9
    assert [pool.game for pool in short._pools if pool is not None] == 3 * ["breakout"]


def test_games_run_side_by_side_with_the_main_process(short: AtariEnvs) -> None:
    # `send` does not wait: what is received later is what was sent before.
    short.reset()
    short.send(np.zeros(3, np.int64))
    with pytest.raises(RuntimeError, match="send was called twice"):
        short.send(np.zeros(3, np.int64))
    assert short.recv().reward.shape == (3,)


def test_an_action_that_no_game_has_is_refused(short: AtariEnvs) -> None:
    # An emulator's thread that met it would never answer.
    short.reset()
    for action in (NUM_ACTIONS, -1):
        with pytest.raises(BadInput, match="actions must be 0 to 17"):
            short.send(np.array([0, action, 0]))
        short._sent = None


def test_closed_environments_stay_closed(short: AtariEnvs) -> None:
    short.reset()
    short.close()
    short.close()
    with pytest.raises(WorkerFailure, match="closed"):
        short.reset()


def test_an_evaluations_episode_does_not_depend_on_what_was_played_before() -> None:
    suite = atari(max_episode_frames=24)
    found = []
    for orders in ([[(1, 5), (0, 2)]], [[(0, 2), (1, 5)]]):
        with suite.make_envs(1, ListedEpisodes(orders), mode="evaluate", num_workers=0, worker_timeout=1.0) as envs:
            assert envs.replays_exactly
            first = envs.reset()
            traces = {int(envs.task_ids[0]): [first[0]]}
            while envs.task_ids[0] >= 0:
                task = int(envs.task_ids[0])
                step = envs.step(np.zeros(1, np.int64))
                traces[task].append(step.final_observation[0])
                if step.truncated[0] and envs.task_ids[0] >= 0:
                    traces[int(envs.task_ids[0])] = [step.observation[0]]
        found.append(traces)
    for task in (0, 1):
        assert np.array_equal(np.stack(found[0][task]), np.stack(found[1][task]))


def test_success_is_an_episode_with_the_target_score() -> None:
    suite = atari("atari:pong", max_episode_frames=400)
    for target, success in ((-50.0, True), (0.0, False)):  # a player who does nothing loses points
        spec = dataclasses.replace(suite.spec, tasks=(dataclasses.replace(suite.spec.tasks[0], target_return=target),))
        with AtariEnvs(spec, 1, ListedEpisodes([[(0, 1)]]), suite.emulation, seed_every_episode=True) as envs:
            envs.reset()
            finished = [episode for _ in range(100) for episode in envs.step(np.zeros(1, np.int64)).episodes]
        assert [episode.success for episode in finished] == [success]
        assert finished[0].return_ < 0
        assert finished[0].length == 100


def test_the_metadata_of_gymnasiums_environments_stay_as_they_are() -> None:
    before = dict(gym.vector.VectorEnv.metadata)
    pool = GamePool("pong", atari().emulation)
    assert gym.vector.VectorEnv.metadata == before
    assert pool.metadata == {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}


def test_a_rendered_episode_is_the_one_that_the_agent_saw() -> None:
    seen: list[np.ndarray] = []

    def act(observation: np.ndarray) -> np.ndarray:
        seen.append(observation)
        return np.int64(len(seen) % 4)

    pictures, return_, success = atari(max_episode_frames=40).render_episode(1, 3, act)
    assert len(pictures) == len(seen) + 1 == 11
    assert {picture.shape for picture in pictures} == {(210, 160, 3)}
    assert pictures[0].dtype == np.uint8
    assert return_ == 0
    assert not success
    # Where the coloured screen is black, so is the agent's newest frame.
    dark = pictures[4].max(axis=2)[::10, ::10] == 0
    grey = seen[4][-1]
    rows = (np.arange(0, 210, 10) * 84 // 210)[:, None]
    assert (grey[rows, np.arange(0, 160, 10) * 84 // 160][dark] < 100).all()


def test_the_outcome_of_a_long_rendered_episode_is_that_of_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.atari.render.MAX_PICTURES", 10)
    suite = atari("atari:pong", max_episode_frames=400)
    task = dataclasses.replace(suite.spec.tasks[0], target_return=-50.0)
    suite.spec = dataclasses.replace(suite.spec, tasks=(task,))
    pictures, return_, success = suite.render_episode(0, 1, lambda observation: np.int64(0))
    assert len(pictures) == 10
    assert return_ < 0  # after the pictures: a player who does nothing loses points
    assert success


# Descriptions.


def test_the_suites_have_the_games_of_the_paper() -> None:
    assert [len(SETS[f"atari-mt{number}"]) for number in range(1, 8)] == [6, 6, 6, 8, 12, 12, 21]
    assert len(ATARI57) == len(SETS["atari57"]) == 57
    for name, games in SETS.items():
        assert len(set(games)) == len(games)
        assert set(games) <= set(REFERENCES)
        if name != "atari57":
            assert set(games) <= set(SHARMA_TARGETS)
    spec = atari("atari-mt4").spec
    assert spec.task_names[0] == "atlantis"
    assert (spec.tasks[6].target_return, spec.tasks[6].random_return, spec.tasks[6].human_return) == (
        19.5,
        -20.7,
        14.6,
    )
    assert spec.tasks[0].max_episode_steps == 27_000


def test_targets_are_chosen_by_name() -> None:
    assert atari("atari:pong", targets="human").spec.tasks[0].target_return == 14.6
    assert atari("atari57").spec.settings["targets"] == "human"  # not all have one of the other kind
    assert atari("atari-mt1").spec.settings["targets"] == "sharma"
    assert atari("atari:carnival").spec.tasks[0].target_return is None
    with pytest.raises(BadInput, match=r"suite.targets: 'sharma' has no target score for freeway; known: alien"):
        atari("atari:pong,freeway", targets="sharma")
    with pytest.raises(BadInput, match=r"'human' has no target score for carnival"):
        atari("atari:carnival", targets="human")


@pytest.mark.parametrize("game", ["pong", "breakout", "freeway"])
def test_the_mask_is_the_emulators_minimal_action_set(game: str) -> None:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    emulator.loadROM(ale_py.roms.get_rom_path(game))
    minimal = [int(action.value) for action in emulator.getMinimalActionSet()]
    mask = atari(f"atari:{game}").spec.action_mask
    assert mask is not None
    assert np.flatnonzero(mask[0]).tolist() == minimal
    assert list(LEGAL_ACTIONS) == sorted(LEGAL_ACTIONS)
    assert set(LEGAL_ACTIONS) <= set(ale_py.roms.get_all_rom_ids())


def test_the_two_protocols_differ_in_name_and_settings() -> None:
    machado, classic = atari().spec, atari(protocol="classic").spec
    assert (machado.protocol, classic.protocol) == ("atari-machado", "atari-classic")
    changed = {name for name, value in machado.settings.items() if classic.settings[name] != value}
    assert changed == {"sticky_actions", "fire_at_reset"}
    assert machado.settings["sticky_actions"] == 0.25
    assert machado.settings["max_episode_frames"] == 108_000


def test_sticky_actions_are_on_in_one_protocol_and_off_in_the_other() -> None:
    # Without them an episode is the same for every seed once the no-ops are.
    for protocol, same in (("machado", False), ("classic", True)):
        emulation = dataclasses.replace(atari("atari:boxing", protocol=protocol).emulation, noop_max=0)  # type: ignore[arg-type]
        screens = []
        for seed in (1, 2):
            pool = GamePool("boxing", emulation)
            pool.begin(seed)
            for step in range(60):
                pool.send(np.array([2 + 3 * (step // 2 % 2)]))
                screen = pool.recv()[0]
            screens.append(screen.copy())
        assert np.array_equal(*screens) == same


def test_games_are_found_in_any_spelling_and_the_nearest_is_named() -> None:
    assert parse("atari:SpaceInvaders,space-invaders2".partition(",")[0]).games == ("space_invaders",)
    assert full_game_name("ms-pacman") == "ms_pacman"
    assert full_game_name("ALE/Pong-v5") == full_game_name("PongNoFrameskip-v4") == "pong"
    with pytest.raises(BadInput, match=r"unknown Atari game 'space_invader' \(did you mean 'space_invaders'\?\)"):
        parse("atari:pong,space_invader")
    with pytest.raises(BadInput, match="names game 'pong' twice"):
        parse("atari:pong,Pong")
    with pytest.raises(BadInput, match="unknown Atari game ''"):
        parse("atari:")
    with pytest.raises(BadInput, match=r"'atari-mt8' is not one of Atari's"):
        parse("atari-mt8")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--suite", "atari:pong,breakot"], "unknown Atari game 'breakot' (did you mean 'breakout'?)"),
        (["--suite", "atari:pong,pong"], "names game 'pong' twice"),
        (["--suite", "atari:pong,freeway", "--suite.targets", "sharma"], "no target score for freeway"),
        (["--suite", "atari:pong", "--suite.protocol", "clasic"], "clasic"),
        (["--suite", "atari:pong", "--encoder", "identity"], "for pixels use --encoder nature or impala"),
        (["--suite", "point-mass", "--encoder", "nature"], "for vectors use --encoder identity"),
    ],
)
def test_bad_input_is_answered_in_one_line_before_there_is_a_run(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *flags, "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [*SETS, "atari:pong"])
def test_the_presets_resolve(name: str) -> None:
    agents.register()
    envs.register()
    config = resolve_config({"suite": name, "agent": "sac"})
    assert config.encoder.name == "nature"
    assert config.settings.final_eval_episodes_per_task == 30
    assert config.settings.num_envs == 4 * len(parse(name).games)


def test_scores_are_normalised_by_random_human_and_target() -> None:
    tasks = atari("atari:pong,breakout").spec.tasks
    scores = normalized_scores(tasks, np.array([14.6, 1.7]))
    np.testing.assert_allclose(scores[HUMAN], [1, 0])
    np.testing.assert_allclose(scores[TARGET], [14.6 / 19.5, 1.7 / 560])
    np.testing.assert_allclose(normalized_scores(tasks, np.array([-21.0, 900.0]))[TARGET], [0, 1])
    assert list(normalized_scores(atari("atari:tennis", targets="human").spec.tasks, np.zeros(1))) == [HUMAN]
    assert normalized_scores(atari("atari:carnival").spec.tasks, np.zeros(1)) == {}
    assert reference_returns(tasks)["pong"] == {"random": -20.7, "human": 14.6, "target": 19.5}
    assert reference_returns(atari("atari:carnival").spec.tasks) == {}


def test_evaluations_are_compared_by_targets_then_by_humans_then_by_success() -> None:
    returns, rates = np.array([14.6, 1.7]), np.array([0.25, 0.75])
    targets = atari("atari:pong,breakout").spec
    assert overall_score(targets, returns, rates) == pytest.approx((14.6 / 19.5 + 1.7 / 560) / 2)
    assert overall_score(dataclasses.replace(targets, score="success"), returns, rates) == 0.5
    without = atari("atari:pong,skiing").spec  # skiing's target is negative
    assert without.target_scores is None
    assert overall_score(without, np.array([14.6, -17098.1]), rates) == pytest.approx(0.5)
    assert overall_score(atari("atari:carnival").spec, np.array([700.0]), rates[:1]) == 700.0


def test_an_emulator_that_fails_ends_the_run_with_its_name(short: AtariEnvs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: GamePool) -> Any:
        raise RuntimeError("cartridge on fire")

    short.reset()
    monkeypatch.setattr(GamePool, "recv", fail)
    with pytest.raises(WorkerFailure, match="task pong, slot 0: the emulator failed: cartridge on fire"):
        short.step(np.zeros(3, np.int64))


def test_a_game_that_cannot_begin_ends_the_run_with_its_name(short: AtariEnvs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    with pytest.raises(WorkerFailure, match="an episode of pong, breakout cannot begin: can't start new thread"):
        short.reset()


def test_targets_below_random_play_are_the_three_that_are_named() -> None:
    below = {game for game, target in SHARMA_TARGETS.items() if target <= REFERENCES[game].random}
    assert below == {"bowling", "kangaroo", "krull"}


def test_doctor_names_the_copyleft_licence() -> None:
    assert Atari.packages == ("ale-py",)
    assert "GPL-2.0-only" in dict(Atari.diagnose())["ale-py"]


def test_ale_py_is_imported_only_where_games_are_played() -> None:
    code = (
        "import sys, envs; envs.register(); from mtrl.env.suite import find_suite as find; "
        "family = find('atari57'); family('atari57', family.Config(), 1); assert 'ale_py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plain_pool_of_ale_py_relabels_all_vector_environments() -> None:
    # What `GamePool` works around.
    before = dict(gym.vector.VectorEnv.metadata)
    try:
        AtariVectorEnv("pong", 1, autoreset_mode="SameStep")
        assert gym.vector.VectorEnv.metadata["autoreset_mode"] == gym.vector.AutoresetMode.SAME_STEP
    finally:
        gym.vector.VectorEnv.metadata.clear()
        gym.vector.VectorEnv.metadata.update(before)
