"""Products of a layer's matrices with the rows of a step, on a GPU: the project's kernel beside torch's, in turns.

    python benchmarks/row_products.py [--rows 1 8 32] [--rounds 10]

The Llama-3-8B shape, bf16, random weights of eight layers, more than caches hold, captured as one graph: a norm, three
matrices to queries, keys and values, one back, a norm, two that gate, one back. `torch` takes each matrix by itself,
with what torch has for the norms; `joined` takes those of a norm as one, and neither norms, gates nor sums. First each
product is held against float64; exit code 1 where one errs more than twice as much as plain torch that rounds once.
"""

import argparse
from collections.abc import Callable
from functools import partial

MOST_ROWS = 32  # of a step


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    if not all(1 <= rows <= MOST_ROWS for rows in options.rows):
        parser.error(f"--rows {' '.join(map(str, options.rows))}: the kernel takes 1 to {MOST_ROWS}")
    return options


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch
from hopper import medians
from rounded_decode import BF16, CUDA, captured, say
from torch import Tensor
from torch.nn.functional import linear, rms_norm, silu

from sinkctl.kernels.row_products import IMPLEMENTATIONS, Norm, row_products
from sinkctl.model.shapes import SHAPES
from sinkctl.tasks.bench.clock import Clock
from sinkctl.tasks.bench.rates import rates

LAYERS, EPS = 8, 1e-5
C, WIDE = (SHAPES["llama-3-8b"][name] for name in ("hidden_size", "intermediate_size"))
PARTS = {
    "qkv": [(C, C), (C // 4, C), (C // 4, C)],
    "out": [(C, C)],
    "gated": [(WIDE, C), (WIDE, C)],
    "down": [(C, WIDE)],
}
Layer = dict[str, list[Tensor]]


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, device=CUDA, dtype=BF16) / shape[-1] ** 0.5


def stock(x: Tensor, weights: list[Tensor], norm: Norm | None = None, gated: bool = False, add: Tensor | None = None):
    if norm is not None:
        x = rms_norm(x, norm.gain_K.shape, norm.gain_K, norm.eps)
    found = [linear(x, weight) for weight in weights]
    y = silu(found[0]) * found[1] if gated else torch.cat(found, 1) if len(found) > 1 else found[0]
    return y if add is None else y + add


def calls(way: Callable, layer: Layer, x: Tensor, wide: Tensor, norm: Norm) -> dict[str, Callable[[], Tensor]]:
    return {
        "qkv": partial(way, x, layer["qkv"], norm=norm),
        "out": partial(way, x, layer["out"], add=x),
        "gated": partial(way, x, layer["gated"], norm=norm, gated=True),
        "down": partial(way, wide, layer["down"], add=x),
    }


def exact(x: Tensor, weights: list[Tensor], norm: Norm | None = None, gated: bool = False, add: Tensor | None = None):
    wide = norm and Norm(norm.gain_K.double(), norm.eps)
    add = None if add is None else add.double()
    return row_products(x.double(), [weight.double() for weight in weights], norm=wide, gated=gated, add=add)


def errors(layer: Layer, given: tuple[Tensor, Tensor, Norm], rows: int) -> bool:
    """Whether the kernel errs at most twice as much as plain torch that rounds once."""
    found = [calls(way, layer, *given) for way in (exact, row_products, IMPLEMENTATIONS["triton"])]
    right = True
    for part in PARTS:
        truth, plain, ours = (way[part]().double() for way in found)
        share = float((ours - truth).norm() / (plain - truth).norm())
        right &= share <= 2
        say(f"{rows} rows, {part}: error {share:.2f} of plain torch's {'' if share <= 2 else 'WRONG'}")
    return right


def timed(layers: list[Layer], given: tuple[Tensor, Tensor, Norm], rows: int, rounds: int, reads: float) -> None:
    x, wide, _ = given
    joined = [{part: torch.cat(weights) for part, weights in layer.items()} for layer in layers]
    ways = {"torch": stock, "sinkctl": IMPLEMENTATIONS["triton"]}
    running = {}
    for name, way in ways.items():
        running[name] = [run for layer in layers for run in calls(way, layer, *given).values()]
    running["joined"] = [
        partial(linear, wide if part == "down" else x, weight) for layer in joined for part, weight in layer.items()
    ]
    graphs = {name: captured(lambda runs=runs: [run() for run in runs], 1) for name, runs in running.items()}
    read = sum(weight.nbytes for weights in layers[0].values() for weight in weights)
    for name, ms in medians(graphs, rounds, 4).items():
        rate = read * LAYERS / ms / 1e9
        say(f"{rows} rows, {name}: {1e3 * ms / LAYERS:6.1f} µs a layer, {rate:.2f} TB/s, {rate / reads:.0%} of reading")


@torch.no_grad()
def main() -> int:
    options = flags()
    reads = {rate.name: rate.value / 1e12 for rate in rates(CUDA, BF16, Clock(CUDA, 0.05))}["read"]
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, reads {reads:.2f} TB/s, bf16")
    torch.manual_seed(0)
    layers = [{part: [drawn(*shape) for shape in shapes] for part, shapes in PARTS.items()} for _ in range(LAYERS)]
    right = True
    for rows in options.rows:
        x, wide = (torch.randn(rows, width, device=CUDA, dtype=BF16) for width in (C, WIDE))
        given = x, wide, Norm(1 + torch.randn(C, device=CUDA, dtype=BF16) / 10, EPS)
        right &= errors(layers[0], given, rows)
        timed(layers, given, rows, options.rounds, reads)
    return int(not right)


if __name__ == "__main__":
    raise SystemExit(main())
