"""Several copies of one architecture with parameters of their own, e.g. twin critics. Shapes: K copies, B batch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mtrl.networks.architecture import Output, PolicyArchitecture, run


class Ensemble(nn.Module):
    """K architectures that see the same input."""

    def __init__(self, members: Iterable[PolicyArchitecture]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, features: Tensor, task_ids: Tensor, draws: Tensor | None = None) -> Output:
        """features (B, in), draws (B, K, draw_size) -> values (K, B, out); auxiliary losses are means over members."""
        outputs = [
            run(member, features, task_ids, None if draws is None else draws[:, index])
            for index, member in enumerate(self.members)
        ]
        names = outputs[0].losses.keys()
        return Output(
            values=torch.stack([output.values for output in outputs]),
            losses={name: torch.stack([output.losses[name] for output in outputs]).mean(0) for name in names},
            diagnostics=outputs[0].diagnostics,
        )
