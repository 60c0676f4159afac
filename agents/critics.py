"""Q networks and temperatures: what off-policy actor-critic agents share.

Shapes: B batch, F features, A action, M tasks, K critics, N bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mtrl.agent import Components
from mtrl.encoders import Encoder
from mtrl.errors import BadInput, Diverged
from mtrl.networks import Ensemble, Output
from mtrl.normalization import ReturnNormalizer, ValueOutput
from mtrl.per_task import mean_per_task
from mtrl.policies import SoftHead
from mtrl.types import Batch, Metrics


class Bins(nn.Module):
    """Values in [-limit, limit] as histograms over N equal bins (HL-Gauss; Farebrother et al., 2024, arXiv:2403.03950).

    A target is the Gaussian around it with a standard deviation of 0.75 bins, as the paper recommends; targets beyond
    the limit count as the limit. The value of a histogram is its mean.
    """

    def __init__(self, num_bins: int, limit: float):
        super().__init__()
        self.num_bins = num_bins
        self.limit = limit
        width = 2 * limit / num_bins
        self.deviation = 0.75 * width
        self.edges: Tensor
        self.centers: Tensor
        self.register_buffer("edges", torch.linspace(-limit, limit, num_bins + 1), persistent=False)
        self.register_buffer("centers", self.edges[:-1] + width / 2, persistent=False)

    def mean(self, logits: Tensor) -> Tensor:
        """(..., N) -> (...)."""
        return (logits.softmax(-1) * self.centers).sum(-1)

    def histogram(self, target: Tensor) -> Tensor:
        """(B,) -> (B, N): the Gaussian's mass in each bin, of that within all bins."""
        distance = self.edges - target.clamp(-self.limit, self.limit).unsqueeze(-1)
        below = torch.erf(distance / (math.sqrt(2) * self.deviation))
        return below.diff(dim=-1) / (below[:, -1:] - below[:, :1])


class CriticOutput(NamedTuple):
    """What K critics say about B inputs."""

    values: Tensor  # (K, B, 1 or A) in the normalizer's units
    logits: Tensor | None  # (K, B, 1 or A, N) of categorical critics, whose means the values are
    network: Output


class Critics(nn.Module):
    """An encoder and an ensemble of Q networks on its features, with the normalizer's output layer behind them.

    With `bins` they are categorical: they predict histograms of the return and learn by cross-entropy, which bounds
    what one sample, or one task, can do to the gradient.
    """

    def __init__(self, encoder: Encoder, ensemble: Ensemble, output: ValueOutput, bins: Bins | None = None):
        super().__init__()
        self.encoder = encoder
        self.ensemble = ensemble
        self.output = output
        self.bins = bins

    def forward(self, critic_input: Tensor, task_ids: Tensor, noise: Tensor | None = None) -> CriticOutput:
        """Critic input (B, F or F + A), noise (B, K, noise_size)."""
        network = self.ensemble(critic_input, task_ids, noise)
        if self.bins is None:
            return CriticOutput(self.output(network.values, task_ids), None, network)
        logits = network.values.unflatten(-1, (-1, self.bins.num_bins))
        return CriticOutput(self.bins.mean(logits), logits, network)

    def errors(self, output: CriticOutput, head: SoftHead, action: Tensor, target: Tensor) -> Tensor:
        """How far each critic is from the targets (B,) of the actions taken (K, B): squared, or the cross-entropy."""
        if self.bins is None or output.logits is None:
            return (head.chosen_values(output.values, action) - target).square()  # (Q_k(s, a) - y)^2
        per_bin = output.logits.movedim(-1, 1)  # (K, N, B, 1 or A)
        chosen = head.chosen_values(per_bin.flatten(0, 1), action).view(*per_bin.shape[:3])
        # -sum_n p_n log softmax(logits)_n
        return -(self.bins.histogram(target).T * chosen.log_softmax(1)).sum(1)


def make_critics(
    components: Components,
    encoder: Encoder,
    head: SoftHead,
    normalizer: ReturnNormalizer,
    num_critics: int,
    bins: Bins | None = None,
) -> Critics:
    """K new Q networks for the action space of `head` on the features of `encoder`.

    Raises BadInput for a normalizer with an output layer of its own where the critics are categorical.
    """
    in_features, out_features = encoder.out_features + head.critic_action_inputs, head.critic_outputs
    output = normalizer.make_output(num_critics)
    if bins is not None and type(output) is not ValueOutput:
        raise BadInput(
            "a categorical critic predicts within fixed bounds, which this normalizer would move; choose another, such "
            "as --normalizer return-range, or --agent.critic-bins null"
        )
    members = [
        components.value_network(in_features, out_features * (bins.num_bins if bins else 1)) for _ in range(num_critics)
    ]
    return Critics(encoder, Ensemble(members), output, bins)


class Temperatures(nn.Module):
    """alpha_i = exp(log alpha_i), learnt so that each task's policy has its target entropy (Haarnoja et al., 2018)."""

    def __init__(
        self,
        initial: float,
        target_entropy: Tensor,
        *,
        learning_rate: float,
        task_names: Sequence[str],
        device: torch.device,
        learns: bool = True,
    ):
        """target_entropy (M,). learns: False where a policy fixes the temperature."""
        super().__init__()
        self.task_names = tuple(task_names)
        self.learns = learns
        self.log_alpha = nn.Parameter(torch.full((len(target_entropy),), math.log(initial), device=device))
        self.target_entropy: Tensor
        self.register_buffer("target_entropy", target_entropy.to(device), persistent=False)
        self.optimizer = torch.optim.Adam(
            [self.log_alpha], learning_rate, fused=True, capturable=self.log_alpha.is_cuda
        )

    def forward(self, task_ids: Tensor) -> Tensor:
        """alpha of each sample's task (B,), outside the graph."""
        return self.log_alpha.detach().exp()[task_ids]

    def task_weights(self) -> Tensor:
        """M softmax(-log alpha) (M,): the released code of soft modularization; its paper writes softmax(-alpha)."""
        return len(self.log_alpha) * torch.softmax(-self.log_alpha.detach(), dim=0)

    def step(self, log_prob: Tensor, task_ids: Tensor) -> Metrics:
        """One step on -log alpha_i (log pi + target entropy_i), given log pi (B,) of an update.

        Raises Diverged before a step that is not finite. On a GPU that step is skipped: the actor's loss was not finite
        then either, which its group reports.
        """
        if not self.learns:
            return {}
        # d/d log alpha_i = -mean_i(log pi + target entropy_i)
        gradient = -mean_per_task(log_prob + self.target_entropy[task_ids], task_ids, len(self.log_alpha))
        losses = self.log_alpha.detach() * gradient
        self.log_alpha.grad = gradient
        finite = torch.isfinite(gradient).all()
        if gradient.is_cuda:
            self.optimizer.found_inf = finite.logical_not().float()  # type: ignore[attr-defined]
        elif not finite:
            tasks = [self.task_names[task] for task in (~torch.isfinite(gradient)).nonzero().flatten()]
            raise Diverged(f"gradient of log alpha is not finite for the task(s) {', '.join(tasks)}")
        self.optimizer.step()
        return {"alpha_loss": losses, "alpha": self.log_alpha.detach().exp()}

    def moments(self) -> dict[str, Any]:
        """The optimiser's state."""
        return dict(self.optimizer.state.get(self.log_alpha, {}))

    def load_moments(self, moments: dict[str, Any]) -> None:
        device = self.log_alpha.device
        self.optimizer.state[self.log_alpha] = {name: value.clone().to(device) for name, value in moments.items()}


def n_step_return(batch: Batch, normalizer: ReturnNormalizer, discount: float) -> tuple[Tensor, Tensor | float]:
    """sum_k gamma^k r_k over the L steps of each transition (B,), and gamma^L: what the value after them counts.

    L is 1 unless `RolloutBuffer.sample` followed the transitions further. Each reward is in the normalizer's reward
    units. The actions after the first are those that were played: there is no correction for the policy's change since.
    """
    if "n_step_rewards" not in batch.extras:
        return normalizer.reward(batch.reward, batch.task_ids), discount
    rewards, length = batch.extras["n_step_rewards"], batch.extras["n_step_length"]
    discounts = discount ** torch.arange(rewards.shape[1], device=rewards.device)
    units = normalizer.reward(rewards.flatten(), batch.task_ids.repeat_interleave(rewards.shape[1]))
    return units.view_as(rewards) @ discounts, discount**length


@torch.no_grad()
def polyak_update(target: tuple[Tensor, ...], online: tuple[Tensor, ...], rate: float) -> None:
    """target <- (1 - rate) target + rate online, in place."""
    torch._foreach_lerp_(target, online, rate)
