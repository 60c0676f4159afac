"""Atari 2600 games as task suites: sets of games with one observation and one action space.

Every game has the 18 actions of the joystick, with a mask that leaves its minimal legal set. Rewards are raw. Shapes: M
tasks, F frames per observation.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from pydantic import Field

from envs.atari.emulation import FRAME_SIZE, FRAME_SKIP, Emulation
from envs.atari.games import SETS, NamedGames, parse, suggested_name
from envs.atari.legal_actions import LEGAL_ACTIONS, NUM_ACTIONS
from envs.atari.presets import published
from envs.atari.scores import REFERENCES, SHARMA_TARGETS
from mtrl.env.episodes import EpisodeSource
from mtrl.env.suite import Mode, RenderedEpisode, Suite, suites
from mtrl.env.vector_env import MultiTaskVectorEnv
from mtrl.errors import BadInput
from mtrl.types import SuiteSpec, TaskSpec


@suites.register("atari")
class Atari(Suite):
    """Sets of Atari games by the protocol of Machado et al., 2018 (arXiv:1709.06009), or the classic one of DQN.

    `machado`: the emulator repeats the last action with probability 0.25 (sticky actions). `classic`: it does not, and
    FIRE is pressed at reset. Both begin an episode with up to 30 frames of no-ops, end it at the game's end or after
    30 minutes, never at the loss of a life, and count the raw score. A success is an episode with the target score.
    """

    suite_names: ClassVar[Mapping[str, str]] = {
        **{
            f"atari-mt{number}": f"{len(SETS[f'atari-mt{number}'])} games, the set MT{number} of Sharma et al. (2017)"
            for number in range(1, 8)
        },
        "atari57": "the 57 games of the Atari benchmark",
        "atari:GAME,GAME": "any games, e.g. atari:pong,breakout",
    }

    packages = ("ale-py",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        protocol: Literal["machado", "classic"] = "machado"  # sticky actions 0.25; classic: none, FIRE at reset
        targets: Literal["auto", "sharma", "human"] = (
            "auto"  # scores that count as solved; auto: sharma if all have one
        )
        frame_stack: Annotated[int, Field(ge=1, le=16)] = 4  # frames per observation
        max_episode_frames: Annotated[int, Field(ge=4, multiple_of=4)] = 108_000  # emulated frames: 30 minutes
        exact_resume: bool = False  # seed every episode (0.2 s each), so that a resume replays the running ones

    def __init__(self, name: str, config: Config, seed: int):
        """Raises BadInput for an unknown game, or one without a target score of the chosen kind."""
        self.config = config
        classic = config.protocol == "classic"
        self.emulation = Emulation(
            sticky_actions=0.0 if classic else 0.25,
            noop_max=30,
            fire_at_reset=classic,
            max_episode_frames=config.max_episode_frames,
            frame_stack=config.frame_stack,
        )
        named = parse(name)
        targets, kind = _targets(named, config.targets)
        self.spec = SuiteSpec(
            name=named.name,
            tasks=tuple(
                TaskSpec(
                    name=game,
                    index=index,
                    max_episode_steps=config.max_episode_frames // FRAME_SKIP,
                    random_return=REFERENCES[game].random if game in REFERENCES else None,
                    human_return=REFERENCES[game].human if game in REFERENCES else None,
                    target_return=targets.get(game),
                )
                for index, game in enumerate(named.games)
            ),
            observation_space=gym.spaces.Box(0, 255, (config.frame_stack, FRAME_SIZE, FRAME_SIZE), np.uint8),
            action_space=gym.spaces.Discrete(NUM_ACTIONS),
            action_mask=_action_mask(named.games),
            frame_stack=config.frame_stack,
            samples_policy=True,
            protocol=f"atari-{config.protocol}",
            settings={
                **{package: importlib.metadata.version(package) for package in self.packages},
                **asdict(self.emulation),
                "frame_skip": FRAME_SKIP,
                "max_pooled_frames": 2,
                "frame_size": FRAME_SIZE,
                "life_loss_ends_episode": False,
                "actions": f"{NUM_ACTIONS}, the minimal set of each game legal",
                "reward": "raw score",
                "evaluation_actions": "drawn from the policy",
                "targets": kind,
            },
        )

    @classmethod
    def accepts(cls, name: str) -> bool:
        return name in SETS or name.startswith("atari:")

    @classmethod
    def suggestion(cls, name: str) -> str | None:
        return suggested_name(name)

    @classmethod
    def presets(cls, name: str, agent: str) -> Mapping[str, Mapping[str, Any]]:
        return {"published": published(len(SETS[name]) if name in SETS else 1 + name.count(","), agent)}

    @classmethod
    def diagnose(cls) -> Iterable[tuple[str, str]]:
        """The licence of the emulator."""
        yield (
            "ale-py",
            "GPL-2.0-only, copyleft: a program that ships it comes under the GPL; imported for Atari suites only",
        )

    def make_envs(
        self, num_envs: int, episodes: EpisodeSource, *, mode: Mode, num_workers: int, worker_timeout: float
    ) -> MultiTaskVectorEnv:
        """The games run on ale-py's threads; `num_workers` and `worker_timeout` have nothing to apply to.

        Episodes of an evaluation are always seeded, so that they do not depend on what was played before.
        """
        from envs.atari.vector_env import AtariEnvs

        seed_every_episode = mode == "evaluate" or self.config.exact_resume
        return AtariEnvs(self.spec, num_envs, episodes, self.emulation, seed_every_episode=seed_every_episode)

    def render_episode(self, task: int, variation: int, act: Callable[[np.ndarray], np.ndarray]) -> RenderedEpisode:
        from envs.atari.render import render_episode

        return render_episode(self.spec.tasks[task], self.emulation, variation, act)


def _action_mask(games: tuple[str, ...]) -> np.ndarray:
    """(M, 18), True where an action is in the minimal set of the game."""
    mask = np.zeros((len(games), NUM_ACTIONS), bool)
    for row, game in zip(mask, games, strict=True):
        row[list(LEGAL_ACTIONS[game])] = True
    return mask


def _targets(named: NamedGames, kind: str) -> tuple[Mapping[str, float], str]:
    """Target scores by game and which they are; "auto" may find none. Raises BadInput."""
    known = {"sharma": SHARMA_TARGETS, "human": {game: reference.human for game, reference in REFERENCES.items()}}
    if kind == "auto":
        complete = [name for name, scores in known.items() if all(game in scores for game in named.games)]
        return (known[complete[0]], complete[0]) if complete else ({}, "none")
    missing = [game for game in named.games if game not in known[kind]]
    if missing:
        raise BadInput(
            f"suite.targets: {kind!r} has no target score for {', '.join(missing[:5])}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}; known: {', '.join(sorted(known[kind]))}"
        )
    return known[kind], kind
