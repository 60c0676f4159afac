"""Games, sets of games, and what the name of a suite stands for; no emulator needed.

The sets `atari-mt1` to `atari-mt7` are those of Sharma et al., 2017 (arXiv:1702.06053).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from envs.atari.legal_actions import LEGAL_ACTIONS
from envs.atari.scores import REFERENCES
from mtrl.errors import BadInput
from mtrl.registry import nearest

ATARI57 = tuple(REFERENCES)

MT1 = ("space_invaders", "crazy_climber", "seaquest", "demon_attack", "star_gunner", "name_this_game")
MT2 = ("asterix", "alien", "assault", "time_pilot", "gopher", "chopper_command")
MT3 = ("breakout", "centipede", "frostbite", "qbert", "kung_fu_master", "wizard_of_wor")
MT4 = ("atlantis", "breakout", "bowling", "crazy_climber", "seaquest", "space_invaders", "pong", "enduro")
MT5 = (
    "space_invaders",
    "seaquest",
    "asterix",
    "alien",
    "assault",
    "bank_heist",
    "crazy_climber",
    "demon_attack",
    "gopher",
    "name_this_game",
    "star_gunner",
    "tutankham",
)
MT6 = (
    "atlantis",
    "amidar",
    "breakout",
    "bowling",
    "beam_rider",
    "chopper_command",
    "centipede",
    "frostbite",
    "kung_fu_master",
    "pong",
    "road_runner",
    "phoenix",
)
MT7 = (
    *MT5,
    "amidar",
    "chopper_command",
    "breakout",
    "beam_rider",
    "bowling",
    "centipede",
    "krull",
    "kangaroo",
    "phoenix",
)

SETS: Mapping[str, tuple[str, ...]] = {
    **{f"atari-mt{number}": games for number, games in enumerate((MT1, MT2, MT3, MT4, MT5, MT6, MT7), start=1)},
    "atari57": ATARI57,
}

_BY_LETTERS = {game.replace("_", ""): game for game in LEGAL_ACTIONS}


@dataclass(frozen=True)
class NamedGames:
    """What a suite name stands for."""

    name: str  # the full spelling
    games: tuple[str, ...]


def parse(name: str) -> NamedGames:
    """The games of a suite name. Raises BadInput for one that is not Atari's."""
    if name in SETS:
        return NamedGames(name, SETS[name])
    if not name.startswith("atari:"):
        raise BadInput(
            f"suite {name!r} is not one of Atari's{nearest(name, SETS)}; known: {', '.join(SETS)}, atari:GAME"
        )
    games = tuple(full_game_name(game) for game in name.removeprefix("atari:").split(","))
    for game in games:
        if games.count(game) > 1:
            raise BadInput(f"suite {name!r} names game {game!r} twice")
    return NamedGames("atari:" + ",".join(games), games)


def suggested_name(name: str) -> str | None:
    """The suite that is meant by `ALE/Pong-v5`, `PongNoFrameskip-v4`, `Pong` or `pong,breakout`."""
    games = [_BY_LETTERS.get(_letters(entry)) for entry in name.split(",")]
    if name.lower() in SETS:
        return name.lower()
    return f"atari:{','.join(filter(None, games))}" if all(games) else None


def full_game_name(name: str) -> str:
    """The name of a game as ale-py has it; `ALE/Pong-v5` and `space-invaders` are understood. Raises BadInput."""
    letters = _letters(name)
    if letters not in _BY_LETTERS:
        hint = nearest(name.lower(), LEGAL_ACTIONS)
        raise BadInput(f"unknown Atari game {name!r}{hint}; known: {', '.join(LEGAL_ACTIONS)}")
    return _BY_LETTERS[letters]


def _letters(name: str) -> str:
    """Those of a game, without what Gymnasium or another spelling adds."""
    game = re.sub(r"(NoFrameskip|Deterministic)?(-v\d)?$", "", name.removeprefix("ALE/"))
    return game.lower().replace("_", "").replace("-", "")
