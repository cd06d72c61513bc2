"""Rows of a made-up benchmark on a machine whose speed drifts."""

import numpy as np

from sinkctl.result.bench import BenchDetail, Machine, Row
from sinkctl.result.record import ModelReport
from sinkctl.result.schema import Result

MACHINE = Machine(
    device="a GPU", threads=1, dtype="float32", model="f00d", versions={"torch": "2.13.0", "cuda": "13.0"}
)


def row(samples, way="sinkctl", metric="ms", case="stream", size=None, timed=True, **more) -> Row:
    size = size or {"sinks": 4, "window": 252}
    better = "higher" if metric == "tokens_per_s" else "lower"
    unit = "tok/s" if metric == "tokens_per_s" else "ms"
    return Row(
        case=case,
        label=f"{size.get('sinks', 0)}+{size.get('window', 0)}",
        size=size,
        way=way,
        metric=metric,
        unit=unit,
        better=better,
        samples=samples,
        low=0 if timed else None,
        high=0 if timed else None,
        **more,
    )


def run(rows: list[Row], machine: Machine = MACHINE) -> BenchDetail:
    return BenchDetail(suite="speed", machine=machine, rates=[], rows=rows)


def timed(seed: int, slower: float = 1.0, machine: float = 1.0, metric: str = "ms", noise: float = 0.01) -> BenchDetail:
    """Ours, `slower` than 10 ms, beside a stock way of 40 ms; the machine `machine` times slower, and drifting."""
    rng = np.random.default_rng(seed)
    drift_PR = machine * np.exp(rng.normal(0, 0.1, (2, 9)))

    def samples(ms: float) -> list[list[float]]:
        ms_PR = ms * drift_PR * np.exp(rng.normal(0, noise, drift_PR.shape))
        return (1e3 / ms_PR if metric == "tokens_per_s" else ms_PR).tolist()

    return run([row(samples(10 * slower), metric=metric, yardstick="stock"), row(samples(40), "stock", metric)])


def result(detail: BenchDetail) -> Result:
    model = ModelReport(
        name="m", fingerprint="f", model_type="llama", parameters=1, dtype="float32", device="cpu", context=None
    )
    return Result(
        task="bench",
        sinkctl_version="0",
        recipe={},
        model=model,
        seconds=1,
        complete=True,
        measurements=[],
        bench=detail,
    )
