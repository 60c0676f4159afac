"""What SAC says of temperatures that diverge."""

from __future__ import annotations

import pytest
import torch

from agents.sac import SAC
from envs.point_mass import PointMass
from mtrl.errors import Diverged
from mtrl.testing.small_runs import make_agent


def test_a_temperature_that_diverges_is_named_by_its_task() -> None:
    agent = make_agent(SAC, SAC.Config(), PointMass("point-mass", PointMass.Config(), 1).spec)
    log_prob = torch.tensor([0.0, torch.nan, 0.0, torch.inf])
    with pytest.raises(Diverged, match=r"is not finite for the task\(s\) goal-0\.8\+0\.8, goal\+0\.8\+0\.8$"):
        agent.temperatures.step(log_prob, torch.arange(4))
