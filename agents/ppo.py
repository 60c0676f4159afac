"""Multi-task proximal policy optimisation (Schulman et al., 2017, arXiv:1707.06347).

Continuous actions are sampled from an unsquashed Gaussian and clipped on their way to the environment; the
log-probabilities are those of the unclipped samples. Where an architecture chooses a route, the route is part of the
action (Rosenbaum et al., 2017, arXiv:1711.01239): its log-probability joins the ratio and its entropy the bonus.

Shapes: T time, N slots, B batch, F features, A action, M tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from agents.actor_critic import ActorCritic
from agents.gae import advantages, rollout_values, successor_values
from agents.policy_gradient import clipped_surrogate, mean_metrics, normalized_per_task, stored_extras, value_error
from mtrl.agent import Agent, Components, agent_types
from mtrl.aggregation import Parameters, TaskLosses
from mtrl.buffer.minibatches import minibatches
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.data_parallel.learning import own_part
from mtrl.errors import Diverged
from mtrl.networks import Ensemble
from mtrl.networks.layers import uniform_noise
from mtrl.optim.parameter_group import ParameterGroup
from mtrl.per_task import mean_per_task, means_per_task
from mtrl.policies import ActionHead, AveragedPolicy, make_policy_gradient_head
from mtrl.types import ActionStep, Batch, EnvStep, Metrics, TaskWeights


@agent_types.register("ppo")
class PPO(Agent):
    """Proximal policy optimisation for continuous and discrete suites."""

    group_gauges: Mapping[str, bool] = {"actor-critic": True}
    learns_from_replay = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        rollout_steps: Annotated[int, Field(ge=1)] = 128  # steps of each environment between two updates
        epochs: Annotated[int, Field(ge=1)] = 4  # passes over a rollout
        minibatches: Annotated[int, Field(ge=1)] = 4  # gradient steps per pass
        discount: Annotated[float, Field(ge=0, le=1)] = 0.99  # per env step
        gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95  # trace decay of the advantages per env step
        clip_range: Annotated[float, Field(gt=0)] = 0.1  # of the probability ratio around 1
        value_clip_range: Annotated[float, Field(gt=0)] | None = None  # of new around old values; None: no clipping
        entropy_coefficient: Annotated[float, Field(ge=0)] = 0.01  # of the entropy bonus
        value_coefficient: Annotated[float, Field(ge=0)] = 0.5  # of the squared value error
        normalize_advantages: bool = True  # to mean 0 and standard deviation 1 within each task of a rollout
        averaging_rate: Annotated[float, Field(gt=0, le=1)] = 0.001  # of the policy that is evaluated; 1: no average
        learning_rate: Annotated[float, Field(gt=0)] = 2.5e-4  # Adam
        annealing_steps: Annotated[int, Field(ge=1)] | None = None  # env steps until the rate is 0; None: constant
        max_grad_norm: Annotated[float, Field(gt=0)] = 0.5  # global norm
        target_kl: Annotated[float, Field(gt=0)] | None = None  # an epoch beyond it is a rollout's last; None: never
        initial_log_std: float = 0.0  # of continuous actions, log of the standard deviation at the start

    def __init__(self, components: Components, config: Config):
        super().__init__(components, config)
        self.config = config
        self.rollout_steps = config.rollout_steps
        self.buffer_size = config.rollout_steps * self.num_envs
        self.learns_until = config.annealing_steps
        encoder = components.encoder()
        head = make_policy_gradient_head(components.spec, config.initial_log_std)
        policy = components.policy(encoder.out_features, head)
        value = Ensemble([components.value_network(encoder.out_features, 1)])
        self.normalizer = components.normalizer(config.discount)
        self.average = AveragedPolicy(encoder, policy, config.averaging_rate)
        self.networks = ActorCritic(encoder, policy, value, self.normalizer.make_output(1))
        # A policy with an entropy coefficient of its own gets no bonus beside it.
        self.entropy_coefficient = config.entropy_coefficient if policy.temperature is None else 0.0
        self.extras = stored_extras(components.spec, encoder, policy)
        self.to(self.device)
        self.group = components.parameter_group(
            "actor-critic",
            self.networks,
            learning_rate=config.learning_rate,
            max_grad_norm=config.max_grad_norm,
            encoder=encoder,
            policy=policy,
            value_error=self.value_error,
        )
        self.explore_stream = components.stream("explore")
        self.update_stream = components.stream("update")

    @property
    def head(self) -> ActionHead:
        return self.networks.policy.head

    # Acting.

    @torch.no_grad()
    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        tasks = self.to_device(task_ids)
        if not explore:
            with self.autocast():
                mode = self.average.mode(self.to_device(observation), tasks)
            return ActionStep(self.head.to_environment(mode).cpu().numpy())
        self.env_steps += len(tasks)
        with self.autocast():
            features = self.networks.encoder(self.to_device(observation))
            policy, noise, action = self.networks.policy.sample(features, tasks, self.explore_stream)
            value = self.networks.values(features, tasks).values if "value" in self.extras else None
        extras = {
            "log_prob": _sum(policy.distribution.log_prob(action), policy.network.route_log_prob),
            "regularization": policy.regularization(action),
            "value": value,
            "sample": action,
            "route": policy.network.route,
            "noise": noise,
        }
        stored = {name: extras[name].float().cpu().numpy() for name in self.extras}  # type: ignore[union-attr]
        return ActionStep(self.head.to_environment(action).cpu().numpy(), stored)

    @torch.no_grad()
    def sample(self, observation: np.ndarray, task_ids: np.ndarray, generator: torch.Generator) -> np.ndarray:
        with self.autocast():
            action = self.average.sample(self.to_device(observation), self.to_device(task_ids), generator)
        return self.head.to_environment(action).cpu().numpy()

    # Learning.

    def on_env_step(self, step: EnvStep) -> None:
        self.normalizer.on_env_step(step)
        self.networks.encoder.on_env_step(step)

    def update(self, buffer: RolloutBuffer, task_weights: TaskWeights) -> Metrics:
        # The shares have acted already: by them the environments chose the tasks of this rollout.
        # By the env steps before this rollout: the last one is learned from, too.
        self.group.anneal(self.env_steps - self.rollout_steps * self.num_envs, self.config.annealing_steps)
        if not self.group.optimizer.state:  # the first update
            self.normalizer.on_reset()
        batch = self.group.on_rollout(self.with_advantages(buffer.rollout(self.group.horizon)))
        metrics: list[Metrics] = []
        counts: list[tuple[int, ...]] = []
        for _ in range(self.config.epochs):
            first = len(metrics)
            for minibatch in minibatches(batch, self.config.minibatches, self.update_stream):
                metrics.append(self.learn(minibatch.weighted(task_weights.loss_weights)))
                counts.append(minibatch.counts)
            if self.config.target_kl is not None:
                kl, samples = mean_metrics(metrics[first:], counts[first:])["approximate_kl"], np.sum(counts[first:], 0)
                if (kl.nan_to_num().cpu().numpy() * samples).sum() / samples.sum() > self.config.target_kl:
                    break
        # Not before: what was stored when the agent acted belongs to the observations as they looked then.
        self.networks.encoder.refresh()
        return mean_metrics(metrics, counts)

    @torch.no_grad()
    def with_advantages(self, rollout: Batch) -> Batch:
        """The transitions (T, N) of a rollout as (B,), with `value`, `advantage` and `return` (the lambda-return).

        The three are in reward units, before advantages are normalised. Raises Diverged if one is not finite.
        """
        tasks = rollout.task_ids
        regularization = self.normalizer.regularization_scale(tasks) * rollout.extras["regularization"]
        raw = rollout.reward
        rollout = replace(rollout, reward=self.normalizer.reward(rollout.reward, tasks) - regularization)
        with self.autocast():
            if "value" in rollout.extras:
                values = self.normalizer.denormalize(rollout.extras["value"], tasks)
            else:
                values = rollout_values(self._values, rollout, self.config.minibatches)
            next_values = successor_values(self._values, rollout, values)
        advantage = advantages(rollout, values, next_values, self.config.discount, self.config.gae_lambda)
        extras = {**rollout.extras, "value": values, "advantage": advantage, "return": advantage + values}
        batch = replace(rollout, reward=raw, extras=extras).map_columns(lambda column: column.flatten(0, 1))
        # Here, before the first minibatch: a later one might be the first to hold the sample.
        bad = ~torch.isfinite(batch.extras["return"])
        if bad.any():
            names = [self.spec.task_names[task] for task in batch.task_ids[bad].unique().tolist()]
            raise Diverged(f"return is not finite for the task(s) {', '.join(names)}")
        if not self.config.normalize_advantages:
            return batch
        normalized = normalized_per_task(batch.extras["advantage"], batch.task_ids, self.num_tasks)
        return replace(batch, extras={**batch.extras, "advantage": normalized})

    def _values(self, observation: Tensor, tasks: Tensor) -> Tensor:
        """Values (B,) in reward units. They are baselines: a value network with noise gives its most likely one."""
        values = self.networks.values(self.networks.encoder(observation), tasks).values
        return self.normalizer.denormalize(values, tasks)

    def learn(self, batch: Batch) -> Metrics:
        """One gradient step on samples of `with_advantages`, sorted by task."""
        self.normalizer.update_statistics(batch.extras["return"], batch.task_ids, [self.networks.output])
        noise = uniform_noise(self.update_stream, len(batch.reward), 1, self.networks.value.noise_size)
        if noise is not None:
            batch = replace(batch, noise={"value": noise})
        batch = own_part(batch)
        result = self.group.step(self.losses, batch)
        self.average.update()
        return means_per_task(result.metrics, batch.task_ids, self.num_tasks)

    def losses(self, parameters: Parameters, batch: Batch) -> TaskLosses:
        """Clipped surrogate, squared value error and entropy bonus (equation 9), mean within each task (M,)."""
        config, tasks, extras = self.config, batch.task_ids, batch.extras
        route = extras["route"].long() if "route" in extras else None
        features, policy, value_network = self.group.bind(self.networks, parameters)(
            batch.observation, tasks, extras.get("noise"), route, batch.noise.get("value")
        )
        distribution, network, value = policy.distribution, policy.network, value_network.values
        log_prob = _sum(distribution.log_prob(extras.get("sample", batch.action)), network.route_log_prob)
        entropy = _sum(distribution.entropy(), network.route_entropy)
        log_ratio = log_prob - extras["log_prob"]
        policy_loss = clipped_surrogate(log_ratio, self._advantage(batch), config.clip_range)
        target = self.normalizer.normalize(extras["return"], tasks)
        old_value = self.normalizer.normalize(extras["value"], tasks)
        value_loss = value_error(value, target, old_value, config.value_clip_range)
        # L_clip + c_1 L_value - c_2 H
        loss = policy_loss + config.value_coefficient * value_loss - self.entropy_coefficient * entropy
        loss = loss + policy.distillation()
        with torch.no_grad():
            ratio = log_ratio.exp()
            metrics = {
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": entropy,
                # Schulman, 2020, joschu.net/blog/kl-approx.html: unbiased and never negative.
                "approximate_kl": ratio - 1 - log_ratio,
                "clip_rate": ((ratio - 1).abs() > config.clip_range).float(),
                "value": self.normalizer.denormalize(value, tasks),
                **{f"actor/{name}": values for name, values in network.diagnostics.items()},
            }
        metrics = {name: values.detach() for name, values in metrics.items()}
        losses, gauge = (mean_per_task(values, tasks, self.num_tasks) for values in (loss, metrics["value_loss"]))
        return TaskLosses(losses, metrics, features, (network, value_network), gauge, distribution)

    def value_error(self, parameters: Parameters, observation: Tensor, tasks: Tensor, returns: Tensor) -> Tensor:
        """Squared error (B,) of the values, given returns in reward units; in the normalizer's units."""
        value = self.group.bind(self.networks, parameters)(observation, tasks).value.values
        return (value - self.normalizer.normalize(returns, tasks)).square()

    def _advantage(self, batch: Batch) -> Tensor:
        """The advantages (B,) of the policy gradient.

        Normalised advantages have no units, and the normalizer then serves the value alone. Otherwise they are divided
        by the normalizer's scale: (G - mu) / sigma - v with return G and normalised value v.
        """
        advantage = batch.extras["advantage"]
        return advantage if self.config.normalize_advantages else advantage / self.normalizer.scale(batch.task_ids)

    # Saving.

    def groups(self) -> Mapping[str, ParameterGroup]:
        return {"actor-critic": self.group}

    def streams(self) -> Mapping[str, torch.Generator]:
        return {"explore": self.explore_stream, "update": self.update_stream}


def _sum(action: Tensor, route: Tensor | None) -> Tensor:
    """A quantity of the action plus that of the route, where there is one."""
    return action if route is None else action + route
