"""What to do about a measured checkpoint's sinks, in words: by what they cost, where that was measured."""

from collections.abc import Sequence

from sinkctl.result.measure import SCORED, CostLine, InputScore, LayerScore
from sinkctl.result.numbers import percent
from sinkctl.result.words import quoted, ranges
from sinkctl.tasks.measure.reading import FREE, NO_SINK, first_percent, line_of, sentence

WEAK_SINK = 20.0  # percent of heads
STREAMS = "as sinkctl stream does by itself"  # its policy where none is asked for
HEAVY_TAILS = 1000.0  # kurtosis; BERT without clipping has 3,076, with clipped softmax 80 (arXiv 2306.12929)


def advice(kind: str, main: InputScore, other: InputScore | None, costs: Sequence[CostLine]) -> list[str]:
    """`main`: the input that a checkpoint is judged by; `other`: the same text without BOS, where there is such."""
    said = [_of_vision(main) if kind == "vision" else _of_encoder(main, other) if kind == "encoder" else None]
    if kind == "decoder":
        said = [_of_decoder(main, other, costs)]
    heavy = [layer.number for layer in main.layers if (layer.kurtosis or 0) > HEAVY_TAILS]
    layers = "layer" if len(heavy) == 1 else "layers"
    channels = sorted({layer.massive.channel for layer in _massive(main)})[:4]
    if channels:
        which = f"channel{'s' if len(channels) > 1 else ''} {', '.join(map(str, channels))}"
        said.append(f"leave {which} out of low-bit activation quantization")
    elif heavy:
        said.append(
            f"leave activations after {layers} {ranges(heavy)} out of low-bit quantization: they have outliers "
            f"(kurtosis above {HEAVY_TAILS:,.0f})"
        )
    said = [words for words in said if words]
    return [sentence("; ".join(said))] if said else []


def _of_decoder(main: InputScore, other: InputScore | None, costs: Sequence[CostLine]) -> str:
    """What to do with the first tokens: by what they cost, and not by their rate, where that was measured.

    That is what a stream loses without them, and what hiding the first key costs once the sink has formed: hidden
    from the beginning, another token may take over, which one evicted later leaves no time for.
    """
    rate, lines = first_percent(main), (line_of(costs, "0+"), line_of(costs, "first key", SCORED))
    streamed, formed = (None if line is None else line.perplexity / line.baseline - 1 for line in lines)
    leans = formed is not None and formed > FREE
    if streamed is None and leans:
        return "keep the first tokens in the cache, and in full precision: what comes later leans on them"
    if streamed is None:
        return "what evicting the first tokens costs was not measured" if rate < NO_SINK else (
            f"keep the first tokens in the cache, {STREAMS}, until a measured cost says otherwise"
        )  # fmt: skip
    if streamed <= FREE and not leans and any(line is not None and _may_cost(line) for line in lines):
        return (
            f"keep the first tokens in the cache, {STREAMS}: too little was scored to tell what they are worth (--set "
            "cost.samples=N and cost.tokens=N score more)"
        )
    if streamed <= FREE and leans:
        return (
            "a stream does without the first tokens, yet later tokens lean on them: evict them only as a window does, "
            "and keep them in full precision"
        )
    if streamed <= FREE and rate < NO_SINK:
        return "a plain window is safe, sinkctl stream -p window: nothing leans on the first tokens"
    if streamed <= FREE:
        return "heads park attention there, yet the model does as well with a plain window, sinkctl stream -p window"
    if other is not None and rate - first_percent(other) > WEAK_SINK:
        return f"put BOS in front of every text, and keep it in the cache, {STREAMS}"
    if other is None and main.bos:
        return f"keep BOS in the cache, {STREAMS}; --bos both tells whether another first token would do"
    return f"keep the first tokens in the cache whatever they are, {STREAMS}"


def _may_cost(line: CostLine) -> bool:
    """Whether its error allows for more than nothing."""
    return line.perplexity / line.baseline - 1 + 2 * (line.error or 0.0) > FREE


def kept(main: InputScore) -> list[str]:
    """Which tokens to keep in full where keys and values are rounded, as far as massive activations tell them."""
    found = main.predicted
    if found is None:
        return []
    where = f"in channel{'s' if len(found.channels) > 1 else ''} {ranges(found.channels)} after layer {found.layer}"
    if not found.all.right:
        return [f"Tokens massive {where} are no sinks of later layers: rounded keys and values need keep none of them."]
    number, others = found.keep.rpartition(":")[2], found.besides_first
    first = "first token" if number == "1" else f"first {number} tokens"
    total = f"{found.all.predicted:,} places massive {where}, {found.all.right:,} of them sinks of later layers"
    if found.keep == "none":
        said = f"Where keys and values are rounded, sinkctl stream --kv 4bit --kv-keep predicted keeps in full {total}"
    else:
        share = "all" if not found.left else f"{found.all.predicted - found.left:,} of the"
        said = (
            f"Where keys and values are rounded, keep the {first} in full (sinkctl stream --kv 4bit --kv-keep "
            f"{found.keep}): that is {share} {total}"
        )
        said += "; --kv-keep predicted keeps them all" if found.left else ""
    return [said + (f"; of {others.sinks:,} other sinks, this names {others.right:,}." if others.sinks else ".")]


def _of_encoder(main: InputScore, other: InputScore | None) -> str:
    if first_percent(main) < NO_SINK:
        return "nothing leans on the first token"
    said = f"leave {quoted(main.first_tokens[0])} out where attention is read as relevance"
    anywhere = other is not None and first_percent(other) > first_percent(main) / 2
    return said + (", and the first token where it is not there" if anywhere else "")


def _of_vision(main: InputScore) -> str | None:
    if main.patches is None:
        return None
    if not main.patches.outlier_percent:
        return f"no outlier patches (norms above {main.patches.threshold:g})"
    kept = "although it has registers" if main.patches.registers else "registers would hold what they do"
    return f"{percent(main.patches.outlier_percent)} of the patches are outliers, {kept}"


def _massive(main: InputScore) -> list[LayerScore]:
    return [layer for layer in main.layers if layer.number in main.massive_layers]
