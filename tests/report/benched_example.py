"""A benchmark written by hand for the report tests; every number can be worked out."""

from example_result import result

from sinkctl.result.bench import BenchDetail, Change, Fit, Machine, Rate, Row
from sinkctl.result.schema import Result

HOSTILE = '<b>|x [red]"%:,\n\x1b[31m\u202e`_&amp;'
TIMED = {
    "tokens_per_s": ("tok/s", "higher"),
    "ms_per_token": ("ms", "lower"),
    "ms": ("ms", "lower"),
}


def timed(case: str, label: str, size: dict, way: str, metric: str, value: float, **changes) -> Row:
    """A timed row: five samples around `value`, its interval 1 % to both sides."""
    unit, better = TIMED[metric]
    samples = [[0.98 * value, 0.99 * value, value, 1.01 * value, 1.02 * value]]
    settings = dict(
        case=case, label=label, size=size, way=way, metric=metric, unit=unit, better=better, samples=samples,
        low=0.99 * value, high=1.01 * value, added_bytes=2**29,
    )  # fmt: skip
    return Row(**(settings | changes))


def exact(case: str, label: str, size: dict, way: str, metric: str, value: float, unit: str, better: str) -> Row:
    """A row that is not timed."""
    return Row(case=case, label=label, size=size, way=way, metric=metric, unit=unit, better=better, samples=[[value]])


def rows() -> list[Row]:
    """Scoring at two windows, decoding, memory at two lengths, an operator of a hostile name, a task's score."""
    small, large = (dict(sinks=4, window=window, chunk="auto") for window in (252, 1020))
    matmul, copy = dict(floor=100_000.0, floor_of="matmul"), dict(floor=3.2, floor_of="copy")
    return [
        timed("stream", "4+252", small, "sinkctl", "tokens_per_s", 35_900.0, yardstick="stock", **matmul),
        timed("stream", "4+252", small, "stock", "tokens_per_s", 17_950.0, **matmul),
        timed("stream", "4+252", small, "published", "tokens_per_s", 143.6),
        timed("stream", "4+1020", large, "sinkctl", "tokens_per_s", 30_000.0, **matmul),
        timed("stream", "4+1020", large, "stock", "tokens_per_s", 20_000.0, **matmul),
        timed("decode", "4+252", dict(sinks=4, window=252, rows=1), "sinkctl", "ms_per_token", 5.0, **copy,
              added_bytes=14 * 2**30),
        timed("decode", "4+252", dict(sinks=4, window=252, rows=1), "static", "ms_per_token", 4.0, **copy),
        *(
            exact("memory", f"{tokens}{'' if way == 'sinkctl' else ',dense'}", dict(tokens=tokens, way=way), way,
                  "peak_memory", gigabytes * 2**30, "bytes", "lower")
            for tokens, way, gigabytes in ((8192, "sinkctl", 2), (8192, "dense", 6), (32768, "sinkctl", 2),
                                           (32768, "dense", 18))
        ),
        timed(HOSTILE, "1024", dict(tokens=1024), "sinkctl", "ms", 0.5),
        timed(HOSTILE, "1024", dict(tokens=1024), HOSTILE, "ms", 2.0),
        exact("tasks", "4+252,arc", {"policy": "4+252"}, "sinkctl", "acc", 0.625, "", "higher"),
    ]  # fmt: skip


def change(name: str, percent: float, **settings) -> Change:
    """A rate that was 41,200 and is worse by `percent`, its interval one point to both sides."""
    now = 41_200 * (1 - percent / 100)
    known = dict(unit="tok/s", before=41_200.0, now=now, percent=percent, low=percent - 1, high=percent + 1)
    return Change(**(dict(name=name, raw_percent=percent + 2) | known | settings))


def changes() -> list[Change]:
    """One that holds, one that failed twice, one without a gate, one that nothing times."""
    return [
        change("stream.4+1020.tokens_per_s", -3.0, limit=10.0),
        change("stream.4+252.tokens_per_s", 14.2, limit=10.0, failed=True, first_percent=13.0),
        change(f"{HOSTILE}.1024.ms", 0.5),
        Change(name="quality.4+252.perplexity", unit="perplexity", before=20.0, now=20.5, percent=2.5, low=2.5,
               high=2.5, raw_percent=2.5, limit=5.0),
    ]  # fmt: skip


def detail(**settings) -> BenchDetail:
    """A whole benchmark; its baseline has a hostile name too."""
    known = dict(
        suite="ci",
        machine=Machine(device="cpu, 2 of it", threads=1, dtype="float32", model="demo, sha256:0123",
                        versions={"torch": "2.13.0", "triton": None}),
        rates=[Rate(name="matmul", samples=[7e14, 7.41e14, 8e14]), Rate(name="copy", samples=[4.27e12])],
        rows=rows(), changes=changes(), baseline=f"{HOSTILE}.json", settings={"rounds": 7, "threads": None},
        fits=[Fit(case="stream", way="sinkctl", metric="seconds", over="tokens", exponent=1.02, low=0.99, high=1.05,
                  sizes=[8192, 16384, 32768]),
              Fit(case="memory", way="dense", metric="bytes", over="tokens", exponent=1.0, low=None, high=None,
                  sizes=[8192, 16384, 32768])],
    )  # fmt: skip
    return BenchDetail(**(known | settings))


def bench_result(**settings) -> Result:
    """A whole result; `settings` are those of its detail."""
    return result(task="bench", measurements=[], verdict=["1 of 3 gates failed."], bench=detail(**settings))
