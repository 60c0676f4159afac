"""Multi-head SAC written by hand for one shape of problem: what the plug-in interface is measured against.

The mathematics of `agents.sac` with `multi-head` and `mean`, on plain tensors: no modules, registries, policies or
aggregators. What is known of the problem is used: batches are sorted by task with as many rows of each, so the heads
are one batched product of every task's own rows and means per task are means of a view; the input of all networks is
put together once; actions are continuous, nothing is normalised. It says of an update what the agent says, and stops
before a step that is not finite.
Shapes: B batch, M tasks, D observation, A action, K critics.
"""

from __future__ import annotations

import math
from itertools import chain, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from agents.sac import SAC
from agents.temperatures import LearnedTemperatures
from mtrl.errors import Diverged
from mtrl.networks.layers import one_hot
from mtrl.types import Batch, Metrics

Network = list[Tensor]
"""Weight (out, in) and bias (out,) of every layer, the last one's for the heads of all tasks."""


class FusedMultiHeadSAC:
    """Copies of an agent's networks and temperatures, and their updates."""

    def __init__(self, agent: SAC):
        """`agent` has not learnt yet, has architecture `multi-head` without layer norm, and no normaliser."""
        self.config = agent.config
        self.num_tasks = agent.num_tasks
        self.actor = _copied(agent.policy)
        self.critics = [_copied(member) for member in agent.critics.ensemble.members]
        self.targets = [[value.detach().clone() for value in critic] for critic in self.critics]
        self.online, self.slow = list(chain(*self.critics)), list(chain(*self.targets))
        assert isinstance(agent.temperatures, LearnedTemperatures)
        self.log_alpha = agent.temperatures.log_alpha.detach().clone()
        self.target_entropy = agent.temperatures.target_entropy
        self.generator = agent.update_stream.clone_state()
        rate = self.config.learning_rate
        self.actor_optimizer = torch.optim.Adam(self.actor, lr=rate, eps=1e-5, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.online, lr=rate, eps=1e-5, fused=True)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=self.config.alpha_learning_rate, fused=True)

    def update(self, batch: Batch) -> Metrics:
        """One gradient step of everything; the agent's metrics. Raises Diverged."""
        # As the agent draws them: first the noise of the target, then that of the actor's loss.
        next_noise, noise = (torch.randn(batch.action.shape, generator=self.generator) for _ in range(2))
        tasks = one_hot(batch.task_ids, self.num_tasks)
        observation = torch.cat([batch.observation, tasks], dim=-1)
        alpha = self.log_alpha.exp()[batch.task_ids]

        with torch.no_grad():
            next_input = torch.cat([batch.next_observation, tasks], dim=-1)
            next_action, next_log_prob = self._policy(next_input, next_noise)
            next_input = torch.cat([batch.next_observation, next_action, tasks], dim=-1)
            next_value = self._values(self.targets, next_input).amin(0) - alpha * next_log_prob
            target = batch.reward + self.config.discount * ~batch.terminated * next_value

        values = self._values(self.critics, torch.cat([batch.observation, batch.action, tasks], dim=-1))
        q_value = values.detach().mean(0)
        critic_losses = self._per_task((values - target).square().mean(0))
        self._step(critic_losses, self.critic_optimizer)

        action, log_prob = self._policy(observation, noise)
        value = self._values(self.critics, torch.cat([batch.observation, action, tasks], dim=-1)).amin(0)
        actor_losses = self._per_task(alpha * log_prob - value)
        self._step(actor_losses, self.actor_optimizer)

        q_value, log_prob = torch.stack([q_value, log_prob.detach()]).view(2, self.num_tasks, -1).mean(2)
        self.log_alpha.grad = -(log_prob + self.target_entropy)
        if not bool(torch.isfinite(self.log_alpha.grad).all()):
            raise Diverged("gradient of log alpha is not finite")
        alpha_losses = self.log_alpha * self.log_alpha.grad
        self.alpha_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.slow, self.online, self.config.target_rate)
        return {
            "critic_loss": critic_losses.detach(),
            "actor_loss": actor_losses.detach(),
            "alpha_loss": alpha_losses,
            "alpha": self.log_alpha.exp(),
            "entropy": -log_prob,
            "q_value": q_value,
        }

    def _policy(self, network_input: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (B, A) and their log-probabilities (B,)."""
        mean, log_std = self._outputs(self.actor, network_input).chunk(2, dim=-1)
        log_std = log_std.clamp(-20, 2)
        unsquashed = mean + log_std.exp() * noise
        squash = 2 * (math.log(2) - unsquashed - F.softplus(-2 * unsquashed))
        log_prob = (-0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi) - squash).sum(-1)
        return unsquashed.tanh(), log_prob

    def _values(self, critics: list[Network], network_input: Tensor) -> Tensor:
        """Values of every critic (K, B)."""
        return torch.stack([self._outputs(critic, network_input).squeeze(-1) for critic in critics])

    def _outputs(self, network: Network, network_input: Tensor) -> Tensor:
        """(B, inputs) -> (B, outputs) of the row's own head."""
        hidden = network_input
        *layers, heads, bias = network
        for weight, bias_of_layer in zip(layers[::2], layers[1::2], strict=True):
            hidden = F.linear(hidden, weight, bias_of_layer).relu_()
        by_task = hidden.view(self.num_tasks, -1, hidden.shape[-1])
        own = torch.baddbmm(
            bias.view(self.num_tasks, 1, -1), by_task, heads.view(self.num_tasks, -1, heads.shape[-1]).transpose(1, 2)
        )
        return own.flatten(0, 1)

    def _per_task(self, values: Tensor) -> Tensor:
        return values.view(self.num_tasks, -1).mean(1)

    def _step(self, losses: Tensor, optimizer: torch.optim.Optimizer) -> None:
        parameters = optimizer.param_groups[0]["params"]
        gradients = torch.autograd.grad(losses.mean(), parameters)
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        if not bool(torch.isfinite(norm) & torch.isfinite(losses).all()):
            raise Diverged("loss or gradient is not finite")
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grads_with_norm_(parameters, self.config.max_grad_norm, norm, foreach=True)
        optimizer.step()


def _copied(module: torch.nn.Module) -> Network:
    network = [parameter.detach().clone().requires_grad_() for parameter in module.parameters()]
    layers = list(pairwise(network))[::2]
    assert all(bias.shape == weight.shape[:1] for weight, bias in layers), "not a plain perceptron"
    return network
