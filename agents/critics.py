"""Q networks: what off-policy actor-critic agents share. Shapes: B batch, F features, A action, K critics."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from mtrl.agent import Components
from mtrl.encoders import Encoder
from mtrl.networks import Ensemble, Output
from mtrl.normalization import ReturnNormalizer, ValueOutput
from mtrl.policies import SoftHead
from mtrl.types import Batch


class Critics(nn.Module):
    """An encoder and an ensemble of Q networks on its features, with the normalizer's output layer behind them."""

    def __init__(self, encoder: Encoder, ensemble: Ensemble, output: ValueOutput):
        super().__init__()
        self.encoder = encoder
        self.ensemble = ensemble
        self.output = output

    def forward(self, critic_input: Tensor, task_ids: Tensor, noise: Tensor | None = None) -> Output:
        """Critic input (B, F or F + A), noise (B, K, noise_size) -> values (K, B, 1 or A) in the normalizer's units."""
        output = self.ensemble(critic_input, task_ids, noise)
        return replace(output, values=self.output(output.values, task_ids))


def make_critics(
    components: Components, encoder: Encoder, head: SoftHead, normalizer: ReturnNormalizer, num_critics: int
) -> Critics:
    """K new Q networks for the action space of `head` on the features of `encoder`."""
    in_features = encoder.out_features + head.critic_action_inputs
    members = [components.value_network(in_features, head.critic_outputs) for _ in range(num_critics)]
    return Critics(encoder, Ensemble(members), normalizer.make_output(num_critics))


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
