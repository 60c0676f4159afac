"""Contrastive features (CURL: Laskin et al., 2020, arXiv:2004.04136). Shapes: B batch, F features, M tasks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from mtrl.auxiliary.auxiliary_task import AuxiliaryContext, AuxiliaryInputs, AuxiliaryTask, auxiliary_tasks
from mtrl.networks.layers import float32_island
from mtrl.per_task import mean_per_task
from mtrl.types import Batch


@auxiliary_tasks.register("contrastive")
class Contrastive(AuxiliaryTask):
    """Two views of one observation are told from those of others of the same task (InfoNCE, bilinear similarity).

    Views of images are shifted (Yarats et al., 2021, arXiv:2004.13649), those of vectors scaled by random factors. The
    keys come from a target encoder.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(AuxiliaryTask.Config):
        max_shift: PositiveInt = 4  # pixels, of images
        max_scaling: Annotated[float, Field(gt=0, lt=1)] = 0.2  # of vectors: factors in 1 - this to 1 + this
        target_rate: Annotated[float, Field(gt=0, le=1)] = 0.01  # Polyak rate of the target encoder

    def __init__(self, context: AuxiliaryContext, config: Config):
        super().__init__(context, config)
        self.is_image = len(context.spec.observation_space.shape) == 3
        self.max_shift, self.max_scaling, self.target_rate = config.max_shift, config.max_scaling, config.target_rate
        features = context.encoder.out_features
        self.similarity = nn.Parameter(torch.eye(features) / features)
        self.target = copy.deepcopy(context.encoder).requires_grad_(False)

    def columns(self, batch: Batch, generator: torch.Generator) -> Mapping[str, Tensor]:
        shape = (len(batch.reward), 2, 2)  # two views; shifts along two axes
        return {"views": torch.rand(shape, generator=generator, device=generator.device)}

    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        observation, tasks = inputs.batch.observation, inputs.batch.task_ids
        first, second = inputs.columns["views"].unbind(1)
        query = inputs.encode(self.view(observation, first))
        with torch.no_grad():
            key = self.target(self.view(observation, second)).float()
        # Not in bfloat16: a logarithm of a sum over hundreds of rows needs more than 8 bits.
        logits = float32_island(bilinear, query, self.similarity, key)
        return mean_per_task(info_nce(logits, tasks), tasks, self.num_tasks)

    def view(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Another view of observations (B, *shape), given uniform numbers (B, 2)."""
        if not self.is_image:
            return observation * (1 + self.max_scaling * (2 * noise[:, :1] - 1))
        offsets = (noise * (2 * self.max_shift + 1)).long() - self.max_shift
        return shifted(observation, offsets)

    @torch.no_grad()
    def after_step(self, encoder: nn.Module) -> None:
        torch._foreach_lerp_(list(self.target.parameters()), list(encoder.parameters()), self.target_rate)


def bilinear(query: Tensor, similarity: Tensor, key: Tensor) -> Tensor:
    """Similarities (B, B) of queries (B, F) and keys (B, F)."""
    return (query @ similarity) @ key.T


def shifted(images: Tensor, offsets: Tensor) -> Tensor:
    """Images (B, C, H, W) moved by offsets (B, 2) in pixels; at the borders the outermost pixels are repeated."""
    for axis in (2, 3):
        size = images.shape[axis]
        places = (torch.arange(size, device=images.device) + offsets[:, axis - 2, None]).clamp(0, size - 1)
        index = places.view(-1, 1, size, 1) if axis == 2 else places.view(-1, 1, 1, size)
        images = torch.take_along_dim(images, index.expand(images.shape), axis)
    return images


def info_nce(logits: Tensor, task_ids: Tensor) -> Tensor:
    """-log softmax of the diagonal (B,) of logits (B, B), among the samples of the same task."""
    other = task_ids.unsqueeze(0) != task_ids.unsqueeze(1)
    logits = logits.masked_fill(other, -torch.inf)
    return torch.logsumexp(logits, dim=1) - logits.diagonal()
