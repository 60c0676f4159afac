"""Feature-wise linear modulation by hand."""

from __future__ import annotations

import torch

from mtrl.networks.hard_sharing.film import FiLM


def test_a_task_scales_and_shifts_the_units() -> None:
    network = FiLM(1, 1, 2, FiLM.Config(width=2, depth=1, embedding_size=1))
    values = {
        "embedding.weight": [[1.0], [-1.0]],
        "layers.0.weight": [[1.0], [2.0]],
        "layers.0.bias": [0.0, 1.0],
        "modulators.0.weight": [[1.0], [0.5], [0.0], [3.0]],  # two scales, two shifts
        "modulators.0.bias": [0.0, 0.0, 0.25, 0.0],
        "head.weight": [[1.0, 10.0]],
        "head.bias": [0.0],
    }
    network.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    # x = 1: W x + b = (1, 3). Task 0: gamma (1, 1/2), beta (1/4, 3): (2.25, 7.5). Task 1: gamma (-1, -1/2),
    # beta (1/4, -3): relu(1/4, -1.5) = (0.25, 0).
    found = network(torch.ones(2, 1), torch.tensor([0, 1])).values
    assert found.tolist() == [[77.25], [0.25]]
