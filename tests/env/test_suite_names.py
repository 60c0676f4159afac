"""Names of suites in other spellings and of other libraries are answered with ours."""

from __future__ import annotations

import pytest

import envs
from mtrl.env.suite import find_suite, suites
from mtrl.errors import BadInput


@pytest.fixture(autouse=True)
def _families_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `mtrl` registers them, whichever another test has imported first."""
    envs.register()
    ours = {name: suites.get(name) for name in ("metaworld", "atari", "gym", "point-mass")}
    monkeypatch.setattr(suites, "_classes", ours)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MT10", "mt10"),
        ("Meta-World/MT50", "mt50"),
        ("MT1-reach", "mt1-reach"),
        ("reach-v2", "mt1-reach"),
        ("Meta-World/reach-v3", "mt1-reach"),
        ("reach,push", "metaworld:reach,push"),
        ("ALE/Pong-v5", "atari:pong"),
        ("PongNoFrameskip-v4", "atari:pong"),
        ("SpaceInvadersDeterministic-v4", "atari:space_invaders"),
        ("pong,breakout", "atari:pong,breakout"),
        ("Atari57", "atari57"),
        ("CartPole-v1", "gym:CartPole-v1"),
        ("CartPole-v1,Acrobot-v1", "gym:CartPole-v1,Acrobot-v1"),
        ("MiniGrid-Empty-5x5-v0", "gym:MiniGrid-Empty-5x5-v0"),
        ("Point-Mass", "point-mass"),
        ("mt11", "mt10"),
    ],
)
def test_a_name_of_elsewhere_is_answered_with_ours(name: str, meant: str) -> None:
    with pytest.raises(BadInput) as refused:
        find_suite(name)
    assert f"unknown suite {name!r} (did you mean {meant!r}?)" in str(refused.value)
    find_suite(meant)


def test_a_name_of_nothing_known_gets_the_list() -> None:
    with pytest.raises(BadInput, match="unknown suite 'xyzzy'; known: mt3"):
        find_suite("xyzzy")
