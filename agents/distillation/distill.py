"""Multi-task policy distillation: a student that imitates trained agents.

Policy distillation (Rusu et al., 2016, arXiv:1511.06295) minimizes KL(teacher || student); with feature regression it
is Actor-Mimic (Parisotto et al., 2016, arXiv:1511.06342). Who collects the data shifts from the teachers to the
student (Ross et al., 2011, arXiv:1011.0686: the policy that plays is drawn at every step).

Shapes: B batch, M tasks, A action, d representation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from agents.distillation.losses import Divergence, feature_error, imitation_loss
from agents.distillation.teachers import Teachers, representation_size
from mtrl.agent import Agent, Components, agent_types
from mtrl.aggregation import Parameters, TaskLosses
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.data_parallel.learning import own_part
from mtrl.encoders import Encoder
from mtrl.errors import BadInput
from mtrl.networks.layers import uniform_noise
from mtrl.normalization import NoNormalizer, normalizers
from mtrl.optim.parameter_group import ParameterGroup
from mtrl.per_task import mean_per_task, means_per_task, nan_where_absent
from mtrl.policies import AveragedPolicy, Policy, PolicyOutput, make_policy_gradient_head, make_soft_head
from mtrl.types import ActionStep, Batch, EnvStep, Metrics, TaskWeights


class Regressors(nn.Module):
    """A linear layer per task, from the student's representation to that of the task's teacher."""

    def __init__(self, in_features: int, out_features: int, num_tasks: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_tasks, out_features, in_features).uniform_(-1e-3, 1e-3))
        self.bias = nn.Parameter(torch.zeros(num_tasks, out_features))

    def forward(self, representation: Tensor, task_ids: Tensor, counts: Sequence[int]) -> Tensor:
        """Representations (B, d) -> (B, out_features), sorted by task with counts (M,), or any part of such a batch."""
        if len(representation) == sum(counts):
            parts = zip(representation.split(list(counts)), self.weight, self.bias, strict=True)
            return torch.cat([F.linear(*part) for part in parts]).float()
        # For the gradients of single tasks: every layer, of which each sample gets its own.
        values = torch.einsum("bi,moi->bmo", representation, self.weight).float() + self.bias
        own = task_ids.view(-1, 1, 1).expand(-1, 1, values.shape[-1])
        return values.gather(1, own).squeeze(1)


class Student(nn.Module):
    """An encoder and a policy, and what predicts the teachers' representations from the student's, if anything."""

    def __init__(self, encoder: Encoder, policy: Policy, regressors: Regressors | None):
        super().__init__()
        self.encoder = encoder
        self.policy = policy
        self.regressors = regressors

    def forward(
        self, observation: Tensor, task_ids: Tensor, noise: Tensor | None, counts: Sequence[int]
    ) -> tuple[Tensor, PolicyOutput, Tensor | None]:
        """Features (B, F), the policy's output, and predicted representations (B, d)."""
        features = self.encoder(observation)
        policy = self.policy(features, task_ids, noise)
        if self.regressors is None:
            return features, policy, None
        return features, policy, self.regressors(policy.network.representation, task_ids, counts)


@agent_types.register("distill")
class Distill(Agent):
    """A student of trained agents, for continuous and discrete suites."""

    group_gauges: Mapping[str, bool] = {"student": True}
    reads_rewards = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        teachers: tuple[str, ...] = ()  # runs that teach the tasks they know, or TASK=RUN
        teacher_checkpoint: str = "latest"  # of every teacher: latest, best or a step
        divergence: Divergence = "forward"  # KL from teacher to student, the reverse, or the squared error of modes
        temperature: Annotated[float, Field(gt=0)] = 1.0  # of the teachers' policies; below 1 they are sharper
        feature_coefficient: Annotated[float, Field(ge=0)] = 0.0  # of the regression of representations (Actor-Mimic)
        squashed: bool = True  # continuous actions: a Gaussian behind tanh as SAC's; else as PPO's
        teacher_share: Annotated[float, Field(ge=0, le=1)] = 1.0  # of the steps, played by teachers at the start
        final_teacher_share: Annotated[float, Field(ge=0, le=1)] = 0.0  # after the shift, which is linear
        shift_steps: Annotated[int, Field(ge=1)] = 100_000  # env steps that the shift takes
        batch_size: Annotated[int, Field(ge=1)] | None = None  # transitions per update; default 128 per task
        buffer_size: Annotated[int, Field(ge=1)] = 1_000_000  # transitions kept, of all tasks together
        update_interval: Annotated[int, Field(ge=1)] | None = None  # env steps between updates; default one vector step
        gradient_steps: Annotated[int, Field(ge=1)] = 1  # per update
        averaging_rate: Annotated[float, Field(gt=0, le=1)] = 0.001  # of the policy that is evaluated; 1: no average
        learning_rate: Annotated[float, Field(gt=0)] = 3e-4  # Adam
        annealing_steps: Annotated[int, Field(ge=1)] | None = None  # env steps until that rate is 0; None: constant
        max_grad_norm: Annotated[float, Field(gt=0)] = 1.0  # global norm

    def __init__(self, components: Components, config: Config):
        super().__init__(components, config)
        spec = components.spec
        discrete = isinstance(spec.action_space, gym.spaces.Discrete)
        if discrete and config.divergence == "modes":
            raise BadInput("agent.divergence: 'modes' is for continuous actions; must be forward or reverse")
        normalizer = components.normalizer(0.99)
        if not isinstance(normalizer, NoNormalizer):
            name = normalizers.name_of(type(normalizer))
            raise BadInput(f"normalizer {name!r}: the agent 'distill' learns no values; leave it out")
        self.config = config
        self.rollout_steps = -(-(config.update_interval or 1) // self.num_envs)  # vector steps, rounded up
        self.buffer_size = config.buffer_size
        self.learns_until = config.annealing_steps
        self.batch_size = config.batch_size or 128 * self.num_tasks
        head = make_soft_head(spec) if config.squashed else make_policy_gradient_head(spec)
        encoder = components.encoder()
        policy = components.policy(encoder.out_features, head)
        self.average = AveragedPolicy(encoder, policy, config.averaging_rate)
        self.teachers: Teachers | None = None
        regressors = None
        if components.learning:
            self.teachers = Teachers(config.teachers, spec, config.teacher_checkpoint, self.device)
            self.by_modes = config.divergence == "modes" or self.teachers.by_modes(head)
            if config.feature_coefficient:
                regressors = self._make_regressors(encoder, policy)
        self.student = Student(encoder, policy, regressors)
        self.to(self.device)
        self.group = components.parameter_group(
            "student", self.student, learning_rate=config.learning_rate, max_grad_norm=config.max_grad_norm
        )
        self.explore_stream = components.stream("explore")
        self.update_stream = components.stream("update")

    def _make_regressors(self, encoder: Encoder, policy: Policy) -> Regressors:
        assert self.teachers is not None
        own, theirs = representation_size(encoder, policy, self.spec, torch.device("cpu")), self.teachers
        sizes = torch.tensor(theirs.representation_sizes(), device=self.device)
        if not own or not bool(sizes.all()):
            who = "the student" if not own else f"teacher {theirs.of_task[int((sizes == 0).nonzero()[0])].run}"
            raise BadInput(f"agent.feature_coefficient: the architecture of {who} has no representation to compare")
        self.own_features = (torch.arange(int(sizes.max()), device=self.device) < sizes[:, None]).float()  # (M, d)
        return Regressors(own, int(sizes.max()), self.num_tasks)

    # Acting.

    @property
    def teacher_share(self) -> float:
        """Share of the steps that teachers play now."""
        config = self.config
        shifted = min(1.0, self.env_steps / config.shift_steps)
        return (1 - shifted) * config.teacher_share + shifted * config.final_teacher_share

    @torch.no_grad()
    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        seen, tasks = self.to_device(observation), self.to_device(task_ids)
        head, stream = self.student.policy.head, self.explore_stream
        with self.autocast():
            if not explore:
                return ActionStep(head.to_environment(self.average.mode(seen, tasks)).cpu().numpy())
            share = self.teacher_share
            self.env_steps += len(tasks)
            sampled = self.student.policy.sample(self.student.encoder(seen), tasks, stream).action
            action = head.to_environment(sampled)
            if share > 0 and self.teachers is not None:
                noise = head.sample_noise(len(tasks), stream)
                taught = self.teachers.actions(seen, task_ids, noise)
                plays = torch.rand(len(tasks), generator=stream, device=self.device) < share
                action = torch.where(plays.view(-1, *(1 for _ in action.shape[1:])), taught, action)
        return ActionStep(action.cpu().numpy())

    @torch.no_grad()
    def sample(self, observation: np.ndarray, task_ids: np.ndarray, generator: torch.Generator) -> np.ndarray:
        with self.autocast():
            action = self.average.sample(self.to_device(observation), self.to_device(task_ids), generator)
        return self.student.policy.head.to_environment(action).cpu().numpy()

    # Learning.

    def on_env_step(self, step: EnvStep) -> None:
        self.student.encoder.on_env_step(step)

    def update(self, buffer: RolloutBuffer, task_weights: TaskWeights) -> Metrics:
        self.group.anneal(self.env_steps, self.config.annealing_steps)
        self.student.encoder.refresh()
        for _ in range(self.config.gradient_steps):
            batch = buffer.sample(self.batch_size, task_weights.shares)
            metrics = self.learn(batch.weighted(task_weights.loss_weights))
        return metrics

    def learn(self, batch: Batch) -> Metrics:
        """One gradient step on a batch that is sorted by task."""
        assert self.teachers is not None
        noise = uniform_noise(self.update_stream, len(batch.reward), self.student.policy.noise_size)
        batch = own_part(replace(batch, noise={} if noise is None else {"policy": noise}))
        num_features = 0 if self.student.regressors is None else self.own_features.shape[1]
        with self.autocast():
            taught = self.teachers.columns(batch.observation, batch.own_counts, num_features)
        extras = {**batch.extras, **{f"teacher_{name}": values for name, values in taught.items()}}
        result = self.group.step(self.losses, replace(batch, extras=extras))
        self.average.update()
        means = means_per_task(result.metrics, batch.task_ids, self.num_tasks)
        share = torch.tensor(self.teacher_share, device=self.device)
        return {"student_loss": nan_where_absent(result.losses, batch.task_ids), "teacher_share": share, **means}

    def losses(self, parameters: Parameters, batch: Batch) -> TaskLosses:
        """Divergence from the teachers, mean within each task (M,), and the feature regression."""
        tasks = batch.task_ids
        features, policy, predicted = self.group.bind(self.student, parameters)(
            batch.observation, tasks, batch.noise.get("policy"), batch.own_counts
        )
        taught = {name.removeprefix("teacher_"): values for name, values in batch.extras.items()}
        by_modes = self.by_modes if isinstance(self.by_modes, bool) else self.by_modes[tasks]
        loss = imitation_loss(policy.distribution, taught, by_modes, self.config.divergence, self.config.temperature)
        metrics = {"imitation_loss": loss.detach()}
        if predicted is not None:
            regression = feature_error(predicted, taught["features"], self.own_features[tasks])
            loss = loss + self.config.feature_coefficient * regression
            metrics["feature_loss"] = regression.detach()
        losses = mean_per_task(loss, tasks, self.num_tasks)
        gauge = losses.detach().clamp(min=0)  # a divergence is never negative but for rounding
        if policy.network.route_log_prob is not None:
            # REINFORCE for a sampled route: log pi(route) (loss - mean loss)
            advantage = (loss - losses[tasks]).detach()
            losses = losses + mean_per_task(policy.network.route_log_prob * advantage, tasks, self.num_tasks)
        losses = losses + mean_per_task(policy.distillation(), tasks, self.num_tasks)
        metrics |= {f"actor/{name}": values for name, values in policy.network.diagnostics.items()}
        return TaskLosses(losses, metrics, features, (policy.network,), gauge)

    # Saving.

    def inputs(self) -> Mapping[str, str]:
        return {} if self.teachers is None else self.teachers.sha256

    def groups(self) -> Mapping[str, ParameterGroup]:
        return {"student": self.group}

    def streams(self) -> Mapping[str, torch.Generator]:
        return {"explore": self.explore_stream, "update": self.update_stream}

    def load_state(self, state: dict[str, Any]) -> None:
        if self.teachers is None:  # only to play: what predicts their representations is not there
            modules = {name: value for name, value in state["modules"].items() if ".regressors." not in name}
            state = {**state, "modules": modules}
        super().load_state(state)
