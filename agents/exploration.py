"""Exploration beyond the noise of a policy. Shapes: N slots, A dimensions of an action."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.policies import SoftHead

LONGEST = 100
"""Env steps that a random action is held at most."""


class HeldActions:
    """Random actions that are held for several env steps.

    Temporally extended epsilon-greedy (Dabney et al., 2021, arXiv:2006.01782). In a slot that holds none, one begins
    with probability `rate` per env step and lasts n steps, P(n) ~ n^-2. Beyond the paper, each dimension of a
    continuous action takes part with probability 1/2, so that a gripper may be held open while the policy moves the
    arm. An action ends early where its slot changes its task, whose actions may be others.
    """

    def __init__(self, rate: float, num_envs: int, head: SoftHead, generator: torch.Generator):
        """generator: what all of it is drawn from."""
        self.rate = rate
        self.head = head
        self.generator = generator
        device = generator.device
        self.task_ids = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self.remaining = torch.zeros_like(self.task_ids)  # env steps that the action of each slot still lasts
        self.action = torch.zeros_like(head.random_action(self.task_ids, torch.Generator(device)))  # (N,) or (N, A)
        self.takes_part = torch.zeros_like(self.action, dtype=torch.bool)
        inverse_squares = torch.arange(1, LONGEST + 1, dtype=torch.float64, device=device) ** -2
        self.chances = inverse_squares / inverse_squares.sum()

    def __call__(self, action: Tensor, task_ids: Tensor) -> Tensor:
        """The actions to play, given those of the policy (N,) or (N, A) and the tasks (N,) of the slots.

        Rows that are not the run's slots (another number of them) are left as they are.
        """
        if len(task_ids) != len(self.task_ids):
            return action
        draw, device = self.generator, self.generator.device
        self.remaining = torch.where(task_ids == self.task_ids, self.remaining, 0)
        self.task_ids = task_ids.clone()
        begins = (torch.rand(len(task_ids), generator=draw, device=device) < self.rate) & (self.remaining == 0)
        length = torch.multinomial(self.chances, len(task_ids), replacement=True, generator=draw) + 1
        random = self.head.random_action(task_ids, draw)
        part = torch.rand(action.shape, generator=draw, device=device) < (0.5 if action.ndim > 1 else 1.0)
        self.remaining = torch.where(begins, length, self.remaining)
        begins, held = (slots.view(-1, *(1 for _ in action.shape[1:])) for slots in (begins, self.remaining > 0))
        self.action = torch.where(begins, random, self.action)
        self.takes_part = torch.where(begins, part, self.takes_part)
        self.remaining = (self.remaining - 1).clamp(min=0)
        return torch.where(held & self.takes_part, self.action, action)

    def state(self) -> dict[str, Tensor]:
        """What a resume needs."""
        return {name: getattr(self, name) for name in ("task_ids", "remaining", "action", "takes_part")}

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            setattr(self, name, value.clone().to(self.generator.device))
