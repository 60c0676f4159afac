"""Multi-task soft actor-critic, one temperature per task (Haarnoja et al., 2018, arXiv:1812.05905).

On discrete actions the expectations are exact sums over the legal ones (Christodoulou, 2019, arXiv:1910.07207); the two
forms differ in the action head alone. Shapes: B batch, D observation, F features, A action, M tasks, K critics.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from agents.temperatures import FixedTemperature, LearnedTemperatures, Temperatures
from mtrl.agent import Agent, Parts, actor_diagnostics, agent_types
from mtrl.aggregation import LossFunction, Parameters, TaskLosses, mean_per_task, means_per_task
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.encoders import Encoder
from mtrl.flat_parameters import FlatParameters, polyak_update
from mtrl.networks import Ensemble, Output
from mtrl.normalization import ValueOutput
from mtrl.optim.parameter_group import OptimizedGroup
from mtrl.policies import make_soft_head
from mtrl.recorded import recorded
from mtrl.types import Acted, Batch, EnvStep, Metrics


class Critics(nn.Module):
    """An encoder and an ensemble of Q networks on its features, with the normaliser's output behind them."""

    def __init__(self, encoder: Encoder, ensemble: Ensemble, output: ValueOutput):
        super().__init__()
        self.encoder = encoder
        self.ensemble = ensemble
        self.output = output

    def forward(self, critic_input: Tensor, task_ids: Tensor, draws: Tensor | None = None) -> Output:
        """Critic input (B, F or F + A) -> values (K, B, 1 or A) in the normaliser's units."""
        output = self.ensemble(critic_input, task_ids, draws)
        values = self.output(output.values, task_ids)
        return output if values is output.values else replace(output, values=values)


@agent_types.register("sac")
class SAC(Agent):
    """Soft actor-critic for continuous and discrete suites."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        batch_size: Annotated[int, Field(ge=1)] | None = None  # transitions per update; default 128 per task
        buffer_steps: Annotated[int, Field(ge=1)] = 100_000  # vector steps kept: transitions per slot
        random_steps: Annotated[int, Field(ge=1)] = 4_000  # vector steps of random actions before learning
        steps_per_update: Annotated[int, Field(ge=1)] = 1  # vector steps between two rounds of updates
        updates_per_round: Annotated[int, Field(ge=1)] = 1  # gradient steps in a round
        discount: Annotated[float, Field(ge=0, le=1)] = 0.99  # per env step
        target_rate: Annotated[float, Field(gt=0, le=1)] = 0.005  # Polyak rate of the target critics
        learning_rate: Annotated[float, Field(gt=0)] = 3e-4  # Adam, actor and critics
        alpha_learning_rate: Annotated[float, Field(gt=0)] = 3e-4  # Adam, temperatures
        initial_alpha: Annotated[float, Field(gt=0)] = 1.0  # temperature at the start, every task
        target_entropy_scale: Annotated[float, Field(gt=0)] | None = None  # default 1 (of -dim A) or 0.89 (of log A)
        max_grad_norm: Annotated[float, Field(gt=0)] = 1.0  # global norm per group
        num_critics: Annotated[int, Field(ge=1)] = 2  # the smallest value counts
        temperature_task_weights: bool = False  # weigh losses by M softmax(-log alpha)

    def __init__(self, parts: Parts, config: Config):
        super().__init__(parts, config)
        self.config = config
        self.rollout_steps = config.steps_per_update
        self.buffer_steps = config.buffer_steps
        self.batch_size = config.batch_size or 128 * self.num_tasks
        self.head = make_soft_head(parts.suite)
        encoder = parts.encoder()
        features = encoder.out_features
        self.policy = parts.policy(features, self.head)
        critic_inputs = features + self.head.critic_action_inputs
        members = [parts.value_network(critic_inputs, self.head.critic_outputs) for _ in range(config.num_critics)]
        self.normalizer = parts.normalizer()
        self.critics = Critics(encoder, Ensemble(members), self.normalizer.make_output(config.num_critics))
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.critic_draw_size = members[0].draw_size
        self.steps_acted = 0  # vector steps explored
        self.to(self.device)
        self.critic_group = OptimizedGroup(
            "critic", self.critics, parts.aggregator("critic"), config.learning_rate, config.max_grad_norm
        )
        self.actor_group = OptimizedGroup(
            "actor", self.policy, parts.aggregator("actor"), config.learning_rate, config.max_grad_norm
        )
        self.flat_targets = FlatParameters(
            {name: self.target_critics.get_parameter(name) for name in self.critic_group.parameters}
        )
        self.temperatures = self._make_temperatures()
        self.explore_stream = parts.stream("explore")
        self.update_stream = parts.stream("update")
        self.replayed = self.recording(self.learn_from, self.update_stream)
        self.losses: dict[str, LossFunction] = {"critic": self.critic_losses, "actor": self.actor_losses}
        self.find_target: Callable[[Batch], Tensor] = self.bellman_target
        if parts.record_losses:
            self.losses = {name: self.groups()[name].recorded(loss_of) for name, loss_of in self.losses.items()}
            self.find_target = recorded(self.bellman_target, (), "SAC.bellman_target")

    def _make_temperatures(self) -> Temperatures:
        if self.policy.temperature is not None:
            return FixedTemperature(self.num_tasks, self.policy.temperature, self.device)
        target = self.head.target_entropy(self.config.target_entropy_scale).to(self.device)
        return LearnedTemperatures(target, self.config.initial_alpha, self.config.alpha_learning_rate)

    # Acting.

    @torch.no_grad()
    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> Acted:
        tasks = self.to_device(task_ids)
        if explore:
            self.steps_acted += 1
            if self.steps_acted <= self.config.random_steps:
                return Acted(self.head.random_action(tasks, self.explore_stream).cpu().numpy())
            return Acted(self.sample(observation, task_ids, self.explore_stream))
        # A routed architecture takes its most likely route.
        distribution = self.policy(self.critics.encoder(self.to_device(observation)), tasks).distribution
        return Acted(distribution.mode().cpu().numpy())

    @torch.no_grad()
    def sample(self, observation: np.ndarray, task_ids: np.ndarray, generator: torch.Generator) -> np.ndarray:
        tasks = self.to_device(task_ids)
        draw = None
        if self.policy.draw_size:
            draw = torch.rand(len(tasks), self.policy.draw_size, generator=generator, device=self.device)
        distribution = self.policy(self.critics.encoder(self.to_device(observation)), tasks, draw).distribution
        return distribution.sample(self.head.draw_noise(len(tasks), generator)).cpu().numpy()

    # Learning.

    def observe(self, step: EnvStep) -> None:
        self.normalizer.observe(step)

    def update(self, buffer: RolloutBuffer, task_weights: np.ndarray) -> Metrics:
        metrics: Metrics = {}
        if self.steps_acted > self.config.random_steps:
            for _ in range(self.config.updates_per_round):
                metrics = (self.replayed or self.learn_from)(buffer.sample(self.batch_size, task_weights))
        return metrics

    def learn_from(self, batch: Batch) -> Metrics:
        """One gradient step of critics, actor and temperatures on a batch."""
        batch = self.with_target(batch.with_draws(self._draws(len(batch.reward))))
        # All critics, online and target, live in one normalised space: its statistics move before anyone learns in it.
        self.normalizer.update(
            batch.extras["target"], batch.task_ids, [self.critics.output, self.target_critics.output]
        )
        critic = self.critic_group.step(self.losses["critic"], batch)
        actor = self.actor_group.step(self.losses["actor"], batch)
        temperatures = self.temperatures.step(actor.rows["log_prob"], batch.task_ids)
        polyak_update(self.flat_targets, self.critic_group.flat, self.config.target_rate)
        means = means_per_task({**critic.rows, **actor.rows}, batch.task_ids, self.num_tasks)
        losses = {"critic_loss": critic.losses, "actor_loss": actor.losses}
        return {**losses, **temperatures, "entropy": -means.pop("log_prob"), **means}

    def with_target(self, batch: Batch) -> Batch:
        """The batch with the Bellman `target`, in reward units."""
        return batch.with_extras({"target": self.find_target(batch)})

    def critic_losses(self, parameters: Parameters, batch: Batch) -> TaskLosses:
        """Squared Bellman error, mean over the critics and within each task (M,), in the normaliser's units."""
        critics = self.critic_group.bind(self.critics, parameters)
        encoder = self.critic_group.bind(self.critics.encoder, parameters, "encoder.")
        features = encoder((batch.observation,))
        output = critics((self.head.critic_input(features, batch.action), batch.task_ids, batch.draws.get("critic")))
        q = self.head.chosen_values(output.values, batch.action)
        error = q - self.normalizer.normalize(batch.extras["target"], batch.task_ids)
        losses = mean_per_task(error.square().mean(0), batch.task_ids, self.num_tasks)
        q_value = self.normalizer.denormalize(q.detach().mean(0), batch.task_ids)
        return TaskLosses(self._weighted(losses, output), {"q_value": q_value})

    @torch.no_grad()
    def bellman_target(self, batch: Batch) -> Tensor:
        """r + gamma (min_k Q'_k(s', a') - alpha log pi(a'|s')) in reward units (B,).

        Here and in the actor's loss a policy with a regulariser is charged by that instead of alpha log pi.
        """
        # One encoder, trained by the critics: the actor reads its features and sends no gradient back.
        actor_features = self.critics.encoder(batch.next_observation)
        features = self.target_critics.encoder(batch.next_observation)
        policy = self.policy(actor_features, batch.task_ids, batch.draws.get("next_route"))
        expected = policy.distribution.expect(
            lambda action: self._values(self.target_critics, features, action, batch, "target"),
            batch.draws["next_action"],
        )
        next_value = self.normalizer.denormalize(expected.value, batch.task_ids)
        charge = policy.expected_charge(expected.log_prob, self.temperatures(batch.task_ids))
        # A truncated step still bootstraps: only `terminated` ends the return.
        reward = self.normalizer.reward(batch.reward, batch.task_ids)
        next_value = next_value - self.normalizer.scale(batch.task_ids) * charge
        return reward + self.config.discount * ~batch.terminated * next_value

    def actor_losses(self, parameters: Parameters, batch: Batch) -> TaskLosses:
        """Temperature times log-probability minus value, mean within each task (M,), in the normaliser's units."""
        features = self.critics.encoder(batch.observation).detach()
        policy = self.actor_group.bind(self.policy, parameters)((features, batch.task_ids, batch.draws.get("route")))
        expected = policy.distribution.expect(
            lambda action: self._values(self.critics, features, action, batch, "actor_critic"), batch.draws["action"]
        )
        charge = policy.expected_charge(expected.log_prob, self.temperatures(batch.task_ids))
        cost = charge - expected.value
        losses = mean_per_task(cost, batch.task_ids, self.num_tasks)
        if policy.network.route_log_prob is not None:  # a route was drawn that learns by reinforcement
            advantage = (losses[batch.task_ids] - cost).detach()
            reinforced = policy.network.route_log_prob * advantage
            losses = losses - mean_per_task(reinforced, batch.task_ids, self.num_tasks)
        rows = {"log_prob": expected.log_prob.detach(), **actor_diagnostics(policy.network)}
        return TaskLosses(self._weighted(losses, policy.network), rows)

    def _values(self, critics: Critics, features: Tensor, action: Tensor | None, batch: Batch, draw: str) -> Tensor:
        """Values of every critic (K, B, 1 or A)."""
        return critics(self.head.critic_input(features, action), batch.task_ids, batch.draws.get(draw)).values

    def _weighted(self, losses: Tensor, network: Output) -> Tensor:
        """Adds the architecture's auxiliary losses and weighs the tasks by their temperatures if asked to."""
        for auxiliary in network.losses.values():
            losses = losses + auxiliary
        if self.config.temperature_task_weights:
            losses = losses * self.temperatures.task_weights()
        return losses

    def _draws(self, num_rows: int) -> Mapping[str, Tensor]:
        """All randomness of one update: action noise, and what routed architectures want."""
        draws = {
            "next_action": self.head.draw_noise(num_rows, self.update_stream),
            "action": self.head.draw_noise(num_rows, self.update_stream),
        }
        if self.policy.draw_size:
            for name in ("next_route", "route"):
                draws[name] = self._uniform(num_rows, self.policy.draw_size)
        if self.critic_draw_size:
            for name in ("critic", "target", "actor_critic"):
                draws[name] = self._uniform(num_rows, self.config.num_critics, self.critic_draw_size)
        return draws

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.update_stream, device=self.device)

    # Saving.

    def groups(self) -> Mapping[str, OptimizedGroup]:
        return {"critic": self.critic_group, "actor": self.actor_group}

    def streams(self) -> Mapping[str, torch.Generator]:
        return {"explore": self.explore_stream, "update": self.update_stream}

    def state(self) -> dict[str, Any]:
        return super().state() | {"temperatures": self.temperatures.state(), "steps_acted": self.steps_acted}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.replayed = self.recording(self.learn_from, self.update_stream)
        self.steps_acted = int(state["steps_acted"])
        self.temperatures.load_state(state["temperatures"])
