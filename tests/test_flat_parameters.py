"""Parameters in one tensor, and Adam on it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtrl.flat_adam import FlatAdam
from mtrl.flat_parameters import FlatParameters


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
        module[0].weight = nn.Parameter(torch.randn(3, 5).t())  # dense, but the other way round
    return module


def flat_of(module: nn.Module) -> FlatParameters:
    return FlatParameters(dict(module.named_parameters()))


def learn(module: nn.Module, flat: FlatParameters, step: float = 1.0) -> None:
    module.zero_grad()
    (step * module(torch.arange(6.0).view(2, 3)).sin().sum()).backward()
    flat.gather_gradients()


def test_parameters_keep_values_and_layout_and_are_parts_of_the_flat_tensor() -> None:
    module, before = network(), network()
    flat = flat_of(module)
    for own, old in zip(module.parameters(), before.parameters(), strict=True):
        assert torch.equal(own, old)
        assert own.stride() == old.stride()
        assert own.data_ptr() % 64 == flat.values.data_ptr() % 64
    flat.values.zero_()
    assert not any(parameter.any() for parameter in module.parameters())
    module.load_state_dict(before.state_dict())
    assert {name: part.tolist() for name, part in flat.split(flat.values).items()} == {
        name: value.tolist() for name, value in before.named_parameters()
    }


def test_gradients_are_laid_out_as_their_parameters_and_what_lies_between_stays_zero() -> None:
    module, plain = network(), network()
    flat = flat_of(module)
    learn(module, flat)
    plain(torch.arange(6.0).view(2, 3)).sin().sum().backward()
    gradients = flat.split(flat.gradient)
    for (name, own), expected in zip(module.named_parameters(), plain.parameters(), strict=True):
        assert own.grad is not None
        assert own.grad.data_ptr() == gradients[name].data_ptr()
        assert own.grad.stride() == own.stride()
        assert torch.equal(own.grad, expected.grad)
    torch.testing.assert_close(flat.gradient_norm(), nn.utils.get_total_norm([p.grad for p in plain.parameters()]))


def test_a_parameter_that_was_replaced_is_told() -> None:
    module = network()
    flat = flat_of(module)
    module[1].bias.data = module[1].bias.data.clone()
    with pytest.raises(RuntimeError, match="replaced or moved"):
        learn(module, flat)


def test_adam_goes_on_from_a_state_and_leaves_out_what_is_beyond_its_number() -> None:
    found = []
    for restarted in (False, True):
        module = network()
        flat = flat_of(module)
        optimizer = FlatAdam(flat, learning_rate=0.1, number=3)
        for _ in range(3):
            learn(module, flat)
            optimizer.step(divisor=torch.tensor(2.0))
            if restarted:
                state = {
                    name: {key: value.clone() for key, value in own.items()} for name, own in optimizer.state().items()
                }
                assert set(state) == {"0.weight", "0.bias", "1.weight"}
                optimizer = FlatAdam(flat, learning_rate=0.1, number=3)
                optimizer.load_state(state)
        assert torch.equal(module[1].bias, network()[1].bias)
        found.append(flat.values.clone())
    assert torch.equal(*found)
    assert not torch.equal(found[0], flat_of(network()).values)


def test_moments_that_a_state_lacks_are_those_of_the_start() -> None:
    # Checkpoints from before the first step once held none.
    module = network()
    flat = flat_of(module)
    optimizer = FlatAdam(flat, learning_rate=0.1)
    learn(module, flat)
    optimizer.step()
    optimizer.load_state({name: {} for name in dict(module.named_parameters())})
    assert not any(value.any() for own in optimizer.state().values() for value in own.values())
    with pytest.raises(KeyError):
        optimizer.load_state({"0.weight": {}})


def test_a_step_that_is_left_out_moves_nothing() -> None:
    module = network()
    flat = flat_of(module)
    optimizer = FlatAdam(flat, learning_rate=0.1)
    learn(module, flat)
    before = flat.values.clone()
    optimizer.step(left_out=torch.tensor(True))
    assert torch.equal(flat.values, before)


def test_the_norm_of_many_numbers_is_as_exact_as_single_precision() -> None:
    parameter = torch.zeros(2_000_003)
    flat = FlatParameters({"": parameter})
    parameter.grad = torch.full_like(parameter, 0.1)
    flat.gather_gradients()
    expected = parameter.grad.double().norm()
    assert flat.gradient_norm().item() == pytest.approx(expected.item(), rel=1e-6)


def test_autograd_sees_what_a_step_changes() -> None:
    module = network()
    flat = flat_of(module)
    optimizer = FlatAdam(flat, learning_rate=0.1)
    learn(module, flat)
    loss = (module[1].weight * module[1].weight).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_parameters_of_several_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="one dtype"):
        FlatParameters({"single": torch.zeros(1), "double": torch.zeros(1, dtype=torch.float64)})


def test_a_parameter_without_numbers_is_no_trouble() -> None:
    flat = FlatParameters({"some": torch.ones(2), "none": torch.zeros(0, 3)})
    assert {name: part.shape for name, part in flat.split(flat.values).items()} == {"some": (2,), "none": (0, 3)}
