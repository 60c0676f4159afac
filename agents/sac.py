"""Multi-task soft actor-critic, one temperature per task (Haarnoja et al., 2018, arXiv:1812.05905).

On discrete actions the expectations are exact sums over the legal ones (Christodoulou, 2019, arXiv:1910.07207); the two
forms differ in the action head alone. Shapes: B batch, D observation, F features, A action, M tasks, K critics.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from agents.critics import Bins, Critics, Temperatures, make_critics, n_step_return, polyak_update
from agents.exploration import HeldActions
from agents.resets import NetworkResets
from mtrl.agent import Agent, Components, agent_types
from mtrl.aggregation import Parameters, TaskLosses
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.data_parallel.learning import own_part
from mtrl.networks.layers import uniform_noise
from mtrl.optim.parameter_group import ParameterGroup
from mtrl.per_task import mean_per_task, means_per_task, nan_where_absent
from mtrl.policies import AveragedPolicy, make_soft_head
from mtrl.types import ActionStep, Batch, EnvStep, Metrics, TaskWeights


@agent_types.register("sac")
class SAC(Agent):
    """Soft actor-critic for continuous and discrete suites."""

    group_gauges: Mapping[str, bool] = {"critic": True, "actor": False}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        batch_size: Annotated[int, Field(ge=1)] | None = None  # transitions per update; default 128 per task
        buffer_size: Annotated[int, Field(ge=1)] = 1_000_000  # transitions kept, of all tasks together
        learning_starts: Annotated[int, Field(ge=1)] = 5_000  # env steps of random actions before learning
        held_action_rate: Annotated[float, Field(ge=0, le=1)] = 0.0  # per env step, of a random action that is held
        update_interval: Annotated[int, Field(ge=1)] | None = None  # env steps between updates; default one vector step
        gradient_steps: Annotated[int, Field(ge=1)] = 1  # per update
        discount: Annotated[float, Field(ge=0, le=1)] = 0.99  # per env step
        n_step: Annotated[int, Field(ge=1)] = 1  # rewards in a target before it bootstraps
        target_rate: Annotated[float, Field(gt=0, le=1)] = 0.005  # Polyak rate of the target critics
        averaging_rate: Annotated[float, Field(gt=0, le=1)] = 0.001  # of the policy that is evaluated; 1: no average
        learning_rate: Annotated[float, Field(gt=0)] = 3e-4  # Adam, actor and critics
        annealing_steps: Annotated[int, Field(ge=1)] | None = None  # env steps until that rate is 0; None: constant
        reset_interval: Annotated[int, Field(ge=1)] | None = None  # env steps after which networks start anew
        reset_updates: Annotated[int, Field(ge=0)] = 1_000  # gradient steps to catch up then
        alpha_learning_rate: Annotated[float, Field(gt=0)] = 3e-4  # Adam, temperatures
        initial_alpha: Annotated[float, Field(gt=0)] = 1.0  # temperature at the start, every task
        target_entropy_scale: Annotated[float, Field(gt=0)] | None = None  # default 1 (of -dim A) or 0.89 (of log A)
        max_grad_norm: Annotated[float, Field(gt=0)] = 1.0  # global norm per parameter group
        num_critics: Annotated[int, Field(ge=1)] = 2  # the smallest value counts
        critic_bins: Annotated[int, Field(ge=2)] | None = None  # of categorical critics, such as 101; None: scalar ones
        critic_limit: Annotated[float, Field(gt=0)] = 10.0  # bins lie within +- this, in the normalizer's units
        temperature_task_weights: bool = False  # weight losses by M softmax(-log alpha)

    def __init__(self, components: Components, config: Config):
        super().__init__(components, config)
        self.config = config
        self.rollout_steps = -(-(config.update_interval or 1) // self.num_envs)  # vector steps, rounded up
        self.buffer_size = config.buffer_size
        self.learns_until = config.annealing_steps
        self.batch_size = config.batch_size or 128 * self.num_tasks
        self.head = make_soft_head(components.spec)
        encoder = components.encoder()
        self.policy = components.policy(encoder.out_features, self.head)
        self.normalizer = components.normalizer(config.discount)
        bins = Bins(config.critic_bins, config.critic_limit) if config.critic_bins else None
        self.critics = make_critics(components, encoder, self.head, self.normalizer, config.num_critics, bins)
        self.average = AveragedPolicy(encoder, self.policy, config.averaging_rate)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        # A policy may fix the temperature: Distral's entropy coefficient, which is 0 with KL only.
        self.temperatures = Temperatures(
            config.initial_alpha if self.policy.temperature is None else max(self.policy.temperature, 1e-38),
            self.head.target_entropy(config.target_entropy_scale),
            learning_rate=config.alpha_learning_rate,
            task_names=self.spec.task_names,
            device=self.device,
            learns=self.policy.temperature is None,
        )
        self.to(self.device)
        rates: dict[str, Any] = {"learning_rate": config.learning_rate, "max_grad_norm": config.max_grad_norm}
        self.polyak_pair = tuple(self.target_critics.parameters()), tuple(self.critics.parameters())
        self.critic_group = components.parameter_group("critic", self.critics, encoder=encoder, **rates)
        self.actor_group = components.parameter_group("actor", self.policy, policy=self.policy, **rates)
        networks = ("policy", "critics", "target_critics", "average")
        self.resets = NetworkResets(components, config.reset_interval, networks)
        self.explore_stream = components.stream("explore")
        self.update_stream = components.stream("update")
        rate, stream = config.held_action_rate, self.explore_stream
        self.held_actions = HeldActions(rate, self.num_envs, self.head, stream) if rate else None

    # Acting.

    @torch.no_grad()
    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        seen, tasks = self.to_device(observation), self.to_device(task_ids)
        self.env_steps += len(tasks) if explore else 0
        with self.autocast():
            if not explore:
                action = self.average.mode(seen, tasks)
            elif self.env_steps <= self.config.learning_starts:
                action = self.head.random_action(tasks, self.explore_stream)
            else:
                action = self.policy.sample(self.critics.encoder(seen), tasks, self.explore_stream).action
                action = self.held_actions(action, tasks) if self.held_actions else action
        return ActionStep(action.cpu().numpy())

    @torch.no_grad()
    def sample(self, observation: np.ndarray, task_ids: np.ndarray, generator: torch.Generator) -> np.ndarray:
        with self.autocast():
            return self.average.sample(self.to_device(observation), self.to_device(task_ids), generator).cpu().numpy()

    # Learning.

    def on_env_step(self, step: EnvStep) -> None:
        self.normalizer.on_env_step(step)
        self.critics.encoder.on_env_step(step)

    def update(self, buffer: RolloutBuffer, task_weights: TaskWeights) -> Metrics:
        self.critics.encoder.refresh()
        if self.env_steps <= self.config.learning_starts:
            return {}
        for group in self.groups().values():
            group.anneal(self.env_steps, self.config.annealing_steps)
        reset = self.resets.due(self)
        if reset:
            self.resets.apply(self)
        if not self.critic_group.optimizer.state:  # the first update, or the first after a reset
            self.normalizer.on_reset()
        horizon = max(group.horizon for group in self.groups().values())
        for _ in range(self.config.gradient_steps + reset * self.config.reset_updates):
            batch = buffer.sample(self.batch_size, task_weights.shares, self.config.n_step, horizon)
            metrics = self.learn(batch.weighted(task_weights.loss_weights))
        return metrics

    def learn(self, batch: Batch) -> Metrics:
        """One gradient step of critics, actor and temperatures on a batch."""
        batch = own_part(replace(batch, noise=self._sample_noise(len(batch.reward))))
        target = self.bellman_target(batch)
        batch = replace(batch, extras={**batch.extras, "target": target})
        # All critics, online and target, predict in the same units: the statistics change before anyone learns.
        self.normalizer.update_statistics(target, batch.task_ids, [self.critics.output, self.target_critics.output])
        critic = self.critic_group.step(self.critic_losses, batch)
        actor = self.actor_group.step(self.actor_losses, batch)
        alpha = self.temperatures.step(actor.metrics["log_prob"], batch.task_ids)
        polyak_update(*self.polyak_pair, self.config.target_rate)
        self.average.update()
        means = alpha | means_per_task({**critic.metrics, **actor.metrics}, batch.task_ids, self.num_tasks)
        critic_loss, actor_loss = (nan_where_absent(group.losses, batch.task_ids) for group in (critic, actor))
        return {"critic_loss": critic_loss, "actor_loss": actor_loss, "entropy": -means.pop("log_prob"), **means}

    @torch.no_grad()
    def bellman_target(self, batch: Batch) -> Tensor:
        """r + gamma (min_k Q'_k(s', a') - alpha log pi(a'|s')) in reward units (B,), or that after n steps.

        With a regularized policy (`PolicyOutput.regularization`) its regularization replaces alpha log pi, here and in
        the actor's loss. alpha is in reward units whatever the normalizer, unless that divides the rewards themselves.
        """
        tasks = batch.task_ids
        with self.autocast():
            # One encoder, trained by the critics: the actor reads its features and sends no gradient back.
            policy = self.policy(self.critics.encoder(batch.next_observation), tasks, batch.noise.get("next_route"))
            features = self.target_critics.encoder(batch.next_observation)
            next_q = policy.distribution.expect(
                lambda action: self.min_q(self.target_critics, features, action, batch, "target"),
                batch.noise["next_action"],
            )
        regularization = policy.expected_regularization(next_q.log_prob, self.temperatures(tasks))
        next_value = self.normalizer.denormalize(next_q.value, tasks)
        next_value = next_value - self.normalizer.regularization_scale(tasks) * regularization
        reward, discount = n_step_return(batch, self.normalizer, self.config.discount)
        # A truncated step still bootstraps: only `terminated` ends the return.
        return reward + discount * ~batch.terminated * next_value

    def critic_losses(self, parameters: Parameters, batch: Batch) -> TaskLosses:
        """Bellman errors (`Critics.errors`), mean over critics and within each task (M,), in the normalizer's units."""
        critics = self.critic_group.bind(self.critics, parameters)
        features = self.critic_group.bind(self.critics.encoder, parameters, "encoder.")(batch.observation)
        output = critics(self.head.critic_input(features, batch.action), batch.task_ids, batch.noise.get("critic"))
        target = self.normalizer.normalize(batch.extras["target"], batch.task_ids)
        errors = self.critics.errors(output, self.head, batch.action, target)  # (K, B)
        losses = mean_per_task(errors.mean(0), batch.task_ids, self.num_tasks)
        q = self.head.chosen_values(output.values.detach().mean(0, keepdim=True), batch.action).squeeze(0)
        metrics = {"q_value": self.normalizer.denormalize(q, batch.task_ids)}
        return TaskLosses(self._weighted(losses), metrics, features, (output.network,), gauge=losses)

    def actor_losses(self, parameters: Parameters, batch: Batch) -> TaskLosses:
        """E[alpha log pi(a|s) - min_k Q_k(s, a)], mean within each task (M,), in the normalizer's units."""
        tasks = batch.task_ids
        features = self.critics.encoder(batch.observation).detach()
        policy = self.actor_group.bind(self.policy, parameters)(features, tasks, batch.noise.get("route"))
        q = policy.distribution.expect(
            lambda action: self.min_q(self.critics, features, action, batch, "actor_critic"), batch.noise["action"]
        )
        # Both terms divided by the normalizer's scale: alpha log pi / sigma - Q in its units.
        scale = self.normalizer.regularization_scale(tasks) / self.normalizer.scale(tasks)
        cost = scale * policy.expected_regularization(q.log_prob, self.temperatures(tasks)) - q.value
        losses = mean_per_task(cost, tasks, self.num_tasks)
        if policy.network.route_log_prob is not None:
            # REINFORCE for a sampled route: log pi(route) (mean cost - cost)
            advantage = (losses[tasks] - cost).detach()
            losses = losses - mean_per_task(policy.network.route_log_prob * advantage, tasks, self.num_tasks)
        losses = losses + mean_per_task(scale * policy.distillation(), tasks, self.num_tasks)
        diagnostics = {f"actor/{name}": values for name, values in policy.network.diagnostics.items()}
        metrics = {"log_prob": q.log_prob.detach(), **diagnostics}
        outputs, distribution = (policy.network,), policy.distribution
        return TaskLosses(self._weighted(losses), metrics, features, outputs, distribution=distribution)

    def min_q(self, critics: Critics, features: Tensor, action: Tensor | None, batch: Batch, noise: str) -> Tensor:
        """min_k Q_k (B, 1 or A) in the normalizer's units."""
        output = critics(self.head.critic_input(features, action), batch.task_ids, batch.noise.get(noise))
        return output.values.amin(0)

    def _weighted(self, losses: Tensor) -> Tensor:
        """Losses (M,) weighted by the temperatures, if the configuration says so."""
        return losses * self.temperatures.task_weights() if self.config.temperature_task_weights else losses

    def _sample_noise(self, num_samples: int) -> Mapping[str, Tensor]:
        """All randomness of one update: action noise, and the noise of routed networks."""
        stream, critic_noise = self.update_stream, (self.config.num_critics, self.critics.ensemble.noise_size)
        noise: dict[str, Tensor | None] = {}
        noise |= {name: self.head.sample_noise(num_samples, stream) for name in ("next_action", "action")}
        noise |= {name: uniform_noise(stream, num_samples, self.policy.noise_size) for name in ("next_route", "route")}
        critics = ("critic", "target", "actor_critic")
        noise |= {name: uniform_noise(stream, num_samples, *critic_noise) for name in critics}
        return {name: values for name, values in noise.items() if values is not None}

    # Saving.

    def groups(self) -> Mapping[str, ParameterGroup]:
        return {"critic": self.critic_group, "actor": self.actor_group}

    def streams(self) -> Mapping[str, torch.Generator]:
        return {"explore": self.explore_stream, "update": self.update_stream}

    def state(self) -> dict[str, Any]:
        held = {"held_actions": self.held_actions.state()} if self.held_actions else {}
        return super().state() | {"alpha_optimizer": self.temperatures.moments()} | held

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.temperatures.load_moments(state["alpha_optimizer"])
        if self.held_actions:
            self.held_actions.load_state(state["held_actions"])
