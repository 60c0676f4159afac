"""Reward clipping (Mnih et al., 2015, doi:10.1038/nature14236): rewards in learning are bounded by -1 and 1.

The networks predict discounted sums of clipped rewards; what is reported stays raw. It changes what is optimal: many
small rewards become worth more than a few large ones, which PopArt does not do. Shapes: B batch.
"""

from __future__ import annotations

from torch import Tensor

from mtrl.normalization.normalizer import NoNormalizer, normalizers


@normalizers.register("reward-clip")
class RewardClip(NoNormalizer):
    """Rewards clipped to [-1, 1], returns as they are."""

    def reward(self, rewards: Tensor, task_ids: Tensor) -> Tensor:
        return rewards.clamp(-1, 1)
