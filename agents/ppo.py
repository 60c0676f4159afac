"""Multi-task proximal policy optimisation (Schulman et al., 2017, arXiv:1707.06347).

Continuous actions come from an unsquashed Gaussian and are clipped on their way to the environment; the policy's
density is that of what was sampled. Where an architecture chooses a route, the route is part of the action (Rosenbaum
et al., 2017, arXiv:1711.01239): its log-probability joins the ratio and its entropy the bonus.

Shapes: T time, N slots, B batch, F features, A action, M tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from agents.gae import advantages
from mtrl.agent import Agent, Parts, actor_diagnostics, agent_types
from mtrl.aggregation import LossFunction, Parameters, TaskLosses, mean_per_task, means_per_task
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.encoders import Encoder
from mtrl.errors import Diverged
from mtrl.buffer.minibatches import Minibatch, minibatches
from mtrl.networks import Ensemble, Output
from mtrl.normalization import ValueOutput
from mtrl.optim.parameter_group import OptimizedGroup
from mtrl.policies import ActionHead, Policy, PolicyOutput, make_policy_gradient_head
from mtrl.types import Acted, Batch, EnvStep, Metrics


class ActorCriticOutput(NamedTuple):
    """What the networks say about B observations."""

    policy: PolicyOutput
    value: Output  # values (B,) in the normaliser's units


class Drawn(NamedTuple):
    """What a policy does with B observations."""

    policy: PolicyOutput
    draw: Tensor | None  # what makes its networks say the same again: (B, size) a route, or their noise
    sample: Tensor


class ActorCritic(nn.Module):
    """A policy and a value network on the features of one encoder, which both train."""

    def __init__(self, encoder: Encoder, policy: Policy, value: Ensemble, output: ValueOutput):
        super().__init__()
        self.encoder = encoder
        self.policy = policy
        self.value = value
        self.output = output

    def forward(
        self, observation: Tensor, task_ids: Tensor, draw: Tensor | None = None, value_draw: Tensor | None = None
    ) -> ActorCriticOutput:
        """observation (B, *observation), draw as the policy takes it, value_draw (B, 1, size)."""
        features = self.encoder(observation)
        return ActorCriticOutput(self.policy(features, task_ids, draw), self.value_of(features, task_ids, value_draw))

    def value_of(self, features: Tensor, task_ids: Tensor, draw: Tensor | None = None) -> Output:
        """features (B, F) -> values (B,) in the normaliser's units."""
        output = self.value(features, task_ids, draw)
        return replace(output, values=self.output(output.values, task_ids).flatten())


@agent_types.register("ppo")
class PPO(Agent):
    """Proximal policy optimisation for continuous and discrete suites."""

    learns_from_replay = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        rollout_steps: Annotated[int, Field(ge=1)] = 128  # vector steps between two updates
        epochs: Annotated[int, Field(ge=1)] = 4  # passes over a rollout
        minibatches: Annotated[int, Field(ge=1)] = 4  # gradient steps per pass
        discount: Annotated[float, Field(ge=0, le=1)] = 0.99  # per env step
        gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95  # decay of the advantages' trace per env step
        clip_range: Annotated[float, Field(gt=0)] = 0.1  # of the probability ratio around 1
        value_clip_range: Annotated[float, Field(gt=0)] | None = None  # of new around old values; None: no clipping
        entropy_coefficient: Annotated[float, Field(ge=0)] = 0.01  # weight of the entropy bonus
        value_coefficient: Annotated[float, Field(ge=0)] = 0.5  # weight of the squared value error
        normalize_advantages: bool = True  # to mean 0 and deviation 1 within each task of a rollout
        learning_rate: Annotated[float, Field(gt=0)] = 2.5e-4  # Adam
        annealing_steps: Annotated[int, Field(ge=1)] | None = None  # env steps until the rate is 0; None: constant
        max_grad_norm: Annotated[float, Field(gt=0)] = 0.5  # global norm
        target_kl: Annotated[float, Field(gt=0)] | None = None  # an epoch beyond it is a rollout's last; None: never
        initial_log_std: float = 0.0  # of continuous actions, log of the standard deviation at the start

    def __init__(self, parts: Parts, config: Config):
        super().__init__(parts, config)
        self.config = config
        self.rollout_steps = config.rollout_steps
        self.buffer_steps = config.rollout_steps
        encoder = parts.encoder()
        features = encoder.out_features
        policy = parts.policy(features, make_policy_gradient_head(parts.suite, config.initial_log_std))
        value = parts.value_network(features, 1)
        self.value_draw_size = value.draw_size
        self.normalizer = parts.normalizer()
        self.networks = ActorCritic(encoder, policy, Ensemble([value]), self.normalizer.make_output(1))
        # A policy that is charged for its log-probabilities needs no bonus beside that.
        self.entropy_coefficient = config.entropy_coefficient if policy.temperature is None else 0.0
        self.extras = {"log_prob": (), "charge": ()}
        # Values wait until the rollout is complete, where a few large batches cost less than one per vector step. But
        # where an encoder learns, its features cost more than they do, and are there when the agent acts.
        if any(True for _ in encoder.parameters()):
            self.extras["value"] = ()
        if self.head.clips:
            self.extras["sample"] = tuple(parts.suite.action_space.shape or ())
        if draw_size := policy.route_size or policy.draw_size:
            self.extras["draw"] = (draw_size,)
        self.env_steps = 0  # single-environment steps explored
        self.to(self.device)
        self.group = OptimizedGroup(
            "actor-critic", self.networks, parts.aggregator("actor-critic"), config.learning_rate, config.max_grad_norm
        )
        self.explore_stream = parts.stream("explore")
        self.update_stream = parts.stream("update")
        self.replayed = self.recording(self.learn_from_rows, self.update_stream)
        self.loss_of: LossFunction = self.group.recorded(self.losses) if parts.record_losses else self.losses

    @property
    def head(self) -> ActionHead:
        return self.networks.policy.head

    # Acting.

    @torch.no_grad()
    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> Acted:
        tasks = self.to_device(task_ids)
        features = self.networks.encoder(self.to_device(observation))
        if not explore:  # a routed architecture then takes its most likely route
            mode = self.networks.policy(features, tasks).distribution.mode()
            return Acted(self.head.to_environment(mode).cpu().numpy())
        self.env_steps += len(tasks)
        policy, draw, sample = self._draw(features, tasks, self.explore_stream)
        extras = {
            "log_prob": _plus(policy.distribution.log_prob(sample), policy.network.route_log_prob),
            "charge": policy.charge(sample),
        }
        if "value" in self.extras:
            extras["value"] = self.networks.value_of(features, tasks).values
        if self.head.clips:
            extras["sample"] = sample
        if draw is not None:
            extras["draw"] = draw
        action = self.head.to_environment(sample)
        return Acted(action.cpu().numpy(), {name: value.float().cpu().numpy() for name, value in extras.items()})

    @torch.no_grad()
    def sample(self, observation: np.ndarray, task_ids: np.ndarray, generator: torch.Generator) -> np.ndarray:
        features = self.networks.encoder(self.to_device(observation))
        _, _, sample = self._draw(features, self.to_device(task_ids), generator)
        return self.head.to_environment(sample).cpu().numpy()

    def _draw(self, features: Tensor, tasks: Tensor, generator: torch.Generator) -> Drawn:
        policy = self.networks.policy
        draw = _uniform(generator, len(tasks), policy.draw_size)
        output = policy(features, tasks, draw)
        sample = output.distribution.sample(self.head.draw_noise(len(tasks), generator))
        return Drawn(output, output.network.route if policy.route_size else draw, sample)

    def _values(self, features: Tensor, tasks: Tensor) -> Tensor:
        """Values (B,) in reward units. They are baselines: a value network that draws gives its most likely one."""
        return self.normalizer.denormalize(self.networks.value_of(features, tasks).values, tasks)

    def _values_of_all(self, rollout: Batch) -> Tensor:
        """Values (T, N) of what was acted on, in the reward units of the rollout's end."""
        if "value" in self.extras:
            return self.normalizer.denormalize(rollout.extras["value"], rollout.task_ids)
        # In parts of about a minibatch's size: they fit into memory if learning does.
        steps = -(-len(rollout.reward) // self.config.minibatches)
        parts = zip(rollout.observation.split(steps), rollout.task_ids.split(steps), strict=True)
        rows = [(observation.flatten(0, 1), tasks.flatten()) for observation, tasks in parts]
        values = [self._values(self.networks.encoder(observation), tasks) for observation, tasks in rows]
        return torch.cat(values).view_as(rollout.reward)

    # Learning.

    def observe(self, step: EnvStep) -> None:
        self.normalizer.observe(step)

    def update(self, buffer: RolloutBuffer, task_weights: np.ndarray) -> Metrics:
        # The weights need no second reader here: by them the environments chose the tasks whose rows these are.
        self._anneal()
        batch = self.with_advantages(buffer.rollout())
        learn = self.replayed or self.learn_from_rows
        rows = replace(batch, counts=())  # those of the minibatches count, and decide what is recorded
        metrics: list[Metrics] = []
        for _ in range(self.config.epochs):
            parts = minibatches(batch, self.config.minibatches, self.update_stream)
            epoch = [learn(rows, part) for part in parts]
            metrics += epoch
            if self.config.target_kl is not None:
                divergence = torch.stack([step["approximate_kl"] for step in epoch]).mean()
                if divergence > self.config.target_kl:
                    break
        return {name: torch.stack([step[name] for step in metrics]).mean(0) for name in metrics[0]}

    @torch.no_grad()
    def with_advantages(self, rollout: Batch) -> Batch:
        """The rows (T, N) of a rollout as (B,), with `value`, `advantage` and `return` (the lambda-return).

        The three are in reward units, before advantages are normalised. Raises Diverged if one is not finite.
        """
        values = self._values_of_all(rollout)
        charge = self.normalizer.scale(rollout.task_ids) * rollout.extras["charge"]
        rollout = replace(rollout, reward=self.normalizer.reward(rollout.reward, rollout.task_ids) - charge)
        next_values = self._next_values(rollout, values)
        found = advantages(rollout, values, next_values, self.config.discount, self.config.gae_lambda)
        rollout = rollout.with_extras({"value": values, "advantage": found, "return": found + values})
        batch = rollout.map_rows(lambda row: row.flatten(0, 1))
        return_, advantage = batch.extras["return"], batch.extras["advantage"]
        # Here, before the first minibatch: a later one might be the first to hold the row.
        bad = ~torch.isfinite(return_)
        if bad.any():
            raise Diverged(f"return is not finite for the task(s) with index {batch.task_ids[bad].unique().tolist()}")
        if self.config.normalize_advantages:
            advantage = normalized_per_task(advantage, batch.task_ids, self.num_tasks)
        return batch.with_extras({"advantage": advantage})

    def _next_values(self, rollout: Batch, values: Tensor) -> Tensor:
        """Values (T, N) of the true successors, in reward units; of terminated rows any number."""
        following = torch.cat([values[1:], torch.zeros_like(values[:1])])
        # The row below has the successor's value but where an episode was cut off and where the rollout ends.
        unknown = rollout.truncated.clone()
        unknown[-1] = True
        unknown &= ~rollout.terminated
        features = self.networks.encoder(rollout.next_observation[unknown])
        following[unknown] = self._values(features, rollout.task_ids[unknown])
        return following

    def learn_from_rows(self, batch: Batch, minibatch: Minibatch) -> Metrics:
        """One gradient step on some rows of what `with_advantages` gave."""
        return self.learn_from(minibatch.of(batch))

    def learn_from(self, batch: Batch) -> Metrics:
        """One gradient step on rows sorted by task, as `with_advantages` gives them."""
        self.normalizer.update(batch.extras["return"], batch.task_ids, [self.networks.output])
        draw = _uniform(self.update_stream, len(batch.reward), 1, self.value_draw_size)
        if draw is not None:
            batch = batch.with_draws({"value": draw})
        result = self.group.step(self.loss_of, batch)
        return means_per_task(result.rows, batch.task_ids, self.num_tasks)

    def losses(self, parameters: Parameters, batch: Batch) -> TaskLosses:
        """Clipped surrogate (equation 9), squared value error and entropy bonus, mean within each task (M,)."""
        draw = batch.extras.get("draw")
        if draw is not None and self.networks.policy.route_size:
            draw = draw.long()  # choices to make again
        policy, value_network = self.group.bind(self.networks, parameters)(
            (batch.observation, batch.task_ids, draw, batch.draws.get("value"))
        )
        distribution, network = policy.distribution, policy.network
        value = value_network.values
        sample = batch.extras.get("sample", batch.action)
        log_prob = _plus(distribution.log_prob(sample), network.route_log_prob)
        entropy = _plus(distribution.entropy(), network.route_entropy)
        log_ratio = log_prob - batch.extras["log_prob"]
        policy_loss = clipped_surrogate(log_ratio, self._advantage(batch), self.config.clip_range)
        value_loss = self._value_loss(value, batch)
        rows = policy_loss + self.config.value_coefficient * value_loss - self.entropy_coefficient * entropy
        losses = mean_per_task(rows, batch.task_ids, self.num_tasks)
        for auxiliary in (*network.losses.values(), *value_network.losses.values()):
            losses = losses + auxiliary
        with torch.no_grad():
            ratio = log_ratio.exp()
            by_products = {
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": entropy,
                # Schulman, 2020, joschu.net/blog/kl-approx.html: unbiased and never negative.
                "approximate_kl": ratio - 1 - log_ratio,
                "clip_rate": ((ratio - 1).abs() > self.config.clip_range).float(),
                "value": self.normalizer.denormalize(value, batch.task_ids),
            }
        by_products |= actor_diagnostics(network)
        return TaskLosses(losses, {name: value.detach() for name, value in by_products.items()})

    def _advantage(self, batch: Batch) -> Tensor:
        """What the policy gradient is weighted with (B,).

        Normalised advantages have lost their units, and the normaliser then serves the value alone. Otherwise it is
        (G - mu) / sigma - v with return G and normalised value v, which is the advantage over sigma.
        """
        advantage = batch.extras["advantage"]
        if self.config.normalize_advantages:
            return advantage
        return advantage / self.normalizer.scale(batch.task_ids)

    def _value_loss(self, value: Tensor, batch: Batch) -> Tensor:
        """Squared error (B,) in the normaliser's units, the larger one where clipped and plain value differ."""
        target = self.normalizer.normalize(batch.extras["return"], batch.task_ids)
        loss = (value - target).square()
        if self.config.value_clip_range is None:
            return loss
        old = self.normalizer.normalize(batch.extras["value"], batch.task_ids)
        step = (value - old).clamp(-self.config.value_clip_range, self.config.value_clip_range)
        return torch.maximum(loss, (old + step - target).square())

    def _anneal(self) -> None:
        if self.config.annealing_steps is not None:
            left = max(0.0, 1 - self.env_steps / self.config.annealing_steps)
            self.group.optimizer.learning_rate = self.config.learning_rate * left

    # Saving.

    def groups(self) -> Mapping[str, OptimizedGroup]:
        return {"actor-critic": self.group}

    def streams(self) -> Mapping[str, torch.Generator]:
        return {"explore": self.explore_stream, "update": self.update_stream}

    def state(self) -> dict[str, Any]:
        return super().state() | {"env_steps": self.env_steps, "learning_rate": self.group.optimizer.learning_rate}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.replayed = self.recording(self.learn_from_rows, self.update_stream)
        self.env_steps = int(state["env_steps"])
        self.group.optimizer.learning_rate = float(state["learning_rate"])


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """Negative clipped surrogate objective (B,), equation 7."""
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage)


def normalized_per_task(values: Tensor, task_ids: Tensor, num_tasks: int) -> Tensor:
    """Values (B,) with mean 0 and standard deviation 1 within each task; 0 for a task with one value."""
    centred = values - mean_per_task(values, task_ids, num_tasks)[task_ids]
    deviation = mean_per_task(centred.square(), task_ids, num_tasks).sqrt()
    return centred / (deviation[task_ids] + 1e-8)


def _plus(of_action: Tensor, of_route: Tensor | None) -> Tensor:
    return of_action if of_route is None else of_action + of_route


def _uniform(generator: torch.Generator, *shape: int) -> Tensor | None:
    """Uniform numbers of the shape, or None where it is empty: the network wants none."""
    return torch.rand(shape, generator=generator, device=generator.device) if all(shape) else None
