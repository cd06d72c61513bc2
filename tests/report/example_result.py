"""Results written by hand for the report tests."""

import math

from sinkctl.result.schema import Measurement, ModelReport, Result
from sinkctl.result.stream import CurvePoint, MemorySample, Passage, PolicyScore, StreamDetail


def curve(perplexities: list[float], stretch: int = 100) -> list[CurvePoint]:
    """Point i covers the positions from i·stretch up to (i+1)·stretch."""
    return [
        CurvePoint(first=i * stretch, end=(i + 1) * stretch, nll=math.log(p), tokens=stretch)
        for i, p in enumerate(perplexities)
    ]


def policy(label: str, points: list[CurvePoint], **changes) -> PolicyScore:
    """A policy with perplexity 10 and its whole curve common."""
    tokens = sum(point.tokens for point in points)
    settings = {
        "label": label,
        "kind": "sink_window",
        "settings": {},
        "tokens": tokens,
        "perplexity": 10.0,
        "common_perplexity": 10.0,
        "common_tokens": tokens,
        "cache_tokens": 256,
        "cache_bytes": 2**20,
        "curve": points,
    }
    return PolicyScore(**(settings | changes))


def passage(text: str, **changes) -> Passage:
    """A passage at line 7, byte 1,234 of book.txt."""
    settings = {"index": 300, "tokens": 32, "nll": 6.5, "file": "book.txt", "byte": 1234, "line": 7, "text": text}
    return Passage(**(settings | changes))


def stream_result(policies: list[PolicyScore], passages: list[Passage] = (), **changes) -> Result:
    """A complete stream result of the demo model."""
    stream = StreamDetail(
        tokens=max((p.tokens for p in policies), default=0),
        bos="in front, as the tokenizer does it",
        chunk=256,
        policies=policies,
        marks=[],
        passages=list(passages),
        memory=[MemorySample(tokens=t, process_bytes=2**29 + t, device_bytes=None) for t in (0, 1000, 2000)],
        sink_rate=0.769,
    )
    return result(**({"stream": stream} | changes))


def result(**changes) -> Result:
    """A result with the parts every task has."""
    model = ModelReport(
        name="demo",
        fingerprint="sha256:0123",
        model_type="llama",
        parameters=5_512_345,
        dtype="float32",
        device="cpu",
        context=512,
        layers=["8 layers: 4 sinks and the last 252 tokens"],
    )
    settings = {
        "task": "stream",
        "sinkctl_version": "0.1.0",
        "recipe": {"task": "stream", "text": {"files": ["book.txt"]}},
        "model": model,
        "choices": {"chunk": "256: fastest of 128, 256, 512 on this processor"},
        "seconds": 12.34,
        "complete": True,
        "measurements": [
            Measurement(name="stream.tokens_per_s", samples=[3760.0], unit="tok/s", better="higher"),
            Measurement(name="stream.peak_memory", samples=[2.0**29], unit="bytes", better="lower"),
        ],
        "verdict": ["4+252 holds perplexity 10.0 to the end."],
        "notes": ["The text was cut once."],
    }
    return Result(**(settings | changes))
