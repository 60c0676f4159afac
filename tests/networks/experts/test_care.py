"""CARE: the context attends to the encoders. Shapes: K encoders."""

from __future__ import annotations

import torch

from mtrl.networks.experts.care import CARE


def test_the_encoding_is_the_attended_mixture_and_the_policy_reads_it_beside_the_context() -> None:
    config = CARE.Config(width=1, depth=1, num_encoders=2, encoding_size=1, embedding_size=1)
    network = CARE(1, 1, 2, config)
    log3 = float(torch.tensor(3.0).log())
    values = {
        "embedding.weight": [[1.0], [2.0]],
        "context.0.0.weight": [[1.0]],
        "context.0.0.bias": [0.0],
        "context.1.weight": [[1.0]],
        "context.1.bias": [0.0],
        "attention.0.weight": [[1.0]],
        "attention.0.bias": [-1.0],  # 0 for task 0, 1 for task 1
        "attention.2.weight": [[log3], [0.0]],
        "attention.2.bias": [0.0, 0.0],
        "encoders.first.weight": [[4.0], [8.0]],
        "encoders.first.bias": [0.0, 0.0],
        "encoders.layers.0.weight": [[[1.0]], [[1.0]]],
        "encoders.layers.0.bias": [[[0.0]], [[0.0]]],
        "trunk.0.weight": [[1.0, 100.0]],
        "trunk.0.bias": [0.0],
        "head.weight": [[1.0]],
        "head.bias": [0.0],
    }
    network.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    # x = 1, encodings (4, 8). Task 0: attention (1/2, 1/2), context 1. Task 1: (3/4, 1/4), context 2.
    output = network(torch.ones(2, 1), torch.tensor([0, 1]))
    torch.testing.assert_close(output.diagnostics["attention"], torch.tensor([[0.5, 0.5], [0.75, 0.25]]))
    torch.testing.assert_close(output.values, torch.tensor([[106.0], [205.0]]))
