"""Q networks: what off-policy actor-critic agents share. Shapes: B batch, F features, A action, K critics, N bins."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mtrl.agent import Components
from mtrl.encoders import Encoder
from mtrl.errors import BadInput
from mtrl.networks import Ensemble, Output
from mtrl.normalization import ReturnNormalizer, ValueOutput
from mtrl.policies import SoftHead
from mtrl.types import Batch


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
            "as --normalizer return-range, or --agent.critic-bins 0"
        )
    members = [
        components.value_network(in_features, out_features * (bins.num_bins if bins else 1)) for _ in range(num_critics)
    ]
    return Critics(encoder, Ensemble(members), output, bins)


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
