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


@torch.no_grad()
def polyak_update(target: list[Tensor], online: list[Tensor], rate: float) -> None:
    """target <- (1 - rate) target + rate online, in place."""
    torch._foreach_lerp_(target, online, rate)
