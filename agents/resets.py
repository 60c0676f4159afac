"""Networks that start anew in the course of a run (Nikishin et al., 2022, arXiv:2205.07802).

What was learned first holds back what can be learned later; the replay buffer remembers what the networks forget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mtrl.agent import Agent, Components
from mtrl.policies import AveragedPolicy
from mtrl.seeding import seeded_construction


class NetworkResets:
    """Gives an agent's networks new random weights whenever `interval` env steps have passed (None: never)."""

    def __init__(self, components: Components, interval: int | None, networks: Sequence[str]):
        """networks: the names of the agent's modules concerned."""

        def new(agent: Agent) -> Agent:
            with seeded_construction(components.seed, f"reset at {agent.env_steps}"):
                return type(agent)(replace(components, learning=False), agent.config)

        self._new = new
        self.interval = interval
        self.networks = tuple(networks)

    def due(self, agent: Agent) -> bool:
        """Whether the update before this one ended an interval.

        One update late, so that evaluations at the end of an interval, and of the run, see what it has learned.
        """
        if self.interval is None:
            return False
        step = agent.rollout_steps * agent.num_envs
        last = agent.env_steps - step
        return last // self.interval > max(0, last - step) // self.interval

    @torch.no_grad()
    def apply(self, agent: Agent) -> None:
        """New weights, which depend on the seed and the env step; the optimisers of all groups forget their moments."""
        new = self._new(agent)
        for name in self.networks:
            pairs = zip(agent.get_submodule(name).parameters(), new.get_submodule(name).parameters(), strict=True)
            for parameter, value in pairs:
                parameter.copy_(value)
        for group in agent.groups().values():
            group.forget()
        for module in agent.modules():
            if isinstance(module, AveragedPolicy):
                module.num_updates = 0  # so that the initial weights are soon forgotten, as at the start
