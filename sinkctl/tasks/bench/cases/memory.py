"""Peak memory while a text of so many tokens is scored; a process measures one way at one length."""

from time import perf_counter

from sinkctl.cache.policies import Dense, SinkWindow
from sinkctl.errors import ModelError
from sinkctl.model.load import LoadedModel
from sinkctl.model.memory import auto_chunk, device_bytes, process_peak, reset_device_peak
from sinkctl.recipe.bench import MemoryCase
from sinkctl.recipe.sizes import Size
from sinkctl.result.bench import OURS
from sinkctl.tasks.bench.subject import Subject
from sinkctl.tasks.bench.way import Group, Reading
from sinkctl.tasks.stream.scorers import BlockScorer


def group(case: MemoryCase, subject: Subject, size: Size) -> Group:
    loaded, way, tokens = subject.loaded, size["way"], size["tokens"]
    chunk, why = auto_chunk(loaded)
    policy = SinkWindow(sinks=size["sinks"], window=size["window"]) if way == OURS else Dense()
    scorer = BlockScorer(loaded, policy)
    reset_device_peak(loaded.device)
    on_cpu = loaded.device.type == "cpu"
    held = process_peak(reset=True) if on_cpu else device_bytes(loaded.device)
    if held is None:
        raise ModelError(f"the peak memory of {loaded.device} cannot be read here; leave case {case.label} out")
    ends = [perf_counter()]
    for start in range(0, tokens, chunk):
        ids_T = subject.ids(min(chunk, tokens - start) + 1, start)
        scorer.step(ids_T[:-1], ids_T[1:])
        ends.append(perf_counter())
        subject.told(f"{tokens:,} tokens, {way}", min(1.0, (start + chunk) / tokens))
    peak = process_peak() if on_cpu else device_bytes(loaded.device, peak=True)
    detail = dict(
        held_bytes=held,
        weights_bytes=_weights(loaded),
        cache_bytes=scorer.cache_bytes,
        tokens_per_s=_rate(ends, tokens, chunk),
    )
    reading = Reading(way, "peak_memory", "bytes", "lower", peak, detail)
    return Group(readings=[reading], choices={"chunk": why} | scorer.choices)


def _rate(ends: list[float], tokens: int, chunk: int) -> float:
    """Without the first block, which also makes what is made once, where there are several."""
    first = 1 if tokens > chunk else 0
    return (tokens - first * chunk) / (ends[-1] - ends[first])


def _weights(loaded: LoadedModel) -> int:
    return sum(parameter.nbytes for parameter in loaded.model.parameters())
