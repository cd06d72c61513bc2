"""What words and thresholds look up in a checkpoint's scores."""

from collections.abc import Sequence

from sinkctl.result.measure import CostLine, FoundSink, InputScore

TOLD = ("natural", "images", "sound", "multimodal", "denoising")  # kinds of input that a checkpoint is judged by
NO_SINK = 5.0  # percent of heads
ELSEWHERE = 1.0  # percent of heads, mean over all places of a token, from which it is worth a word
ENOUGH = 500  # tokens scored: fewer do not carry a comparison in words
FREE = 0.02  # a perplexity that rises by less says that nothing was lost


def main_input(inputs: Sequence[InputScore]) -> InputScore:
    """The input that a checkpoint is judged by: text, with BOS where that was measured."""
    return min(inputs, key=lambda score: (score.kind not in TOLD, score.bos is False))


def elsewhere(main: InputScore) -> list[FoundSink]:
    """Tokens besides the first that are sinks often enough to be worth a word, the most telling first."""
    often = [sink for sink in main.found if 20 * sink.times >= main.samples and sink.times > 1]
    return [sink for sink in often if sink.percent * sink.times >= ELSEWHERE * sink.occurrences]


def first_percent(score: InputScore) -> float | None:
    """Sink_1 at the first ε."""
    return score.sinks[0].percent


def line_of(costs: Sequence[CostLine], start: str, whom: str | None = None) -> CostLine | None:
    """The first line whose name starts so, hidden from `whom`, that scored enough tokens."""
    named = [line for line in costs if line.name.startswith(start) and line.tokens >= ENOUGH]
    named = [line for line in named if whom in (None, line.hidden_from)]
    return next((line for line in named if line.perplexity and line.baseline), None)


def cost_of(costs: Sequence[CostLine], start: str, whom: str | None = None) -> float | None:
    """By how much perplexity rises in that line, a share."""
    line = line_of(costs, start, whom)
    return None if line is None else line.perplexity / line.baseline - 1


def sentence(words: str) -> str:
    """With a capital and a full stop."""
    return words[:1].upper() + words[1:] + "."
