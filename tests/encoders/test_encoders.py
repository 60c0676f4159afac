"""Encoders take what they were made for, scale pixels themselves, and say what they cannot take."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from mtrl.encoders import Encoder, Impala, Nature, encoders
from mtrl.encoders.impala import ResidualBlock
from mtrl.encoders.pixels import Scale
from mtrl.errors import BadInput
from mtrl.seeding import seeded_construction

VECTORS = gym.spaces.Box(-1, 1, (5,), np.float32)
FRAMES = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
VECTOR_ENCODERS = ("identity", "mlp", "normalized")
PIXEL_ENCODERS = [name for name, _ in encoders.items() if name not in VECTOR_ENCODERS]


def made(name: str, space: gym.spaces.Box, **config: Any) -> Encoder:
    cls = encoders.get(name)
    with seeded_construction(1, "initial weights"):
        return cls(space, cls.Config(**config))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", encoders.names())
def test_features_have_the_promised_size_and_every_parameter_gets_a_gradient(name: str) -> None:
    space = VECTORS if name in VECTOR_ENCODERS else FRAMES
    encoder = made(name, space)
    space.seed(1)
    observation = torch.from_numpy(np.stack([space.sample() for _ in range(3)]))
    features = encoder(observation)
    assert features.shape == (3, encoder.out_features)
    assert features.dtype == torch.float32
    if list(encoder.parameters()):
        features.square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())


@pytest.mark.parametrize("name", encoders.names())
def test_the_same_stream_gives_the_same_weights(name: str) -> None:
    space = VECTORS if name in VECTOR_ENCODERS else FRAMES
    first, second = made(name, space).state_dict(), made(name, space).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", PIXEL_ENCODERS)
def test_initial_features_tell_where_a_small_square_is(name: str) -> None:
    images = torch.full((16, 4, 84, 84), 100, dtype=torch.uint8)
    for index, image in enumerate(images):
        image[:, 40:50, 4 * index : 4 * index + 10] = 200
    features = made(name, FRAMES)(images)
    # Between the images: 0.05 to 0.12, and 0.003 with impala's layers as torch initialises them.
    assert features.std(0).mean() > 0.02


@pytest.mark.parametrize("name", PIXEL_ENCODERS)
def test_pixels_are_scaled_inside(name: str) -> None:
    encoder = made(name, FRAMES)
    pixels = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    as_floats = made(name, gym.spaces.Box(0, 1, (4, 84, 84), np.float32))
    as_floats.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder(pixels), as_floats(pixels.float() / 255))


def test_scaled_pixels_span_zero_to_one() -> None:
    scaled = Scale(FRAMES)(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3))
    torch.testing.assert_close(scaled.flatten(), torch.tensor([0.0, 0.2, 1.0]))


@pytest.mark.parametrize("name", PIXEL_ENCODERS)
def test_a_convolution_refuses_a_vector(name: str) -> None:
    with pytest.raises(BadInput, match=r"takes images .* not observations of shape \(5,\).*identity"):
        made(name, VECTORS)


def test_identity_refuses_pixels_and_names_the_others() -> None:
    with pytest.raises(BadInput, match=r"takes vectors.*\(4, 84, 84\).*nature or impala"):
        made("identity", FRAMES)


def test_an_image_too_small_for_the_kernels_is_refused() -> None:
    with pytest.raises(BadInput, match=r"images of shape \(4, 20, 20\) are too small"):
        made("nature", gym.spaces.Box(0, 255, (4, 20, 20), np.uint8))
    assert made("nature", gym.spaces.Box(0, 255, (4, 36, 36), np.uint8)).out_features == 512


def test_the_networks_have_the_papers_sizes() -> None:
    # 4 x 84 x 84 -> 32 x 20 x 20 -> 64 x 9 x 9 -> 64 x 7 x 7 = 3136 -> 512.
    convolutions = (32 * 4 * 64 + 32) + (64 * 32 * 16 + 64) + (64 * 64 * 9 + 64)
    assert num_parameters(Nature(FRAMES, Nature.Config())) == convolutions + 3136 * 512 + 512
    # Sections of 16, 32, 32 channels halve 84 to 42, 21, 11; each has five convolutions but for its first one's inputs.
    sections = (9 * 4 * 16 + 16) + 4 * (9 * 16 * 16 + 16)
    sections += (9 * 16 * 32 + 32) + 4 * (9 * 32 * 32 + 32)
    sections += 5 * (9 * 32 * 32 + 32)
    assert num_parameters(Impala(FRAMES, Impala.Config())) == sections + 32 * 11 * 11 * 256 + 256


def test_weights_of_the_nature_network_are_orthogonal() -> None:
    encoder = made("nature", FRAMES, features=64)
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            rows = layer.weight.flatten(1)
            torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(len(rows)), rtol=0, atol=1e-4)
            assert not layer.bias.any()


def test_a_residual_block_adds_to_its_input() -> None:
    block = ResidualBlock(2)
    nn.init.zeros_(block.second.weight)
    nn.init.constant_(block.second.bias, 0.5)
    x = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(block(x), x + 0.5)


@pytest.mark.parametrize("name", PIXEL_ENCODERS)
def test_gradients_of_single_rows_can_be_taken_at_once(name: str) -> None:
    # As the aggregators that look at per-task gradients do.
    small = {"features": 8} if name == "nature" else {"features": 8, "channels": 2}
    encoder = made(name, gym.spaces.Box(0, 255, (2, 36, 36), np.uint8), **small)
    parameters = dict(encoder.named_parameters())
    generator = torch.Generator().manual_seed(1)
    observation = torch.randint(0, 256, (3, 4, 2, 36, 36), dtype=torch.uint8, generator=generator)

    def loss(values: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(encoder, values, (rows,)).square().sum()

    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, observation)
    for task, rows in enumerate(observation):
        alone = torch.func.grad(loss)(parameters, rows)
        for key, gradient in alone.items():
            torch.testing.assert_close(together[key][task], gradient, rtol=1e-3, atol=1e-3)
