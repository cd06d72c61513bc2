"""A conversion → its Result: measurements, and what they say in words."""

from collections.abc import Sequence

from sinkctl.result.convert import CheckpointLine, ConvertDetail, StreamedLine
from sinkctl.result.schema import Measurement

NOTHING = 0.005  # a share of perplexity that is no difference
GAP = 0.02  # that the first token's absence must cost for a share of it to mean something


def measurements_of(detail: ConvertDetail, seconds: float) -> list[Measurement]:
    """What `--fail-on` can name."""
    found = []

    def add(name: str, value: float | None, unit: str, better: str) -> None:
        if value is not None:
            found.append(Measurement(name=name, samples=[value], unit=unit, better=better))

    kept, bare, now = original_kept(detail.streams), original_bare(detail.streams), converted(detail.streams)
    for name, line in (("perplexity", now), ("original.kept", kept), ("original.bare", bare)):
        add(name, None if line is None else line.perplexity, "perplexity", "lower")
    closed = gap_closed(detail.streams)
    add("gap_closed", None if closed is None else 100 * closed, "% of the gap", "higher")
    if detail.checkpoints:
        before, after = detail.checkpoints[0], detail.checkpoints[-1]
        add("kl", after.kl, "nats/token", "lower")
        add("samples.perplexity", after.perplexity, "perplexity", "lower")
        add("original.samples.perplexity", before.perplexity, "perplexity", "lower")
        add("sink_rate", after.sink_percent, "% of heads", "neither")
        add("original.sink_rate", before.sink_percent, "% of heads", "neither")
        add("mechanism_mass", after.mechanism_mass, "mass", "neither")
        add("massive_max", after.massive, "|h|", "lower")
    add("convert.seconds", seconds, "s", "lower")
    return found


def original_kept(streams: Sequence[StreamedLine]) -> StreamedLine | None:
    """The original with its first token kept."""
    return next((s for s in streams if s.checkpoint == "original" and not s.policy.startswith("0+")), None)


def original_bare(streams: Sequence[StreamedLine]) -> StreamedLine | None:
    """The original with nothing kept and nothing in front."""
    return next((s for s in streams if s.checkpoint == "original" and s.policy.startswith("0+")), None)


def converted(streams: Sequence[StreamedLine]) -> StreamedLine | None:
    """The converted checkpoint as it is meant: with its window alone, or with the token in front that it keeps."""
    ours = [s for s in streams if s.checkpoint == "converted"]
    return next((s for s in ours if not s.policy.startswith("0+")), ours[0] if ours else None)


def gap_closed(streams: Sequence[StreamedLine]) -> float | None:
    """Of what leaving the first token out costs, in perplexity, the share that the mechanism makes good."""
    lines = original_kept(streams), original_bare(streams), converted(streams)
    if any(line is None or line.perplexity is None for line in lines) or lines[-1].first != "nothing":
        return None  # where a token stays in front, none was replaced
    kept, bare, now = (line.perplexity for line in lines)
    return (bare - now) / (bare - kept) if bare > kept * (1 + GAP) else None


def verdict_of(detail: ConvertDetail) -> list[str]:
    """What the conversion did, in at most four sentences."""
    return [*_streams(detail), *_sinks(detail)]


def _streams(detail: ConvertDetail) -> list[str]:
    kept, bare, now = original_kept(detail.streams), original_bare(detail.streams), converted(detail.streams)
    if any(line is None or line.perplexity is None for line in (kept, bare, now)):
        return []
    kept_words = {"nothing": "without kept tokens", "BOS": "with its BOS kept"}.get(now.first, "with its sink token")
    said = (
        f"{detail.mechanism}: perplexity {now.perplexity:.4g} {kept_words} ({now.policy}), streamed over "
        f"{detail.held_out:,} held-out tokens; the original {kept.perplexity:.4g} with its first token kept, "
        f"{bare.perplexity:.4g} without."
    )
    if now.first != "nothing":
        worse = now.perplexity / kept.perplexity - 1
        ruined = f", and perplexity is {worse:.0%} above the original's: it needs training" if worse > GAP else ""
        return [said, f"A token stays in front of every text, and is to be kept in a stream (1+W){ruined}."]
    closed = gap_closed(detail.streams)
    if closed is None:
        return [said, "The original hardly loses without its first token, so there was little to replace."]
    if closed <= 0:
        return [said, "That is no better than taking the first token away with nothing in its place."]
    made_good = f"{closed:.1%} of" if closed < 1 else "all of"
    return [said, f"That makes good {made_good} what the first token's absence costs."]


def _sinks(detail: ConvertDetail) -> list[str]:
    if not detail.checkpoints:
        return []
    before, after = detail.checkpoints[0], detail.checkpoints[-1]
    said = []
    if before.sink_percent is not None and after.sink_percent is not None:
        taken = after.mechanism_mass
        also = "" if taken is None else f"; the mechanism takes {taken:.3f} of attention"
        rates = f"{before.sink_percent:.1f} % before, {after.sink_percent:.1f} % after"
        bare = detail.checkpoints[1].sink_percent if len(detail.checkpoints) > 2 and after.first == "nothing" else None
        rates += "" if bare is None else f" ({bare:.1f} % of the original too, once nothing stands in front)"
        said.append(f"Heads that sink on the first token: {rates}{also}.")
    return said + _difference(before, after)


def _difference(before: CheckpointLine, after: CheckpointLine) -> list[str]:
    if before.perplexity is None or after.perplexity is None or after.kl is None:
        return []
    change = after.perplexity / before.perplexity - 1
    same = "the same" if abs(change) < NOTHING else f"{change:+.1%}"
    return [
        f"On samples: perplexity {after.perplexity:.4g} ({same} beside {before.perplexity:.4g}), "
        f"{after.kl:.2g} nats a token from the original."
    ]
