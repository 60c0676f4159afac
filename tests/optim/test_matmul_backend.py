"""The library that multiplies float32 matrices. No test may depend on the processor that runs it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from agents.sac import SAC
from mtrl.aggregation import GradientAggregator, Mean
from mtrl.aggregation.projection.pcgrad import PCGrad
from mtrl.networks import PolicyArchitecture
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.networks.hard_sharing.separate import Separate
from mtrl.optim import matmul_backend
from mtrl.optim.matmul_backend import DEFAULT, ONEDNN, SETTING, choose_matmul_backend, default_matmul_backend
from mtrl.testing.small_runs import make_agent
from tests.agents.constants import CONTINUOUS, batch_of

ZEN_5 = {"avx512_f": True, "cpu_name": "AMD EPYC"}


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    before = SETTING.fp32_precision
    probe = matmul_backend._onednn_is_exact
    yield
    SETTING.fp32_precision = before
    probe.cache_clear()


def on(monkeypatch: pytest.MonkeyPatch, processor: dict[str, Any]) -> None:
    """A process in which nobody has chosen yet, on that processor."""
    SETTING.fp32_precision = "none"
    matmul_backend._onednn_is_exact.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)


@pytest.mark.parametrize(
    "processor",
    [
        {"avx512_f": True, "cpu_name": "Intel(R) Xeon(R) Platinum 8375C CPU"},  # MKL uses it there
        {"avx512_f": True},  # nobody knows what MKL does there
        {"avx512_f": False, "cpu_name": "AMD Ryzen 7 5800X"},
        {"architecture": "aarch64"},
    ],
)
def test_torch_keeps_its_choice_where_that_makes_use_of_the_processor(
    processor: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, processor)
    assert choose_matmul_backend() == DEFAULT
    assert SETTING.fp32_precision == "none"


def test_onednn_multiplies_where_mkl_leaves_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, ZEN_5)
    monkeypatch.setattr(matmul_backend, "_onednn_is_exact", lambda: True)
    assert [choose_matmul_backend() for _ in range(2)] == [ONEDNN, ONEDNN]


@pytest.mark.parametrize("rounded", [torch.bfloat16, torch.float16], ids=["8 bits", "11 bits, as TF32"])
def test_not_where_it_would_round(rounded: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, ZEN_5)
    multiply = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda left, right: multiply(left.to(rounded).float(), right.to(rounded).float()))
    assert choose_matmul_backend() == DEFAULT
    assert SETTING.fp32_precision == "none"


@pytest.mark.parametrize(
    ("setting", "exact", "said"),
    [
        ("ieee", True, DEFAULT),
        ("bf16", True, ONEDNN),
        ("bf16", False, f"{DEFAULT}, with rounding to bf16 allowed"),
    ],
)
def test_a_setting_that_somebody_made_stays(
    setting: str, exact: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, ZEN_5)
    monkeypatch.setattr(matmul_backend, "_onednn_is_exact", lambda: exact)
    SETTING.fp32_precision = setting
    assert choose_matmul_backend() == said
    assert SETTING.fp32_precision == setting


@pytest.mark.parametrize("rows", [1, 10, 160, 1280])
@pytest.mark.parametrize(("inputs", "outputs"), [(53, 400), (400, 400), (400, 8)])
def test_chosen_products_are_those_of_single_precision(rows: int, inputs: int, outputs: int) -> None:
    choose_matmul_backend()
    generator = torch.Generator().manual_seed(rows)
    values, weight, bias = (
        torch.randn(*shape, generator=generator) for shape in ((rows, inputs), (outputs, inputs), (outputs,))
    )
    expected = values.double() @ weight.double().T + bias.double()
    # Sums of n products err by n roundings of their absolute terms at most; those of bfloat16 are 2^16 times as large.
    bound = (inputs + 1) * 2.0**-24 * (values.abs().double() @ weight.abs().double().T + bias.abs().double())
    assert ((torch.nn.functional.linear(values, weight, bias).double() - expected).abs() <= bound).all()
    batched = torch.bmm(values.expand(3, -1, -1), weight.T.expand(3, -1, -1)) + bias
    assert ((batched.double() - expected).abs() <= bound).all()


@pytest.mark.parametrize(
    "sizes",
    [[1, 12, 46, 192], pytest.param([1, 3, 4, 8, 12, 16, 42, 46, 53, 64, 128, 192, 400], marks=pytest.mark.full)],
)
def test_chosen_products_of_whole_numbers_are_exact_in_every_layout(sizes: list[int]) -> None:
    choose_matmul_backend()
    generator = torch.Generator().manual_seed(1)
    for rows, inner, columns in itertools.product(sizes, repeat=3):
        # 12 bits and 4, so that every sum fits into float32 and no rounding to bfloat16 or TF32 stays unseen.
        left = torch.randint(-4095, 4096, (rows, inner), generator=generator).float()
        right = torch.randint(-8, 9, (inner, columns), generator=generator).float()
        bias = torch.arange(float(columns))
        expected = left.double() @ right.double()
        for own, other in itertools.product((left, left.T.contiguous().T), (right, right.T.contiguous().T)):
            assert torch.equal((own @ other).double(), expected)
            assert torch.equal(torch.addmm(bias, own, other).double(), expected + bias)
            batched = torch.bmm(own.expand(2, -1, -1), other.expand(2, -1, -1))
            assert torch.equal(batched[1].double(), expected)


def fail_with_default_matmul_backend() -> None:
    with default_matmul_backend():
        assert SETTING.fp32_precision == "none"
        raise ZeroDivisionError


def test_the_default_backend_is_for_a_while() -> None:
    SETTING.fp32_precision = "bf16"
    with pytest.raises(ZeroDivisionError):
        fail_with_default_matmul_backend()
    assert SETTING.fp32_precision == "bf16"
    setting = default_matmul_backend()(lambda: SETTING.fp32_precision)
    assert [setting(), setting(), SETTING.fp32_precision] == ["none", "none", "bf16"]


@pytest.mark.parametrize("architecture", [MLP, Separate])
@pytest.mark.parametrize("aggregator", [Mean, PCGrad])
@pytest.mark.parametrize("tasks", [[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 2]], ids=["equal shares", "others"])
def test_per_task_gradients_of_unequal_shares_are_left_to_the_default_backend(
    tasks: list[int], aggregator: type[GradientAggregator], architecture: type[PolicyArchitecture]
) -> None:
    SETTING.fp32_precision = "bf16"
    agent = make_agent(SAC, SAC.Config(), CONTINUOUS.spec, aggregator=aggregator, architecture=architecture)
    settings: list[str] = []
    backward = agent.critic_group.aggregator.backward
    agent.critic_group.aggregator.backward = lambda *given: settings.append(SETTING.fp32_precision) or backward(*given)
    agent.learn(batch_of(tasks))
    needs_per_task_gradients = architecture is Separate or aggregator is PCGrad
    assert settings == ["none" if needs_per_task_gradients and len(set(map(tasks.count, tasks))) > 1 else "bf16"]
    assert SETTING.fp32_precision == "bf16"
