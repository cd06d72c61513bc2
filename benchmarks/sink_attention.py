"""A training step of attention with a sink logit, forward and backward, beside stock flash attention without a sink.

    python benchmarks/sink_attention.py [--tokens 8192 32768] [--windows 0 1024] [--rounds 20]

One layer's attention alone: batch 1, 32 query heads of 128, 8 key/value heads, bf16, rows as projections lay them out.
Window 0 is full causal attention. Without a sink: torch's own `scaled_dot_product_attention`, flash backend, or, where
there is a window, the operator behind it. Useful TFLOP/s count 4 forward and 10 backward a head's width and visible
pair of tokens, beside the matrix rate measured in the same run. Ways are interleaved; medians over rounds, by CUDA
events. Prints a table last.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="*", default=[8192, 32768])
    parser.add_argument("--windows", type=int, nargs="*", default=[0, 1024], help="0: full causal attention")
    parser.add_argument("--rounds", type=int, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch
import torch.nn.functional as F
from shape_7b import matmul_rate
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sinkctl.kernels.sink_attention import IMPLEMENTATIONS

# H query heads, G key/value heads, T tokens, D head width; batch 1
H, G, D = 32, 8, 128
STOCK, OURS, FLEX = "stock flash, no sink", "flash with a sink", "FlexAttention with a sink"
Way = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def stock(q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, logit_H: Tensor, *, window: int | None) -> Tensor:
    if window is not None:
        return IMPLEMENTATIONS["flash"](q_BHTD, k_BGTD, v_BGTD, scale=D**-0.5, window=window)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q_BHTD, k_BGTD, v_BGTD, is_causal=True, enable_gqa=True)


def ways(window: int | None) -> dict[str, Way]:
    ours = {OURS: IMPLEMENTATIONS["flash"], FLEX: IMPLEMENTATIONS["flex"]}
    return {STOCK: partial(stock, window=window)} | {
        name: partial(run, scale=D**-0.5, window=window) for name, run in ours.items()
    }


def leaves(tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def normal(heads: int) -> Tensor:
        x_BTHD = torch.randn(1, tokens, heads, D, device="cuda", dtype=torch.bfloat16)
        return x_BTHD.transpose(1, 2).requires_grad_()

    return normal(H), normal(G), normal(G), torch.randn(H, device="cuda", requires_grad=True)


def step(way: Way, inputs: tuple[Tensor, ...], grad_BHTD: Tensor) -> tuple[float, float]:
    """Milliseconds forward and backward."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
    marks[0].record()
    out_BHTD = way(*inputs)
    marks[1].record()
    torch.autograd.grad(out_BHTD, inputs, grad_BHTD, allow_unused=True)  # stock has no logit
    marks[2].record()
    torch.cuda.synchronize()
    return marks[0].elapsed_time(marks[1]), marks[1].elapsed_time(marks[2])


def timed(tokens: int, window: int | None, rounds: int) -> dict[str, list[tuple[float, float]]]:
    inputs, found = leaves(tokens), {}
    grad_BHTD = torch.randn(1, tokens, H, D, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
    running = ways(window)
    for name in list(running):
        try:
            for _ in range(3):  # the first compiles
                step(running[name], inputs, grad_BHTD)
        except Exception as problem:
            print(
                f"{tokens} tokens, window {window or 'full'}: {name}: {type(problem).__name__}: {problem}", flush=True
            )
            del running[name]
    for _ in range(rounds):
        for name, way in running.items():
            found.setdefault(name, []).append(step(way, inputs, grad_BHTD))
    return found


def visible_pairs(tokens: int, window: int | None) -> int:
    """Σ_t min(t, window) + 1."""
    ahead = tokens - 1 if window is None else min(window, tokens - 1)
    return (ahead + 1) * (ahead + 2) // 2 + (tokens - 1 - ahead) * (ahead + 1)


def main() -> None:
    options = flags()
    rate, rows = matmul_rate(), []
    for tokens in options.tokens:
        for window in options.windows:
            found = timed(tokens, window or None, options.rounds)
            steps = {name: statistics.median(map(sum, times)) for name, times in found.items()}
            for name, ms in steps.items():
                forward, backward = (statistics.median(side) for side in zip(*found[name], strict=True))
                speed = 14 * H * D * visible_pairs(tokens, window or None) / ms * 1e3
                against = f"{ms / steps[STOCK]:9.3f}" if STOCK in steps else f"{'–':>9}"
                rows.append(
                    f"{tokens:7d} {window or 'full':>7} {name:26} {forward:9.3f} {backward:9.3f} {ms:9.3f} {against} "
                    f"{speed / 1e12:9.0f} {speed / rate:9.1%}"
                )
                print(rows[-1], flush=True)
    columns = ("forward", "backward", "step ms", "× stock", "TFLOP/s", "of matmul")
    print(
        f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16, {H} heads of {D}, {G} key/value heads; "
        f"matrix product {rate / 1e12:.0f} TFLOP/s"
    )
    print(" ".join([f"{'tokens':>7} {'window':>7} {'':26}", *(f"{name:>9}" for name in columns)]))
    print("\n".join(rows))


if __name__ == "__main__":
    main()
