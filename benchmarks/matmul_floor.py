"""The matrix-product floor of a SAC update: the products that its losses need and no more, each timed on its own.

An update computes, on B rows, with K critics and one actor of `depth` hidden layers and one linear head per task:

- the Bellman target: the actor forward on the next observations, the K target critics forward;
- the critics' loss: the K critics forward, then backward: the gradient of every weight, and of every layer's input but
  the first one's, whose input is data;
- the actor's loss: the actor forward, the K critics forward on its actions; backward through the critics to the actions
  (gradients of inputs only, at the first layer only of the action columns), then through the actor as above.

What is counted: one product (M, N, K) = (rows, columns, inner) for each layer and direction, with the operands laid out
as a linear layer has them (weight (out, in): `x @ W.T` forward, `g.T @ x` for the weight, `g @ W` for the input). Heads
are counted for each row's own task only: one small product per task on its B / M rows. Of the one-hot task in the first
layer's input nothing is counted, since picking a column per row needs no product. Both critics' input gradients are
counted for all rows, although the smaller critic alone passes a gradient at each row: which it is, is known only after
the forward pass. Biases, activations, losses, sampling, the optimiser and the target average are not products and count
nothing.

Every product has operands and a result of its own (`torch.mm(out=)`, nothing is allocated while the clock runs), so
none
finds its data in the cache because it was timed before. The floor is the sum of the times.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from benchmarks.repeats import Repeats
from mtrl.seeding import torch_stream

Direction = Literal["forward", "weight gradient", "input gradient"]


@dataclass(frozen=True, kw_only=True)
class UpdateSizes:
    """What decides the products of an update; the defaults are MT10 at the published sizes."""

    features: int = 39
    actions: int = 4
    num_tasks: int = 10
    width: int = 400
    depth: int = 3  # hidden layers
    batch_size: int = 1280  # a multiple of num_tasks
    num_critics: int = 2


@dataclass(frozen=True)
class Product:
    """A (rows, inner) matrix times an (inner, columns) one."""

    loss: str  # what needs it
    direction: Direction
    rows: int
    columns: int
    inner: int

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.columns * self.inner


@dataclass(frozen=True)
class _Linear:
    """A linear layer of a network, used `times` times on `rows` rows each."""

    rows: int
    in_features: int
    out_features: int
    times: int = 1

    def product(self, loss: str, direction: Direction) -> list[Product]:
        sizes = {
            "forward": (self.rows, self.out_features, self.in_features),
            "weight gradient": (self.out_features, self.in_features, self.rows),
            "input gradient": (self.rows, self.in_features, self.out_features),
        }[direction]
        return self.times * [Product(loss, direction, *sizes)]


def update_products(sizes: UpdateSizes) -> list[Product]:
    """Every product of one update, in the order of the computation."""

    def network(in_features: int, out_features: int) -> list[_Linear]:
        rows, width = sizes.batch_size, sizes.width
        hidden = [_Linear(rows, in_features, width)] + (sizes.depth - 1) * [_Linear(rows, width, width)]
        return [*hidden, _Linear(rows // sizes.num_tasks, width, out_features, times=sizes.num_tasks)]

    def forward(layers: Sequence[_Linear], loss: str) -> list[Product]:
        return [product for layer in layers for product in layer.product(loss, "forward")]

    def backward(layers: Sequence[_Linear], loss: str) -> list[Product]:
        """Gradients of all weights, and of all inputs but the network's own."""
        products = []
        for layer in reversed(layers):
            products += layer.product(loss, "weight gradient")
            products += layer.product(loss, "input gradient") if layer is not layers[0] else []
        return products

    def backward_to_action(layers: Sequence[_Linear], loss: str) -> list[Product]:
        """Gradients of inputs, at the first layer of the action columns."""
        first = _Linear(layers[0].rows, sizes.actions, layers[0].out_features)
        return [
            product for layer in [*reversed(layers[1:]), first] for product in layer.product(loss, "input gradient")
        ]

    actor = network(sizes.features, 2 * sizes.actions)
    critic = network(sizes.features + sizes.actions, 1)
    each = sizes.num_critics
    return [
        *forward(actor, "target"),
        *each * forward(critic, "target"),
        *each * forward(critic, "critic loss"),
        *each * backward(critic, "critic loss"),
        *forward(actor, "actor loss"),
        *each * forward(critic, "actor loss"),
        *each * backward_to_action(critic, "actor loss"),
        *backward(actor, "actor loss"),
    ]


class MatmulFloor:
    """The products of an update with their operands, ready to be timed."""

    def __init__(self, sizes: UpdateSizes):
        self.products = update_products(sizes)
        generator = torch_stream(0, "matmul floor")

        def matrix(rows: int, columns: int) -> torch.Tensor:
            return torch.randn(rows, columns, generator=generator)

        self._operands = [
            (
                # g.T for the gradient of a weight, x or g otherwise
                matrix(p.inner, p.rows).t() if p.direction == "weight gradient" else matrix(p.rows, p.inner),
                # W.T forward
                matrix(p.columns, p.inner).t() if p.direction == "forward" else matrix(p.inner, p.columns),
                torch.empty(p.rows, p.columns),
            )
            for p in self.products
        ]

    def measure(self) -> list[float]:
        """Seconds of each product, in one pass over all."""
        seconds = []
        for left, right, out in self._operands:
            started = time.perf_counter()
            torch.mm(left, right, out=out)
            seconds.append(time.perf_counter() - started)
        return seconds

    def table(self, passes: Sequence[Sequence[float]]) -> str:
        """The list of products with the median milliseconds of each kind; `passes` are results of `measure`."""
        lines = [f"{'loss':12} {'direction':16} {'(M, N, K)':>18} {'times':>6} {'ms each':>8} {'ms':>8} {'GFLOP/s':>8}"]
        for product, times in Counter(self.products).items():
            places = [place for place, other in enumerate(self.products) if other == product]
            total = Repeats(tuple(sum(seconds[place] for place in places) for seconds in passes)).median
            shape = f"({product.rows}, {product.columns}, {product.inner})"
            lines.append(
                f"{product.loss:12} {product.direction:16} {shape:>18} {times:6} {1e3 * total / times:8.3f} "
                f"{1e3 * total:8.2f} {times * product.flops / total / 1e9:8.1f}"
            )
        return "\n".join(lines)


def main() -> None:
    """Prints the list and the floor."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    floor = MatmulFloor(UpdateSizes())
    floor.measure()
    passes = [floor.measure() for _ in range(arguments.repeats)]
    print(floor.table(passes))
    total = Repeats(tuple(1e3 * sum(seconds) for seconds in passes))
    gflop = sum(product.flops for product in floor.products) / 1e9
    print(f"floor: {total.shown(1)} ms for {gflop:.2f} GFLOP, {arguments.threads} threads")


if __name__ == "__main__":
    main()
