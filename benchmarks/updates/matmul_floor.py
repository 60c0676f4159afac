"""The matrix-product floor of an update: the matrix products that it makes and nothing else.

One real update is watched, forward and backward, and every product that reaches the library (`mm`, `addmm`, `bmm`,
`baddbmm`) is noted with the sizes and strides of its two operands. The floor replays just these: no bias, activation,
copy, gather, loss, sampling, optimiser or target average. Every product has operands and a result of its own, allocated
before the clock starts, so none finds its data in the cache because it was replayed before.

So an architecture has the floor of its own products, and a needless product raises it: the operations stand beside the
times. Against a list made by hand of what the losses of multi-head SAC need (3 x 400, MT10: heads of a row's own task
only, no product for the one-hot task, the gradient of the actions instead of all inputs) the recorded floor has 4.5 %
more operations; that of the perceptron, with one head for all, 1.6 %.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.repeats import Repeats
from mtrl.seeding import torch_stream


@dataclass(frozen=True)
class Operand:
    """A matrix, or a batch of them, as it lay in memory."""

    size: tuple[int, ...]  # (rows, columns) or (batch, rows, columns)
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Operand:
        return cls(tuple(tensor.shape), tuple(tensor.stride()))

    @property
    def transposed(self) -> bool:
        """Whether columns lie together, as those of `weight.T` do."""
        return self.stride[-1] != 1 and self.stride[-2] == 1

    def filled(self, generator: torch.Generator) -> Tensor:
        """Random numbers laid out like it."""
        length = 1 + sum((size - 1) * stride for size, stride in zip(self.size, self.stride, strict=True))
        return torch.randn(length, generator=generator).as_strided(self.size, self.stride)


@dataclass(frozen=True)
class Product:
    """A product of two matrices, or of two batches of as many."""

    left: Operand
    right: Operand

    @property
    def sizes(self) -> tuple[int, ...]:
        """(rows, columns, inner), after the number of products of a batch."""
        *batch, rows, inner = self.left.size
        return (*batch, rows, self.right.size[-1], inner)

    @property
    def flops(self) -> int:
        count = 2
        for size in self.sizes:
            count *= size
        return count

    @property
    def layout(self) -> str:
        """n or t for each operand: as it is, or transposed."""
        return "".join("t" if operand.transposed else "n" for operand in (self.left, self.right))


_LEFT_OPERAND = {
    torch.ops.aten.mm: 0,
    torch.ops.aten.bmm: 0,
    torch.ops.aten.addmm: 1,
    torch.ops.aten.baddbmm: 1,
}
"""Position of a product's left operand among the arguments; the right one follows it."""


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        position = _LEFT_OPERAND.get(func.overloadpacket)
        if position is not None:
            self.products.append(Product(Operand.of(args[position]), Operand.of(args[position + 1])))
        return func(*args, **(kwargs or {}))


def recorded_products(update: Callable[[], object]) -> list[Product]:
    """Every product of one call, in the order of the computation."""
    with _Recorder() as recorder:
        update()
    return recorder.products


class MatmulFloor:
    """Products with operands of their own, ready to be replayed."""

    def __init__(self, products: Sequence[Product]):
        self.products = products
        generator = torch_stream(0, "matmul floor")
        self._calls = [
            (
                torch.mm if len(product.left.size) == 2 else torch.bmm,
                product.left.filled(generator),
                product.right.filled(generator),
                torch.empty(*product.left.size[:-1], product.right.size[-1]),
            )
            for product in products
        ]

    @property
    def gflop(self) -> float:
        return sum(product.flops for product in self.products) / 1e9

    def replay(self) -> None:
        """All products, in the order in which they were recorded."""
        for multiply, left, right, out in self._calls:
            multiply(left, right, out=out)

    def table(self, passes: int = 5) -> str:
        """Every kind of product with its median milliseconds, the costliest first."""
        seconds = [self._timed_pass() for _ in range(passes)]
        lines = [f"{'(batch,) M, N, K':>24} {'layout':>6} {'times':>6} {'ms each':>8} {'ms':>8} {'GFLOP/s':>8}"]
        rows = []
        for product, times in Counter(self.products).items():
            places = [place for place, other in enumerate(self.products) if other == product]
            total = Repeats(tuple(sum(own[place] for place in places) for own in seconds)).median
            speed = times * product.flops / total / 1e9
            cells = f"{', '.join(map(str, product.sizes)):>24} {product.layout:>6} {times:6}"
            row = f"{cells} {1e3 * total / times:8.3f} {1e3 * total:8.2f} {speed:8.1f}"
            rows.append((total, row))
        return "\n".join([*lines, *(row for _, row in sorted(rows, reverse=True))])

    def _timed_pass(self) -> list[float]:
        seconds = []
        for multiply, left, right, out in self._calls:
            started = time.perf_counter()
            multiply(left, right, out=out)
            seconds.append(time.perf_counter() - started)
        return seconds
