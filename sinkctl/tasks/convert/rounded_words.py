"""What rounding keys and values costs, before and after a conversion, in a sentence and as measurements."""

from collections.abc import Iterator, Sequence

from sinkctl.cache.precision.settings import NAMES
from sinkctl.result.convert import CONTROL, CONVERTED, ORIGINAL, ConvertDetail, RoundedLine
from sinkctl.result.numbers import change, points
from sinkctl.tasks.convert.lines import meant, streamed

SURE = 2  # standard errors by which costs must differ


def rounded_costs(detail: ConvertDetail) -> Iterator[tuple[str, float | None]]:
    """(name, cost in % of perplexity) of checkpoints as they are meant to be streamed, nothing kept in full."""
    for checkpoint, prefix in ((CONVERTED, ""), (ORIGINAL, "original."), (CONTROL, "control.")):
        for line in _lines(detail, checkpoint):
            if line.keep == "none":
                yield f"{prefix}kv_{NAMES[line.bits]}.cost", None if line.cost is None else 100 * line.cost


def rounded_said(detail: ConvertDetail) -> list[str]:
    """Keys and values in 2 bits cost it +44.1 % ± 2.1 of perplexity, the original +83.0 % ± 4.2, …: less.

    In the fewest bits there are; the rest is in the table.
    """
    ours = [line for line in _lines(detail, CONVERTED) if line.keep == "none"]
    if not ours:
        return []
    now = min(ours, key=lambda line: 8 if line.bits == "fp8" else line.bits)
    if now.cost is None:
        return []
    others = [
        (words, line)
        for checkpoint, keep, words in (
            (ORIGINAL, "none", "the original"),
            (ORIGINAL, "first:1", "with its first token in full"),
            (CONTROL, "none", "the control"),
        )
        for line in _lines(detail, checkpoint)
        if line.keep == keep and line.bits == now.bits and line.cost is not None
    ]
    form = "fp8" if now.bits == "fp8" else f"{now.bits} bits"
    said = f"Keys and values in {form} cost it {_cost(now)} of perplexity"
    said += "".join(f", {words} {_cost(line)}" for words, line in others)
    theirs = [line for words, line in others if words != "the control"]
    return [f"{said}: {_compared(now, theirs)}." if theirs else f"{said}."]


def _compared(now: RoundedLine, theirs: Sequence[RoundedLine]) -> str:
    """Beside the original with nothing kept, then with its first token."""
    found = [_apart(now, line) for line in theirs]
    words = {-1: "easier to round than", 0: "no easier and no harder to round than", 1: "harder to round than"}
    if len(found) < 2 or found[0] == found[1]:
        return f"its cache is {words[found[0]]} the original's" + (", either way" if len(found) > 1 else "")
    return f"its cache is {words[found[0]]} the original's, and {words[found[1]]} that with its first token kept"


def _apart(now: RoundedLine, other: RoundedLine) -> int:
    """−1: costs less, 1: more, 0: the same, as far as can be told."""
    room = SURE * ((now.error or 0.0) ** 2 + (other.error or 0.0) ** 2) ** 0.5
    return 0 if abs(now.cost - other.cost) <= room else -1 if now.cost < other.cost else 1


def _lines(detail: ConvertDetail, checkpoint: str) -> list[RoundedLine]:
    """As the checkpoint is meant to be streamed; the original with its first token kept."""
    full = streamed(detail.streams, checkpoint, "1+") if checkpoint == ORIGINAL else meant(detail.streams, checkpoint)
    policy = None if full is None else full.policy
    return [line for line in detail.rounded if (line.checkpoint, line.policy) == (checkpoint, policy)]


def _cost(line: RoundedLine) -> str:
    return change(line.cost) + ("" if line.error is None else f" ± {points(line.error)}")
