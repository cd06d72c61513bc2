"""Attention metrics at the Llama-2-7B shape in bf16, random weights made on the device, beside a plain forward pass.

    python benchmarks/measure_7b.py [--tokens 4096 8192 16384 32768] [--long 131072] [--no-maps] [--profile 4096]

One sample; plain forward: the stock decoder with its fast attention, no head, no cache. Measured: the same pass with
every attention metric of every head, exact; `activations` adds those of the residual stream. Eager maps: the stock
decoder with output_attentions, α taken from the maps layer by layer, up to where they run out of memory. Interleaved
rounds, medians. Then the kernels alone. Prints tables as they are measured. --profile: what the GPU does in a pass of
so many tokens, and nothing else.
"""

import argparse
import statistics


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="*", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--long", type=int, default=0, help="also measure one sample of this many tokens, once")
    parser.add_argument("--no-maps", action="store_true", help="without the eager maps")
    parser.add_argument("--profile", type=int, help="profile one pass of each way at so many tokens")
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch
from shape_7b import SHAPE, build, matmul_rate
from transformers import PreTrainedModel

from sinkctl.kernels.column_sums import IMPLEMENTATIONS, Visible
from sinkctl.metrics.observe import observe
from sinkctl.metrics.samples import laid_out
from sinkctl.metrics.views import Scope
from sinkctl.model.attention import decoder_of
from sinkctl.tasks.measure.tally import Tally

ROUNDS = 3


def stock(model: PreTrainedModel, ids: torch.Tensor) -> None:
    with torch.no_grad():
        decoder_of(model)(input_ids=ids, use_cache=False)


def measured(model: PreTrainedModel, ids: torch.Tensor, activations: bool) -> Tally:
    tally = Tally(Scope(), (0.3,))
    if not activations:
        tally.block_metrics = {}
    observe(model, laid_out([ids[0].cpu()], model.device), tally)
    tally.end(1)
    return tally


def eager(model: PreTrainedModel, ids: torch.Tensor) -> list[torch.Tensor]:
    """α of every head from eager maps, each map dropped after its layer, as a careful script would do it."""
    tokens = torch.arange(ids.shape[1], 0, -1, device=ids.device)
    found = []

    def reduce(module, inputs, output):
        found.append((output[1].float().sum(2) / tokens).cpu())
        return output[0], None

    hooks = [layer.self_attn.register_forward_hook(reduce) for layer in model.model.layers]
    model.set_attn_implementation("eager")
    try:
        stock(model, ids)
    finally:
        model.set_attn_implementation("sdpa")
        for hook in hooks:
            hook.remove()
    return found


def timed(ways: dict, rounds: int) -> dict[str, tuple[float, float, float] | None]:
    """way → (median seconds, spread, peak GiB); None where memory ran out."""
    times, peaks, failed = {way: [] for way in ways}, {}, set()
    for _ in range(rounds + 1):
        for way, run in ways.items():
            if way in failed:
                continue
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            try:
                times[way].append(seconds_once(run))
            except torch.OutOfMemoryError:
                failed.add(way)
                continue
            peaks[way] = torch.cuda.max_memory_allocated() / 2**30
    return {
        way: None if way in failed else (statistics.median(t[1:]), max(t[1:]) / min(t[1:]) - 1, peaks[way])
        for way, t in times.items()
    }


def seconds_once(run) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def kernels(tokens: int, rate: float) -> None:
    """Useful TFLOP/s of the operator: QKᵀ and PV over rows, QKᵀ again over columns, the causal half."""
    draw = [torch.randn(1, 32, tokens, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    run = IMPLEMENTATIONS["triton"]
    took = statistics.median(seconds_once(lambda: run(*draw, scale=128**-0.5, visible=Visible())) for _ in range(5))
    useful = 3 * 2 * 32 * 128 * tokens**2 / 2
    flash = statistics.median(
        seconds_once(lambda: torch.nn.functional.scaled_dot_product_attention(*draw, is_causal=True)) for _ in range(5)
    )
    print(
        f"column_sums at {tokens:,}, one layer: {1e3 * took:.2f} ms, {useful / took / 1e12:.0f} TFLOP/s, "
        f"{useful / took / rate:.0%} of the matrix rate; stock flash attention alone {1e3 * flash:.2f} ms",
        flush=True,
    )


def profiled(model: PreTrainedModel, tokens: int) -> None:
    """What is launched, how often the host waits, and which operators take the device's time."""
    ids = torch.randint(0, SHAPE["vocab_size"], (1, tokens), device="cuda")
    for way, run in {
        "plain": lambda: stock(model, ids),
        "attention": lambda: measured(model, ids, False),
        "+ activations": lambda: measured(model, ids, True),
    }.items():
        run()
        with torch.profiler.profile() as seen:
            took = seconds_once(run)
        events = seen.key_averages()
        host = {e.key: e.count for e in events if e.key.startswith("cuda") or e.key.startswith("cuLaunch")}
        device = sum(e.count for e in events if e.device_type == torch.autograd.DeviceType.CUDA)
        busy = sum(e.self_device_time_total for e in events if e.device_type == torch.autograd.DeviceType.CUDA)
        print(f"{way}: {1e3 * took:.0f} ms, {device:,} device events of {busy / 1e3:.0f} ms; {host}")
        print(events.table(sort_by="self_device_time_total", row_limit=25, max_name_column_width=60), flush=True)


def main() -> None:
    options = flags()
    if options.profile:
        return profiled(build().model, options.profile)
    rate, model = matmul_rate(), build().model
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {rate / 1e12:.0f} TFLOP/s bf16")
    for tokens in (8192, 32768):
        kernels(tokens, rate)
    print("tokens   way            seconds  spread  ÷ plain  peak GiB  (weights included)")
    for tokens in [*options.tokens, *([options.long] if options.long else [])]:
        ids = torch.randint(0, SHAPE["vocab_size"], (1, tokens), device="cuda")
        ways = {
            "plain forward": lambda ids=ids: stock(model, ids),
            "attention": lambda ids=ids: measured(model, ids, False),
            "+ activations": lambda ids=ids: measured(model, ids, True),
        }
        if tokens <= 32768 and not options.no_maps:
            ways["eager maps"] = lambda ids=ids: eager(model, ids)
        found = timed(ways, 1 if tokens > 32768 else ROUNDS)
        for way, row in found.items():
            shown = "out of memory" if row is None else (
                f"{row[0]:7.3f}  {row[1]:6.1%}  {row[0] / found['plain forward'][0]:7.2f}  {row[2]:8.1f}"
            )  # fmt: skip
            print(f"{tokens:7d}  {way:14s} {shown}", flush=True)


if __name__ == "__main__":
    main()
