"""Streaming throughput at the Llama-2-7B shape in bf16, random weights made on the device, against the floor.

    python benchmarks/stream_7b.py [--long 1000000]

The floor is the arithmetic of the linear layers, the head and the attention band at the matrix rate measured in the
same run. Rows of one window are interleaved; medians over rounds. Prints a table last.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sinkctl.cache.policies import SinkWindow
from sinkctl.kernels.stream_attention import IMPLEMENTATIONS
from sinkctl.model.load import LoadedModel
from sinkctl.model.memory import auto_chunk
from sinkctl.tasks.stream.scorers import BlockScorer

SHAPE = dict(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=32, max_position_embeddings=4096,
)  # fmt: skip


def build() -> LoadedModel:
    config = AutoConfig.for_model("llama", **SHAPE)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    return LoadedModel(model, None, "llama-2-7b shape", "random")


def seconds(run, rounds: int = 5) -> float:
    times = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def matmul_rate() -> float:
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / seconds(lambda: a @ b, 20)


def copy_rate() -> float:
    a = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    b = torch.empty_like(a)
    return 2 * a.numel() * 2 / seconds(lambda: b.copy_(a), 10)


def floor_seconds(window: int, sinks: int, rate: float) -> float:
    """A token's arithmetic at the measured matrix rate."""
    h, i, layers, v = (SHAPE[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"))
    linear = 2 * (layers * (4 * h * h + 3 * h * i) + v * h)
    attention = 4 * (window + 1 + sinks) * h * layers
    return (linear + attention) / rate


class Stream:
    """A scorer kept in its steady state, fed random tokens."""

    def __init__(self, loaded: LoadedModel, window: int, chunk: int, way: str = "triton, compiled"):
        name, _, compiled = way.partition(", ")
        self.scorer = BlockScorer(loaded, SinkWindow(sinks=4, window=window), chunk if compiled else None)
        self.scorer._cache._chosen = [(IMPLEMENTATIONS[name], "asked for")] * SHAPE["num_hidden_layers"]
        self.chunk, self.draw = chunk, torch.Generator().manual_seed(0)
        self.losses = [self.step(), self.step()]  # the first fills the cache, the second compiles

    def step(self) -> np.ndarray:
        ids = torch.randint(0, SHAPE["vocab_size"], (self.chunk + 1,), generator=self.draw)
        return self.scorer.step(ids[:-1], ids[1:])


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--long", type=int, default=0, help="also stream this many tokens at W=2044")
    arguments.add_argument("--chunks", type=int, nargs="*", default=[])
    arguments.add_argument("--windows", type=int, nargs="*", default=[1020, 2044, 4092])
    arguments.add_argument("--ways", nargs="*", default=["triton, compiled", "triton", "cuda_flash"])
    options = arguments.parse_args()
    rate, copy = matmul_rate(), copy_rate()
    loaded = build()
    chunk, _ = auto_chunk(loaded)
    rows = []
    for window in options.windows:
        runs = {
            (name, size): Stream(loaded, window, size, name)
            for name in options.ways
            for size in [chunk, *options.chunks]
        }
        means = {key: float(np.mean(stream.losses[1], dtype=np.float64)) for key, stream in runs.items()}
        times = {key: [] for key in runs}
        for _ in range(5):
            for key, stream in runs.items():
                times[key].append(seconds(stream.step, 1))
        for (name, size), samples in times.items():
            speed = size / statistics.median(samples)
            share = floor_seconds(window, 4, rate) * speed
            rows.append((window, name, size, speed, share, max(samples) / min(samples) - 1, means[name, size]))
        del runs
        torch.cuda.empty_cache()
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    print(f"{machine}: {rate / 1e12:.0f} TFLOP/s bf16, {copy / 1e12:.2f} TB/s copy")
    print("window  way               chunk   tokens/s  share of floor  spread  mean NLL of block 2")
    for window, name, size, speed, share, spread, mean in rows:
        print(f"{window:6d}  {name:16s} {size:6d}  {speed:9.0f}  {share:14.1%}  {spread:6.1%}  {mean:.5f}")
    if options.long:
        stream = Stream(loaded, 2044, chunk)
        began, held = time.perf_counter(), []
        for _ in range(options.long // chunk):
            stream.step()
            held.append(torch.cuda.memory_allocated() / 2**30)
        torch.cuda.synchronize()
        took, steady = time.perf_counter() - began, held[len(held) // 20 :]
        tokens = len(held) * chunk
        print(f"{tokens:,} tokens at 4+2044 in {took:.1f} s, {tokens / took:.0f} tokens/s")
        print(
            f"device memory {min(steady):.3f} to {max(steady):.3f} GiB after the first 5 %, "
            f"peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"
        )


if __name__ == "__main__":
    main()
