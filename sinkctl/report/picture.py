"""Perplexity against position, and memory against tokens, as SVG."""

from sinkctl.report.axis import Tick, memory_axis, perplexity_axis, position_axis
from sinkctl.report.curves import Dot, Line, captions, contexts, last_position, lines
from sinkctl.report.svg import draw
from sinkctl.result import numbers
from sinkctl.result.stream import MemorySample, PolicyScore


def svg(policies: list[PolicyScore], name: str = "perplexity") -> str:
    """Perplexity (log axis) against position, one line a policy; `name` keeps ids apart within one page."""
    drawn = lines(policies)
    nlls = [dot.y for line in drawn for dot in (*line.dots, *line.measured)]
    scores = "; ".join(
        f"{policy.label}: perplexity {numbers.perplexity(policy.perplexity)} over {numbers.count(policy.tokens)} tokens"
        for policy in policies
    )
    return draw(
        drawn,
        position_axis(last_position(policies), most=8),
        perplexity_axis(nlls, most=7),
        name=name,
        titles=("Perplexity against position", "position in the text (tokens)", "perplexity (log scale)"),
        description=" ".join([f"{scores}.", *captions(policies)]),
        guides=[Tick(at, f"context {at}") for at in contexts(policies)],
        height=380,
    )


def memory_svg(samples: list[MemorySample], name: str = "memory") -> str:
    """Memory of the process, and of the device if there is one, against tokens."""
    kinds = {"process": [Dot(sample.tokens, sample.process_bytes) for sample in samples]}
    on_device = [Dot(sample.tokens, sample.device_bytes) for sample in samples if sample.device_bytes is not None]
    if on_device:
        kinds["device"] = on_device
    highest = {kind: max((dot.y for dot in dots), default=0) for kind, dots in kinds.items()}
    return draw(
        [Line(kind, dots, []) for kind, dots in kinds.items()],
        position_axis(max((sample.tokens for sample in samples), default=0), most=8),
        memory_axis(max(highest.values()), most=4),
        name=name,
        titles=("Memory against tokens", "tokens read", ""),
        description="; ".join(f"{kind}: at most {numbers.memory(most)}" for kind, most in highest.items()),
        guides=[],
        height=210,
    )
