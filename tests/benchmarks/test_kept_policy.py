"""The trained policy in the repository."""

from __future__ import annotations

from pathlib import Path

import mtrl

POLICY = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "mt10-policy"


def test_the_policy_in_the_repository_is_played_and_solves_a_task(tmp_path: Path) -> None:
    result = mtrl.Run(POLICY).evaluate(
        suite="metaworld:drawer-close,window-close",
        episodes_per_task=2,
        num_workers=0,
        output=str(tmp_path / "eval.json"),
    )
    assert result.success_rates.tolist() == [1.0, 1.0]
