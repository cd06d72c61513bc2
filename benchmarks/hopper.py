"""Attention on a Hopper GPU: every way there is, checked against float64 and then timed side by side.

    python benchmarks/hopper.py [--parts rates stream widths train decode score] [--rounds 10] [--only TEXT]

Layers alone, bf16, batch 1, rows as projections lay them out: `stream_attention` over 16,384 queries of a stream whose
cache is full (32 heads of 128, 4 sinks, windows of 1020, 2044 and 4092; with 32 and with 8 key/value heads), other head
widths, and a training step of `sink_attention` over 32,768 tokens. A way that raises or errs more than twice as much as
plain torch is a row that says so. Ways are interleaved; medians over rounds, by CUDA events. Useful TFLOP/s count
visible pairs alone. Rows come as they are measured; the table last.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import hopper_variants
import shape_7b
import torch
from torch import Tensor

from sinkctl.cache.policies import SinkWindow
from sinkctl.kernels import sink_attention, stream_attention
from sinkctl.kernels.present import fa3_runs
from sinkctl.kernels.sink_attention import flash
from sinkctl.kernels.stream_attention import Strip, fa3
from sinkctl.tasks.bench.costs import weight_bytes

# H query heads, G key/value heads, T queries, S keys, N sinks, D head width; batch 1
T, N, LONG = 16_384, 4, 32_768
BF16, CUDA = torch.bfloat16, torch.device("cuda", 0)
Way = Callable[..., Tensor]
rows: list[str] = []
begun = time.perf_counter()


def say(*columns: str | float) -> None:
    row = " ".join(f"{x:>9.3f}" if isinstance(x, float) else f"{x:<9}" for x in columns)
    rows.append(row)
    print(f"[{time.perf_counter() - begun:5.0f} s] {row}", flush=True)


def drawn(heads: int, tokens: int, width: int) -> Tensor:
    return torch.randn(1, tokens, heads, width, device=CUDA, dtype=BF16).transpose(1, 2)


def medians(running: dict[str, Callable[[], object]], rounds: int, calls: int = 1) -> dict[str, float]:
    """Milliseconds a call of each, `calls` in a row, interleaved; two rounds first do not count."""
    found: dict[str, list[float]] = {name: [] for name in running}
    for name in list(running):
        try:
            running[name]()
            torch.cuda.synchronize()
        except Exception as problem:
            say(name, f"raises {type(problem).__name__}: {str(problem).splitlines()[0][:150]}")
            del running[name], found[name]
    for turn in range(rounds + 1):
        for name, run in running.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(calls):
                run()
            end.record()
            end.synchronize()
            if turn:
                found[name].append(begin.elapsed_time(end) / calls)
    return {name: statistics.median(times) for name, times in found.items()}


errors: dict[tuple[str, str], str] = {}


def passed(name: str, label: str, check: Callable[[], tuple[float, float]]) -> bool:
    """Whether a way errs at most twice as much as plain torch; a row if not."""
    try:
        error, plain = check()
    except Exception as problem:
        say(label, name, f"raises {type(problem).__name__}: {str(problem).splitlines()[0][:150]}")
        return False
    errors[label, name] = f"error {error / plain:.2f} of plain torch's"
    if not error <= 2 * plain:
        say(label, name, f"WRONG: error {error:.2e}, plain torch {plain:.2e}")
        return False
    return True


# ---- stream_attention


# (queries, keys) a tile, warps, stages, most registers; keys and values by descriptors, the strip last
TILES = {
    64: [((64, 64), 4, 3, None), ((64, 64), 4, 2, None), ((64, 64), 4, 2, 128), ((128, 64), 4, 2, None)],
    128: [((64, 64), 4, 2, None), ((64, 64), 4, 3, None), ((64, 32), 4, 3, None), ((64, 32), 4, 2, None)],
    256: [((64, 64), 4, 2, None), ((64, 32), 4, 2, None), ((64, 32), 4, 3, None)],
}
FOLDS = [(16, 2), (32, 4), (64, 8), (128, 8)]  # queries a tile, warps


def folding(tile: int, warps: int, *x: Tensor, **options) -> Tensor:
    kept, (fa3.QUERIES, fa3.WARPS) = (fa3.QUERIES, fa3.WARPS), (tile, warps)
    try:
        return fa3.fa3_attention(*x, **options)
    finally:
        fa3.QUERIES, fa3.WARPS = kept


def streams(width: int) -> dict[str, Way]:
    found = {"triton": stream_attention.IMPLEMENTATIONS["triton"]}
    if fa3_runs()[0]:
        whole = stream_attention.IMPLEMENTATIONS["fa3"]
        found["fa3"] = whole
        found |= {f"fa3 fold {size} w{warps}": partial(folding, size, warps) for size, warps in FOLDS}
        found["fa3 band only"] = lambda *x, strip=None, **options: whole(*x, **options)
    for tile, warps, stages, registers in TILES[width]:
        name = f"new {tile[0]}×{tile[1]} w{warps} s{stages}{'' if registers is None else f' r{registers}'}"
        found[name] = partial(
            hopper_variants.attention, tile=tile, warps=warps, stages=stages, host=True, last=True, registers=registers
        )
    return found


def stream_inputs(heads: int, groups: int, width: int, queries: int, window: int):
    strip = Strip(drawn(heads, queries, width), *(drawn(groups, N, width).contiguous() for _ in range(2)))
    x = (drawn(heads, queries, width), *(drawn(groups, window + queries, width) for _ in range(2)))
    return x, dict(scale=width**-0.5, window=window, strip=strip)


def stream_errors(way: Way, heads: int, groups: int, width: int, window: int, logit: bool) -> tuple[float, float]:
    torch.manual_seed(0)
    x, options = stream_inputs(heads, groups, width, 700, window)
    if logit:
        options["sink_logit_H"] = torch.randn(heads, device=CUDA)
    exact = options | {"strip": Strip(*(t if t is None else t.double() for t in options["strip"]))}
    truth = stream_attention.stream_attention(*(t.double() for t in x), **exact)
    ways = (way, stream_attention.IMPLEMENTATIONS["tiled"])
    return tuple(float((run(*x, **options) - truth).norm() / truth.norm()) for run in ways)


def stream(cases: list[tuple[int, int, int, int]], options: argparse.Namespace) -> None:
    for heads, groups, width, window in cases:
        label, running = f"stream {heads}/{groups}×{width} {N}+{window}", {}
        x, given = stream_inputs(heads, groups, width, T, window)
        for name, way in chosen(streams(width), options).items():
            logit = not name.startswith("new")
            checks = [partial(stream_errors, way, heads, groups, width, size, logit) for size in (300, window)]
            if "only" in name or all(passed(name, label, check) for check in checks):
                running[name] = partial(way, *x, **given)
        flops = 4 * heads * width * T * (window + 1 + N)
        for name, ms in medians(running, options.rounds, calls=8).items():
            say(label, f"{name:24}", ms, f"ms {flops / ms / 1e9:6.0f} TFLOP/s {errors.get((label, name), '')}")


# ---- sink_attention


def trainings(window: int | None) -> dict[str, Way]:
    names = ("flash", "flex", *(("fa3",) if fa3_runs()[0] else ()))
    found = {name: sink_attention.IMPLEMENTATIONS[name] for name in names}
    if window is None:
        found["cudnn"] = cudnn = sink_attention.IMPLEMENTATIONS["cudnn"]
        found["fa3, cudnn backward"] = partial(flash.sink_attention, by=hopper_variants.Fa3Cudnn)
        found["cudnn, no sink"] = lambda q, k, v, logit, **options: cudnn(q, k, v, **options)
    else:
        by = {"cudnn window": hopper_variants.Banded, "fa3, cudnn window backward": hopper_variants.Fa3Banded}
        found |= {name: partial(flash.sink_attention, by=kind) for name, kind in by.items()}
    return found


def step(way: Way, leaves: list[Tensor], grad: Tensor, **options) -> list[Tensor]:
    out = way(*leaves, **options)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad, allow_unused=True)]


def training_errors(way: Way, heads: int, groups: int, width: int, window: int | None) -> tuple[float, float]:
    """The worst of output and gradients, each beside that of plain torch: (largest ratio, 1)."""
    torch.manual_seed(0)
    found, tokens = [], 640
    leaves = [drawn(n, tokens, width).requires_grad_() for n in (heads, groups, groups)]
    leaves.append(torch.randn(heads, device=CUDA, requires_grad=True))
    grad, options = drawn(heads, tokens, width), dict(scale=width**-0.5, window=window)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    truth = step(sink_attention.sink_attention, exact, grad.double(), **options)
    found = step(way, leaves, grad, **options)
    with torch.autocast("cuda", BF16):
        plain = step(sink_attention.sink_attention, leaves, grad, **options)
    ratios = [float((f - t).norm() / (p - t).norm()) for f, p, t in zip(found, plain, truth, strict=True)]
    return max(ratios[:4]), 1.0  # a logit's gradient is a number a head: too few for one draw; the tests have more


def train(cases: list[tuple[int, int, int, int, int | None]], options: argparse.Namespace) -> None:
    for tokens, heads, groups, width, window in cases:
        label = f"train {heads}/{groups}×{width} {tokens} {'all' if window is None else window}"
        leaves = [drawn(n, tokens, width).requires_grad_() for n in (heads, groups, groups)]
        leaves.append(torch.randn(heads, device=CUDA, requires_grad=True))
        grad, given, running = drawn(heads, tokens, width), dict(scale=width**-0.5, window=window), {}
        for name, way in chosen(trainings(window), options).items():
            if heads == groups and name == "flex":
                continue
            if "no sink" in name or passed(
                name, label, partial(training_errors, way, heads, groups, width, window and 300)
            ):
                running[f"{name} forward"] = partial(forward_alone, way, leaves, given)
                running[name] = partial(step, way, leaves, grad, **given)
        ahead = tokens - 1 if window is None else window
        pairs = (ahead + 1) * (ahead + 2) // 2 + (tokens - 1 - ahead) * (ahead + 1)
        for name, ms in medians(running, max(3, options.rounds // 2), calls=2).items():
            flops = (4 if "forward" in name else 14) * heads * width * pairs
            say(label, f"{name:24}", ms, f"ms {flops / ms / 1e9:6.0f} TFLOP/s {errors.get((label, name), '')}")


@torch.no_grad()
def forward_alone(way: Way, leaves: list[Tensor], given: dict) -> Tensor:
    return way(*leaves, **given)


# ---- what the GPU does at best


def rates(options: argparse.Namespace) -> None:
    a, b = (torch.randn(8192, 8192, device=CUDA, dtype=BF16) for _ in range(2))
    source = torch.ones(1 << 29, device=CUDA)
    halves, vector = source.view(BF16).view(-1, 8192), torch.ones(8192, device=CUDA, dtype=BF16)
    target, words = torch.empty_like(source), source.view(torch.int32)
    found = medians(
        {
            "matmul": lambda: a @ b,
            "copy": lambda: target.copy_(source),
            "read by sum": lambda: source.sum(),
            "read by amax": lambda: words.amax(),
            "read by mv": lambda: halves @ vector,
            "read by triton": lambda: hopper_variants.read(source),
        },
        options.rounds,
    )
    say("rates", f"{'matmul':24}", found["matmul"], f"ms {2 * 8192**3 / found['matmul'] / 1e9:6.0f} TFLOP/s")
    for name, factor in (("copy", 2), *((name, 1) for name in found if name.startswith("read"))):
        say("rates", f"{name:24}", found[name], f"ms {factor * source.nbytes / found[name] / 1e9:6.2f} TB/s")


# ---- a generated token, and a scored block, of the Llama-2-7B shape at 4+2044: the kernels they go to


def spent(run: Callable[[], object], calls: int) -> None:
    """Rows of the kernels of a call, the longest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(calls):
            run()
        torch.cuda.synchronize()
    kernels = sorted(seen.key_averages(), key=lambda x: -x.self_device_time_total)
    total = sum(x.self_device_time_total for x in kernels) / 1e3 / calls
    say("  ", f"{sum(x.count for x in kernels) / calls:.0f} kernels a call, {total:.3f} ms in them")
    for kernel in kernels[:18]:
        each = kernel.self_device_time_total / kernel.count
        say("  ", f"{kernel.count / calls:6.1f} ×", each, "µs", kernel.key[:100])


def decode(options: argparse.Namespace) -> None:
    from sinkctl.tasks.generate.decoder import Decoder
    from sinkctl.tasks.generate.sampling import Sampler

    loaded = shape_7b.build()
    say("decode", "built")
    for name, compile_options in (("today", {}), ("combo kernels", {"combo_kernels": True})):
        if options.only is not None and options.only not in name:
            continue
        greedy = Sampler(1, CUDA, greedy=True)
        decoder = Decoder(loaded, SinkWindow(sinks=N, window=2044), greedy, graph=True, compiled=True)
        decoder._compiled._options |= compile_options
        decoder.feed([torch.randint(0, 32000, (2049,))], 2049)
        decoder.step()
        say("decode", name, "captured")
        ms = medians({name: decoder.step}, options.rounds, calls=16)[name]
        read = weight_bytes(loaded.model) + decoder.bytes_held()
        say("decode", f"{name:24}", ms, f"ms {read / ms / 1e9:6.2f} TB/s")
        spent(decoder.step, 4)
        del decoder
        torch._dynamo.reset()


def score(options: argparse.Namespace) -> None:
    from sinkctl.tasks.stream.scorers import BlockScorer

    loaded = shape_7b.build()
    scorer = BlockScorer(loaded, SinkWindow(sinks=N, window=2044), T)
    ids_T = torch.randint(0, 32000, (T + 1,))
    step = partial(scorer.step, ids_T[:-1], ids_T[1:])
    step()
    say("score", scorer.choices["stream_attention"])
    ms = medians({"score": step}, options.rounds)["score"]
    say("score", f"{'tokens/s':24}", 1e3 * T / ms, f"{ms:.1f} ms a block")
    spent(step, 1)


def chosen(ways: dict[str, Way], options: argparse.Namespace) -> dict[str, Way]:
    return {name: way for name, way in ways.items() if options.only is None or options.only in name}


PARTS = {
    "rates": rates,
    "stream": partial(stream, [(32, groups, 128, w) for groups, w in ((32, 1020), (32, 2044), (32, 4092), (8, 2044))]),
    "widths": partial(stream, [(32, 8, 64, 2044), (16, 8, 256, 2044)]),
    "decode": decode,
    "score": score,
    "train": partial(train, [(LONG, 32, groups, 128, window) for window in (None, 1024) for groups in (8, 32)]),
    "lengths": partial(train, [(tokens, 32, 8, 128, None) for tokens in (1024, 2048, 4096, 8192, 16384)]),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "--parts", nargs="*", choices=PARTS, default=[x for x in PARTS if x not in ("decode", "score")]
    )
    arguments.add_argument("--rounds", type=int, default=10)
    arguments.add_argument("--only", help="ways whose name has this in it")
    options = arguments.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {fa3_runs()[1]}", flush=True)
    for part in options.parts:
        try:
            PARTS[part](options)
        except Exception as problem:
            say(part, f"raises {type(problem).__name__}: {str(problem).splitlines()[0][:200]}")
        torch.cuda.empty_cache()
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16; medians of {options.rounds}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
