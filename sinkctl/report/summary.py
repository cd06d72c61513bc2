"""What every report says in words and rows: the score table, the model, speed and memory."""

from sinkctl.report.parts import Table, of, table_of
from sinkctl.result import numbers
from sinkctl.result.numbers import count, duration, known, quantity
from sinkctl.result.schema import Measurement, ModelReport, Result
from sinkctl.result.stream import Passage, PolicyScore, StreamDetail
from sinkctl.result.words import quoted

BEYOND = " †"
SHOWN = 0.01  # of the whole time, for a phase to be worth a word
SPEEDS = {
    "stream.tokens_per_s": "{}", "stream.peak_memory": "peak memory {}", "generate.tokens_per_s": "{}",
    "generate.ms_per_token": "{} a step", "generate.first_ms": "first tenth {}", "generate.last_ms": "last tenth {}",
    "generate.peak_memory": "peak memory {}", "questions.per_s": "{}",
}  # fmt: skip


def score_table(policies: list[PolicyScore]) -> Table:
    """One row a policy, in their order; policies are compared on the tokens that all of them scored."""
    common = any(policy.common_perplexity is not None and policy.common_tokens != policy.tokens for policy in policies)
    scores = [policy.common_perplexity if common else policy.perplexity for policy in policies]
    columns = {
        "policy": lambda policy: policy.label + (BEYOND if policy.extrapolates_from is not None else ""),
        "perplexity": of("perplexity", numbers.perplexity),
    }
    if common:
        columns["on common tokens"] = of("common_perplexity", numbers.perplexity)
    at = len(columns) - 1
    if len(policies) > 1 and scores[0] and any(scores[1:]):
        beside = ["", *(numbers.difference(score, scores[0]) for score in scores[1:])]
        columns[f"to {policies[0].label}"] = lambda policy: beside[policies.index(policy)]
    columns |= {
        "tokens scored": of("tokens", count),
        "cache tokens": lambda policy: "all" if policy.cache_tokens is None else count(policy.cache_tokens),
        "cache memory": of("cache_bytes", numbers.memory),
    }
    lowest = min(filter(known, scores), default=None) if sum(map(known, scores)) > 1 else None
    best = {(y, at) for y, score in enumerate(scores) if known(score) and score == lowest}
    beyond = sorted({policy.extrapolates_from for policy in policies if policy.extrapolates_from is not None})
    places = f"position{'s' * (len(beyond) > 1)} {', '.join(map(count, beyond))}"
    return table_of(
        policies,
        columns,
        best and "* lowest perplexity",
        common and f"common tokens: the {count(max(p.common_tokens for p in policies))} that every policy scored",
        beyond and f"† beyond the model's context from {places} on",
    )._replace(best=best)


def model_line(model: ModelReport) -> str:
    """demo: llama, 5.51M parameters, float32 on cpu, context 512."""
    context = f"context {model.context}" if model.context is not None else "no context length named"
    size = numbers.short_count(model.parameters)
    return f"{model.name}: {model.model_type}, {size} parameters, {model.dtype} on {model.device}, {context}"


def passage_words(passage: Passage) -> str:
    """byte 1,234, 6.50 nats over 32 tokens, most “Exe” (12.1)."""
    said = f"byte {count(passage.byte)}, {passage.nll:.2f} nats over {count(passage.tokens)} tokens"
    if passage.token_nll is None:
        return said
    return f"{said}, most {quoted(passage.token.strip() or passage.token)} ({passage.token_nll:.1f})"


def tokens_line(stream: StreamDetail) -> str:
    """57,044 tokens of book.txt; 57,044 tokens of 128 texts, a.txt and 3 more, in 2 processes."""
    files = [{"-": "standard input"}.get(file, file) for file in dict.fromkeys(mark.file for mark in stream.marks)]
    named = f"{files[0]}{f' and {count(len(files) - 1)} more' if len(files) > 1 else ''}" if files else ""
    texts = "" if stream.texts is None else f"{count(stream.texts)} text{'s' * (stream.texts != 1)}"
    what = ", ".join(filter(None, (texts, named)))
    processes = "" if stream.processes == 1 else f", in {stream.processes} processes"
    return f"{count(stream.tokens)} tokens{f' of {what}' if what else ''}{processes}"


def speed_line(result: Result) -> str:
    """What was read, speed, peak memory and time, as far as they were measured."""
    said = [] if result.stream is None else [tokens_line(result.stream)]
    found = [(result.measurement(name), words) for name, words in SPEEDS.items()]
    said += [words.format(quantity(m.value, m.unit)) for m, words in found if m is not None and m.samples]
    return " · ".join([*said, f"{duration(result.seconds)} in all"])


def phases_line(result: Result) -> str:
    """starting 4.1 s · loading 0.31 s · first block 0.2 s · scoring 12 s; what takes no hundredth is left out."""
    shown = {name: seconds for name, seconds in result.phases.items() if seconds >= SHOWN * result.seconds}
    return " · ".join(f"{name} {duration(seconds)}" for name, seconds in shown.items())


def measurement_table(measurements: list[Measurement]) -> Table:
    """Name, median, range over the samples, direction."""

    def spread(measurement: Measurement) -> str:
        samples = measurement.samples
        low, high = (quantity(of(samples), measurement.unit) if samples else "" for of in (min, max))
        return f"{low} to {high} ({len(samples)} samples)" if len(samples) > 1 else ""

    columns = {
        "measurement": of("name"),
        "median": lambda m: quantity(m.value, m.unit) if m.samples else numbers.NOTHING,
        "range": spread,
        "direction": lambda m: "" if m.better == "neither" else f"{m.better} is better",
    }
    return table_of(measurements, columns, words=["measurement", "range", "direction"])


def unfinished(result: Result) -> list[str]:
    """The sentence that an incomplete run begins with."""
    return [] if result.complete else ["Incomplete: the run stopped before its end; these numbers cover what it read."]
