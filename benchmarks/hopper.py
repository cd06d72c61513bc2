"""Attention, a generated token and a scored block on a Hopper GPU, beside an earlier version, in one run.

    git worktree add ../before COMMIT
    python benchmarks/hopper.py --before ../before [--parts rates stream train decode score] [--rounds 10] [--rows 1 32]

bf16, batch 1, rows as projections lay them out. `stream_attention`: 16,384 queries of a stream whose cache is full, 4
sinks, windows of 1020, 2044 and 4092, 32 heads of 128 with 32 and 8 key/value heads; other widths. `sink_attention`: a
training step over 32,768 tokens. Each way is first held against float64: one that raises, or errs more than twice as
much as plain torch, is a row that says so. Then steps and scored blocks of the Llama-2-7B shape, random weights: with
PYTHONPATH=../before in front, and without --before, those of the earlier version itself. Ways take turns; medians over
rounds, by CUDA events. Useful TFLOP/s count visible pairs alone; a token's TB/s what must be read. Without --before the
earlier kernels are left out. Rows come as they are measured; the table last.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

NAMES = ("rates", "stream", "train", "decode", "score")  # of the parts


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=NAMES, default=NAMES)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", default="", help="part of the names of the cases of `stream`")
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 32], help="of the steps of decode")
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import shape_7b
import torch
from torch import Tensor

from sinkctl.cache.policies import SinkWindow
from sinkctl.kernels import decode_attention, losses, sink_attention, stream_attention
from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.present import cudnn_graphs_run, fa3_runs
from sinkctl.kernels.stream_attention import Strip
from sinkctl.model.memory import auto_chunk
from sinkctl.model.row_layers import row_layers
from sinkctl.tasks.bench.clock import Clock
from sinkctl.tasks.bench.costs import in_stream, token_flops, weight_bytes
from sinkctl.tasks.bench.rates import rates as hardware
from sinkctl.tasks.generate import decoder
from sinkctl.tasks.generate.decoder import Decoder
from sinkctl.tasks.generate.sampling import Sampler
from sinkctl.tasks.stream.scorers import BlockScorer

# H query heads, G key/value heads, T queries, S keys, N sinks, D head width
T, N, LONG = 16_384, 4, 32_768
BF16, CUDA = torch.bfloat16, torch.device("cuda", 0)
BEFORE = "before"
Way = Callable[..., Tensor]
rows: list[str] = []
errors: dict[tuple[str, str], str] = {}
begun = time.perf_counter()


def say(label: str, name: str, ms: float | None = None, more: str = "") -> None:
    rows.append(f"{label:28} {name:20} {'' if ms is None else f'{ms:9.3f} ms'} {more} {errors.get((label, name), '')}")
    print(f"[{time.perf_counter() - begun:4.0f} s] {rows[-1]}", flush=True)


def tried(label: str, name: str, run: Callable[[], object]) -> object | None:
    """What `run` gives; where it raises, a row that says so."""
    try:
        return run()
    except Exception as problem:
        said = (str(problem).splitlines() or [""])[0][:150]
        say(label, name, None, f"raises {type(problem).__name__}: {said}")
        return None


def drawn(heads: int, tokens: int, width: int) -> Tensor:
    return torch.randn(1, tokens, heads, width, device=CUDA, dtype=BF16).transpose(1, 2)


def medians(running: dict[str, Callable[[], object]], rounds: int, calls: int = 1) -> dict[str, float]:
    """Milliseconds a call of each, `calls` in a row, in turns; one round first does not count."""
    found: dict[str, list[float]] = {name: [] for name in running}
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


def shown(label: str, running: dict[str, Callable[[], object]], first: str, words: Callable[[str, float], str], **how):
    """Rows of these ways, each with how many times as fast it is as the way `first`."""
    running = {name: run for name, run in running.items() if tried(label, name, lambda run=run: (run(), True)[1])}
    found = medians(running, **how)
    for name, ms in found.items():
        times = f"{found[first] / ms:5.2f}×" if first in found and name != first else f"{'':6}"
        say(label, name, ms, f"{times} {words(name, ms)}")


def earlier(path: Path | None, kernel: str, name: str) -> Implementation | None:
    """An earlier version's Triton kernel."""
    if path is None:
        return None
    place = path / "sinkctl" / "kernels" / kernel / "triton.py"
    spec = importlib.util.spec_from_file_location(f"before_{kernel}", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Implementation(BEFORE, getattr(module, name))


# ---- operators


def right(way: Way, label: str, name: str, check: Callable[[Way], tuple[float, float]]) -> bool:
    """Whether a way errs at most twice as much as plain torch; a row if not."""
    found = tried(label, name, lambda: check(way))
    if found is None:
        return False
    errors[label, name] = f"error {found[0] / found[1]:.2f} of plain torch's"
    if not found[0] <= 2 * found[1]:
        say(label, name, None, "WRONG")
    return found[0] <= 2 * found[1]


def stream_inputs(heads: int, groups: int, width: int, queries: int, window: int):
    strip = Strip(drawn(heads, queries, width), *(drawn(groups, N, width).contiguous() for _ in range(2)))
    x = (drawn(heads, queries, width), *(drawn(groups, window + queries, width) for _ in range(2)))
    return x, dict(scale=width**-0.5, window=window, strip=strip)


def stream_errors(heads: int, groups: int, width: int, window: int, way: Way) -> tuple[float, float]:
    torch.manual_seed(0)
    x, options = stream_inputs(heads, groups, width, 700, window)
    options["sink_logit_H"] = torch.randn(heads, device=CUDA)
    exact = options | {"strip": Strip(*(t if t is None else t.double() for t in options["strip"]))}
    truth = stream_attention.stream_attention(*(t.double() for t in x), **exact)
    ways = (way, stream_attention.IMPLEMENTATIONS["tiled"])
    return tuple(float((run(*x, **options) - truth).norm() / truth.norm()) for run in ways)


def stream(options: argparse.Namespace) -> None:
    before = earlier(options.before, "stream_attention", "triton_attention")
    ways = {BEFORE: before, **{name: stream_attention.IMPLEMENTATIONS[name] for name in ("triton", "fa3")}}
    cases = [(32, groups, 128, window) for groups in (32, 8) for window in (1020, 2044, 4092)]
    for heads, groups, width, window in [*cases, (9, 3, 64, 2044), (32, 8, 64, 2044), (4, 1, 256, 2044)]:
        label, running = f"stream {heads}/{groups}×{width} {N}+{window}", {}
        if options.only not in label:
            continue
        x, given = stream_inputs(heads, groups, width, T, window)
        for name, way in ways.items():
            if way is not None and right(way, label, name, partial(stream_errors, heads, groups, width, window)):
                running[name] = partial(way, *x, **given)
        flops = 4 * heads * width * T * (window + 1 + N)
        shown(label, running, BEFORE, lambda _, ms, f=flops: f"{f / ms / 1e9:5.0f} TFLOP/s",
              rounds=options.rounds, calls=8)  # fmt: skip


def step(way: Way, leaves: list[Tensor], grad: Tensor, **options) -> list[Tensor]:
    out = way(*leaves, **options)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def training_inputs(heads: int, groups: int, tokens: int) -> tuple[list[Tensor], Tensor]:
    leaves = [drawn(n, tokens, 128).requires_grad_() for n in (heads, groups, groups)]
    return [*leaves, torch.randn(heads, device=CUDA, requires_grad=True)], drawn(heads, tokens, 128)


def training_errors(heads: int, groups: int, window: int | None, way: Way) -> tuple[float, float]:
    """The largest error of output, dq, dk and dv beside plain torch's; a logit has too few numbers for one draw."""
    torch.manual_seed(0)
    (leaves, grad), options = training_inputs(heads, groups, 640), dict(scale=128**-0.5, window=window and 300)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    truth = step(sink_attention.sink_attention, exact, grad.double(), **options)
    found = step(way, leaves, grad, **options)
    with torch.autocast("cuda", BF16):
        plain = step(sink_attention.sink_attention, leaves, grad, **options)
    return max(float((f - t).norm() / (p - t).norm()) for f, p, t in zip(found[:4], plain, truth, strict=False)), 1.0


def train(options: argparse.Namespace) -> None:
    for window, first in ((None, "flex"), (1024, "flash")):
        names = [first, "cudnn" if window is None else "cudnn_window", "fa3"]
        ahead = LONG - 1 if window is None else window
        pairs = (ahead + 1) * (ahead + 2) // 2 + (LONG - 1 - ahead) * (ahead + 1)
        for groups in (8, 32):
            label, running = f"train 32/{groups}×128 {LONG} {window or 'all'}", {}
            leaves, grad = training_inputs(32, groups, LONG)
            for name in names:
                way = sink_attention.IMPLEMENTATIONS[name]
                # FlexAttention compiles for every shape.
                if name == "flex" or right(way, label, name, partial(training_errors, 32, groups, window)):
                    running[name] = partial(step, way, leaves, grad, scale=128**-0.5, window=window)
            shown(label, running, first, lambda _, ms, p=pairs: f"{14 * 32 * 128 * p / ms / 1e9:5.0f} TFLOP/s",
                  rounds=max(3, options.rounds // 2), calls=2)  # fmt: skip


# ---- a model


def decode(options: argparse.Namespace) -> None:
    """`before` has the earlier kernel, in layers that torch.compile made."""
    loaded, kernel = shape_7b.build(), earlier(options.before, "decode_attention", "decode_attention")
    for window, count in ((2044, 1), (1020, 1), (4092, 1), (2044, 32)):
        if count not in options.rows:
            continue
        label, running = f"decode {N}+{window}, {count} rows", {}
        prompts = [torch.randint(0, 32_000, (window + N + 1,)) for _ in range(count)]
        for name in (BEFORE, "sinkctl") if kernel else ("sinkctl",):
            old = name == BEFORE
            found = decode_attention.IMPLEMENTATIONS | ({"triton": kernel} if old else {})
            rows = (lambda *_: (None, "")) if old else row_layers
            with patch.dict(decode_attention.IMPLEMENTATIONS, found), patch.object(decoder, "row_layers", rows):
                made = tried(label, name, partial(generating, loaded, window, count, prompts))
            if made is not None:
                running[name] = made.step
                read = weight_bytes(loaded.model) + made.bytes_held()
        shown(label, running, BEFORE, lambda _, ms, r=read: f"{r / ms / 1e9:5.2f} TB/s", rounds=options.rounds, calls=8)
        del running, made
        torch.cuda.empty_cache()


def generating(loaded, window: int, count: int, prompts: list[Tensor]) -> Decoder:
    greedy = Sampler(count, CUDA, greedy=True)
    made = Decoder(loaded, SinkWindow(sinks=N, window=window), greedy, rows=count, graph=True, compiled=True)
    made.feed(prompts, max(256, 4096 // count))
    made.step()
    return made


def score(options: argparse.Namespace) -> None:
    """`before` has the earlier attention in layers that torch.compile made, `compiled` today's in such layers."""
    loaded, kernel = shape_7b.build(), earlier(options.before, "stream_attention", "triton_attention")
    chunk, matmul, kept_up = auto_chunk(loaded)[0], shape_7b.matmul_rate(), sustained()
    sizes, layers = {BEFORE: T, "compiled": T, "sinkctl": chunk}, None
    for window in (2044, 1020, 4092):
        label, running = f"score {N}+{window}", {}
        for name in sizes if kernel else ("compiled", "sinkctl"):
            policy, compiled = SinkWindow(sinks=N, window=window), None if name == "sinkctl" else T
            scorer = BlockScorer(loaded, policy, compiled)
            layers = layers or scorer._compiled  # compiled once
            scorer._compiled = layers
            if name == BEFORE:
                scorer._cache._chosen = [(kernel, BEFORE)] * len(scorer._cache._chosen)
            running[name] = partial(scoring, scorer, torch.randint(0, 32_000, (sizes[name] + 1,)), name == "sinkctl")
        flops = token_flops(loaded, in_stream(window + N), window + N)

        def words(name: str, ms: float, flops: float = flops) -> str:
            rate = 1e3 * sizes[name] / ms
            shares = (rate * flops / limit for limit in (matmul, kept_up))
            return "{:8,.0f} tokens/s, {:.0%} of matmul, {:.0%} of it for a second".format(rate, *shares)

        shown(label, running, "compiled" if kernel is None else BEFORE, words, rounds=max(3, options.rounds // 2))


def sustained(calls: int = 500) -> float:
    """FLOP/s of the largest products of such a block, one after the other for a second, in which the GPU heats up."""
    x, weight = torch.randn(T, 4096, device=CUDA, dtype=BF16), torch.randn(11_008, 4096, device=CUDA, dtype=BF16) / 64
    ms = medians({"product": partial(torch.nn.functional.linear, x, weight)}, 1, calls)["product"]
    return 2e3 * T * weight.numel() / ms


def scoring(scorer: BlockScorer, ids_T: Tensor, own: bool) -> None:
    """A block; but for `own` its losses come from logits in float32."""
    plain = (losses.IMPLEMENTATIONS["reference"], "")
    with nullcontext() if own else patch.object(losses, "select", lambda _: plain):
        scorer.step(ids_T[:-1], ids_T[1:])


def rates(options: argparse.Namespace) -> None:
    for rate in hardware(CUDA, BF16, Clock(CUDA, 0.05)):
        say("rates", rate.name, None, f"{rate.value / 1e12:.4g} T{'FLOP' if rate.name == 'matmul' else 'B'}/s")
    say("rates", "matmul for a second", None, f"{sustained() / 1e12:.4g} TFLOP/s")


PARTS = dict(zip(NAMES, (rates, stream, train, decode, score), strict=True))


def main() -> None:
    options = flags()
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    print(f"{machine}; {fa3_runs()[1]}; {cudnn_graphs_run()[1]}", flush=True)
    for part in options.parts:
        tried(part, "", partial(PARTS[part], options))
        torch.cuda.empty_cache()
    print(f"\n{machine}, bf16; medians of {options.rounds}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
