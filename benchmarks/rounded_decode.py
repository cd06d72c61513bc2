"""A generated token over a long cache in bf16 and in few bits, on a GPU, in one run.

    python benchmarks/rounded_decode.py [--parts errors kernel step tune] [--cache 32768] [--rows 8] [--rounds 10]
                                        [--bits 8 4 2] [--layers own] [--shape llama-3-8b]

A policy of 4 sinks and a window that fills the cache, groups of 32, the last 128 in full, random keys and values.
`errors`: of the kernel and of plain torch in bf16 against float64, 32/8 heads of 128, a window of 2,044; exit code 1
where the kernel errs more than twice as much. `kernel`: attention of a layer alone (32/8 and 32/32 heads of 128),
captured, in turns; medians; what it reads is the cache. `step`: a whole step of a model with random weights,
captured, in turns; layers as `sinkctl` runs them (`own`), as transformers has them (`stock`), by torch.compile
(`compiled`). `tune`: the kernel at 4 bits with other numbers of programs. Rows come as they are measured.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from unittest.mock import patch

from sinkctl.model.shapes import SHAPES

NAMES = ("errors", "kernel", "step", "tune")  # of the parts
FORMATS = {"8 bits": 8, "4 bits": 4, "2 bits": 2}


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=NAMES, default=NAMES[:3])
    parser.add_argument("--cache", type=int, default=32_768)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3-8b", help="of the model of `step`")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--bits", nargs="*", type=int, choices=FORMATS.values(), default=list(FORMATS.values()))
    parser.add_argument("--layers", choices=("own", "stock", "compiled"), default="own")
    options = parser.parse_args()
    if options.rows < 1:
        parser.error(f"--rows {options.rows}: a step has one row or more")
    return options


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch
from hopper import medians
from torch import Tensor

from sinkctl.cache.policies import SinkWindow
from sinkctl.cache.precision.settings import Precision
from sinkctl.cache.precision.steps import Turns, rule_of
from sinkctl.cache.precision.store import empty
from sinkctl.kernels import decode_attention, rounded_decode
from sinkctl.kernels.decode_attention import Ring, Turn
from sinkctl.kernels.rounded_decode import cuda
from sinkctl.model.positions import Rotation
from sinkctl.model.probe import LayerFacts
from sinkctl.model.settings import ModelSettings
from sinkctl.model.shapes import built
from sinkctl.tasks.bench.clock import Clock
from sinkctl.tasks.bench.costs import weight_bytes
from sinkctl.tasks.bench.rates import rates
from sinkctl.tasks.generate import decoder
from sinkctl.tasks.generate.sampling import Sampler

BF16, CUDA, S = torch.bfloat16, torch.device("cuda", 0), 4
FULL = "bf16"
begun = time.perf_counter()


def say(text: str) -> None:
    print(f"[{time.perf_counter() - begun:4.0f} s] {text}", flush=True)


def captured(run: Callable[[], object], times: int = 4) -> Callable[[], None]:
    """A graph that does it so often."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            run()
    return graph.replay


def policy_of(window: int, bits: int | None, **more) -> SinkWindow:
    return SinkWindow(sinks=S, window=window, precision=bits and Precision(bits=bits, **more))


def layer(groups: int, width: int = 128) -> LayerFacts:
    rotation = Rotation("half", 0, 500_000.0 ** (-torch.arange(width // 2).double() / (width // 2)))
    return LayerFacts(
        "a layer", 32, groups, width, width, None, rotation, False, False, None, False, False, None, False, BF16, CUDA,
        torch.nn.Identity(),
    )  # fmt: skip


def filled(tensors) -> None:
    """Random codes, numbers about 0, and scales that make codes such."""
    for name, x in tensors.items():
        part = name.rpartition(".")[2]
        if x.dtype == torch.uint8:
            x.random_(0, 256)
        elif part.endswith("scale"):
            x.uniform_(0.1, 0.3)
        elif part.endswith("zero"):
            x.uniform_(-2, -1)
        else:
            x.normal_()


def drawn(rows: int, groups: int, width: int = 128) -> list[Tensor]:
    return [torch.randn(rows, heads, width, device=CUDA, dtype=BF16) for heads in (32, groups, groups)]


def rounded_call(rows: int, groups: int, window: int, bits: int) -> tuple[Callable, int]:
    """(a step of one layer, given an implementation; bytes held)."""
    policy, facts = policy_of(window, bits), layer(groups)
    keep = policy.keep(None)
    store = empty(facts, policy.precision, rows, *keep)
    filled(store._asdict())
    t_B = torch.full((rows,), window + S + 100, device=CUDA) + torch.arange(rows, device=CUDA)
    angles = Turns().of(facts.rotation, facts, 32, window + S + 32)
    options = dict(rule=rule_of(policy.precision, keep), angles=angles, scale=128**-0.5)
    qkv = drawn(rows, groups)
    return lambda way, **more: way(*qkv, store, t_B, **options, **more), sum(x.nbytes for x in store)


def full_call(rows: int, groups: int, window: int) -> tuple[Callable, int]:
    sizes = (window + 1, window + 1, S, S)
    ring = Ring(*(torch.randn(rows, groups, n, 128, device=CUDA, dtype=BF16) for n in sizes))
    t_B = torch.full((rows,), window + S + 100, device=CUDA)
    angle = torch.randn(rows, 64, device=CUDA)
    turn = Turn(angle.cos(), angle.sin(), torch.ones_like(angle), torch.zeros_like(angle), 0, False)
    qkv = drawn(rows, groups)
    way = decode_attention.IMPLEMENTATIONS["triton"]
    return lambda: way(*qkv, ring, t_B, turn=turn, scale=128**-0.5, full=True), sum(x.nbytes for x in ring)


def ways(bits: int) -> list[str]:
    """Kernels that take so many bits."""
    found = ["triton"]
    if cuda.covers(rule_of(Precision(bits=bits), policy_of(2044, bits).keep(None)), (128, 128), 4):
        found.append("cuda")
    return found


def errors(options: argparse.Namespace) -> bool:
    """Whether kernels err at most twice as much as plain torch at every width."""
    right = True
    for (name, bits), way in ((form, way) for form in options.formats.items() for way in ways(form[1])):
        torch.manual_seed(0)
        call, _ = rounded_call(2, 8, 2044, bits)

        def exact(*qkv_store, **more):
            q, k, v, store, t_B = qkv_store
            wide = rounded_decode.Store(*(x.double() if x.is_floating_point() else x.clone() for x in store))
            return rounded_decode.rounded_decode(q.double(), k.double(), v.double(), wide, t_B, **more)

        truth = call(exact, take=False)
        both = (rounded_decode.IMPLEMENTATIONS[one] for one in (way, "reference"))
        ours, plain = (float((call(one, take=False) - truth).norm() / truth.norm()) for one in both)
        close = ours <= 2 * plain
        right &= close
        say(f"errors {name}, {way}: kernel {ours:.2e}, plain torch {plain:.2e}: {ours / plain:.2f} of it "
            f"{'' if close else 'WRONG'}")  # fmt: skip
    return right


def compared(label: str, calls: dict[str, tuple[Callable, int]], per_call: int, options, weights: int = 0) -> None:
    """Rows of these ways; bytes are those of the cache."""
    found = medians({name: run for name, (run, _) in calls.items()}, options.rounds, 4)
    for name, (_, held) in calls.items():
        ms = found[name] / per_call
        say(f"{label} {name}: {ms:8.4f} ms, {found[FULL] / found[name]:5.2f}×; cache {held / 2**30:6.3f} GiB, "
            f"{held / calls[FULL][1]:.4f} of bf16's; reads {(weights + held) / ms / 1e9:5.2f} TB/s")  # fmt: skip


def alone(options: argparse.Namespace) -> None:
    for groups in (8, 32):
        calls = {FULL: full_call(options.rows, groups, options.cache)}
        for name, bits in options.formats.items():
            call, held = rounded_call(options.rows, groups, options.cache, bits)
            for way in ways(bits):
                calls[f"{name}, {way}"] = partial(call, rounded_decode.IMPLEMENTATIONS[way]), held
        graphs = {name: (captured(run), held) for name, (run, held) in calls.items()}
        compared(f"kernel 32/{groups}", graphs, 4, options)
        del calls, graphs
        torch.cuda.empty_cache()


def tune(options: argparse.Namespace) -> None:
    call, _ = rounded_call(options.rows, 8, options.cache, 4)
    running = {}
    for programs, pieces in ((512, 1), (512, 2), (640, 2), (1024, 1), (1024, 2), (1088, 2), (1152, 2), (2112, 2)):
        with patch.multiple(cuda, PROGRAMS=programs, PIECES=pieces):
            graph = captured(partial(call, rounded_decode.IMPLEMENTATIONS["cuda"]))
        running[f"{programs} programs, {pieces} of each row and head for the rest"] = graph
    for name, ms in medians(running, options.rounds, 4).items():
        say(f"tune {name}: {ms / 4:.4f} ms")


def decoder_of(loaded, options: argparse.Namespace, bits: int | None) -> decoder.Decoder:
    """Its cache full of random numbers."""
    greedy = Sampler(options.rows, CUDA, greedy=True)
    policy = policy_of(options.cache, bits)
    ways = nullcontext() if options.layers == "own" else patch.object(decoder, "row_layers", lambda *_: (None, ""))
    with ways:
        made = decoder.Decoder(
            loaded, policy, greedy, rows=options.rows, graph=True, compiled=options.layers == "compiled"
        )
    state = made.cache.state()
    filled(state)
    made.cache.restore(state, [options.cache + S + 100] * options.rows)
    made.step()
    return made


def step(options: argparse.Namespace) -> None:
    loaded = built(options.shape, ModelSettings(device="cuda", dtype="bfloat16"))
    say(f"step: {loaded.name}, {weight_bytes(loaded.model) / 2**30:.1f} GiB of weights")
    calls = {}
    for name, bits in {FULL: None, **options.formats}.items():
        made = decoder_of(loaded, options, bits)
        calls[name] = made.step, made.bytes_held()
        say(f"step {name}: ready; {made.choices['decode_attention']}; finite: {bool(made._logits_BV.isfinite().all())}")
    compared(f"step {options.rows} rows, {options.layers} layers", calls, 1, options, weight_bytes(loaded.model))


PARTS = dict(zip(NAMES, (errors, alone, step, tune), strict=True))


@torch.no_grad()
def main() -> int:
    options = flags()
    options.formats = {name: bits for name, bits in FORMATS.items() if bits in options.bits}
    rate = {rate.name: rate.value / 1e12 for rate in rates(CUDA, BF16, Clock(CUDA, 0.05))}
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, reads {rate['read']:.2f} TB/s, bf16")
    failed = False
    for part in options.parts:
        failed |= PARTS[part](options) is False
        torch.cuda.empty_cache()
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
