"""What this hardware does at best, measured: the floors that everything else is held against."""

import statistics

import torch

from sinkctl.result.bench import Rate
from sinkctl.tasks.bench.clock import Clock
from sinkctl.tasks.bench.way import Way

SAMPLES = 5
# (rows of the square matrices, bytes copied): on a GPU large enough to fill it, on a CPU to leave its caches.
SIZES = {"cuda": (8192, 2 << 30), "cpu": (1024, 256 << 20), "mps": (4096, 1 << 30)}


def rates(device: torch.device, dtype: torch.dtype, clock: Clock) -> list[Rate]:
    """FLOP/s of a matrix product in `dtype`, bytes/s (read and written) of a copy, and bytes/s of reading alone.

    Reading is the fastest of torch's own ways to read much and write little: a sum, a maximum, a row's product.
    """
    rows, size = SIZES[device.type]
    a, b = (torch.randn(rows, rows, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    words, matrix = source.view(torch.int32), source.view(dtype).view(-1, rows)
    reads = {"sum": source.sum, "amax": words.amax, "mv": lambda: matrix @ a[0]}
    ways = {
        "matmul": Way(lambda: torch.mm(a, b, out=product)),
        "copy": Way(lambda: target.copy_(source)),
        **{name: Way(run) for name, run in reads.items()},
    }
    work = {"matmul": 2.0 * rows**3, "copy": 2.0 * source.nbytes} | dict.fromkeys(reads, float(source.nbytes))
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in ways.items():
        clock.warm(name, way, 1)
    for _ in range(SAMPLES):
        for name, way in ways.items():
            samples[name].append(work[name] / clock.sample(name, way))
    fastest = max(reads, key=lambda name: statistics.median(samples[name]))
    found = {"matmul": samples["matmul"], "copy": samples["copy"], "read": samples[fastest]}
    return [Rate(name=name, samples=each) for name, each in found.items()]
