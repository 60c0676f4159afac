"""Cross-stitch networks by hand. Shapes: M tasks."""

from __future__ import annotations

import torch

from mtrl.networks.soft_sharing.cross_stitch import CrossStitch


def test_columns_are_mixed_after_every_layer() -> None:
    network = CrossStitch(1, 1, 2, CrossStitch.Config(width=1, depth=2))
    values = {
        "first.weight": [[1.0], [2.0]],
        "first.bias": [0.0, 0.0],
        "layers.0.weight": [[[1.0]], [[-1.0]]],
        "layers.0.bias": [[[0.0]], [[3.0]]],
        "stitches.0": [[1.0, 0.5], [0.0, 1.0]],
        "stitches.1": [[0.5, 2.0], [3.0, 1.0]],
        "heads.heads.weight": [[1.0], [1.0]],
        "heads.heads.bias": [0.0, 10.0],
    }
    network.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    # x = 1: columns (1, 2), stitched (2, 2), second layer (2, 1), stitched (1 + 2, 6 + 1).
    assert network(torch.ones(2, 1), torch.tensor([0, 1])).values.tolist() == [[3.0], [17.0]]


def test_at_the_start_a_task_reads_mostly_its_own_column() -> None:
    stitch = CrossStitch(2, 1, 5, CrossStitch.Config(width=4)).stitches[0]
    torch.testing.assert_close(stitch, 0.025 + 0.875 * torch.eye(5))
    torch.testing.assert_close(stitch.sum(1), torch.ones(5))
