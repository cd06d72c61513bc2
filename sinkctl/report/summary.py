"""What every report says in words and rows: the score table, the model, speed and memory."""

import math
import textwrap
from typing import NamedTuple

from sinkctl.result import numbers
from sinkctl.result.schema import Measurement, ModelReport, Result
from sinkctl.result.stream import Passage, PolicyScore, StreamDetail
from sinkctl.result.words import quoted

BEST, BEYOND = " *", " †"
SHOWN = 0.01  # of the whole time, for a phase to be worth a word
HEADING = 14  # letters of a column's name on one line


class ScoreTable(NamedTuple):
    """What was scored, as text; `best` holds the (row, column) of the lowest perplexity, `words` columns of words."""

    columns: list[str]
    rows: list[list[str]]
    best: set[tuple[int, int]]
    legend: list[str]
    words: frozenset[int] = frozenset({0})


def heading(name: str) -> list[str]:
    """A column's name over a few lines: its last word below the others, and long names broken."""
    lines = name.rsplit(" ", 1)
    return textwrap.wrap(name, HEADING) if max(map(len, lines)) > HEADING else lines


def score_table(policies: list[PolicyScore]) -> ScoreTable:
    """One row a policy, in their order; policies are compared on the tokens that all of them scored."""
    common = any(policy.common_perplexity is not None and policy.common_tokens != policy.tokens for policy in policies)
    columns = ["policy", "perplexity", "tokens scored", "cache tokens", "cache memory"]
    rows = [_score_row(policy) for policy in policies]
    legend = []
    if common:
        columns.insert(2, "on common tokens")
        for row, policy in zip(rows, policies, strict=True):
            row.insert(2, numbers.perplexity(policy.common_perplexity))
        shared = max(policy.common_tokens for policy in policies)
        legend.append(f"common tokens: the {numbers.count(shared)} that every policy scored")
    best = {(row, 2 if common else 1) for row in _lowest(policies, common)}
    first = _score(policies[0], common) if len(policies) > 1 else None
    if first and any(_score(policy, common) for policy in policies[1:]):
        at = 3 if common else 2
        columns.insert(at, f"to {policies[0].label}")
        for row, policy in zip(rows, policies, strict=True):
            row.insert(at, "" if policy is policies[0] else numbers.difference(_score(policy, common), first))
    if best:
        legend.insert(0, "* lowest perplexity")
    beyond = sorted({policy.extrapolates_from for policy in policies if policy.extrapolates_from is not None})
    if beyond:
        places = ("position " if len(beyond) == 1 else "positions ") + ", ".join(map(numbers.count, beyond))
        legend.append(f"† beyond the model's context from {places} on")
    return ScoreTable(columns, rows, best, legend)


def model_line(model: ModelReport) -> str:
    """demo: llama, 5.51M parameters, float32 on cpu, context 512."""
    context = f"context {model.context}" if model.context is not None else "no context length named"
    size = numbers.short_count(model.parameters)
    return f"{model.name}: {model.model_type}, {size} parameters, {model.dtype} on {model.device}, {context}"


def passage_words(passage: Passage) -> str:
    """byte 1,234, 6.50 nats over 32 tokens, most “Exe” (12.1)."""
    token = (
        ""
        if passage.token_nll is None
        else f", most {quoted(passage.token.strip() or passage.token)} ({passage.token_nll:.1f})"
    )
    return (
        f"byte {numbers.count(passage.byte)}, {passage.nll:.2f} nats over {numbers.count(passage.tokens)} tokens{token}"
    )


def tokens_line(stream: StreamDetail) -> str:
    """57,044 tokens of book.txt; 57,044 tokens of 128 texts, a.txt and 3 more, in 2 processes."""
    files = [{"-": "standard input"}.get(file, file) for file in dict.fromkeys(mark.file for mark in stream.marks)]
    named = f"{files[0]}{f' and {numbers.count(len(files) - 1)} more' if len(files) > 1 else ''}" if files else ""
    texts = "" if stream.texts is None else f"{numbers.count(stream.texts)} text{'s' * (stream.texts != 1)}"
    what = ", ".join(filter(None, (texts, named)))
    processes = "" if stream.processes == 1 else f", in {stream.processes} processes"
    return f"{numbers.count(stream.tokens)} tokens{f' of {what}' if what else ''}{processes}"


def speed_line(result: Result) -> str:
    """What was read, speed, peak memory and time, as far as they were measured."""
    said = [] if result.stream is None else [tokens_line(result.stream)]
    shown = (
        ("stream.tokens_per_s", "{}"),
        ("stream.peak_memory", "peak memory {}"),
        ("generate.tokens_per_s", "{}"),
        ("generate.ms_per_token", "{} a step"),
        ("generate.first_ms", "first tenth {}"),
        ("generate.last_ms", "last tenth {}"),
        ("generate.peak_memory", "peak memory {}"),
        ("questions.per_s", "{}"),
    )
    for name, words in shown:
        measurement = result.measurement(name)
        if measurement is not None and measurement.samples:
            said.append(words.format(numbers.quantity(measurement.value, measurement.unit)))
    return " · ".join([*said, f"{numbers.duration(result.seconds)} in all"])


def phases_line(result: Result) -> str:
    """starting 4.1 s · loading 0.31 s · first block 0.2 s · scoring 12 s; what takes no hundredth is left out."""
    shown = {name: seconds for name, seconds in result.phases.items() if seconds >= SHOWN * result.seconds}
    return " · ".join(f"{name} {numbers.duration(seconds)}" for name, seconds in shown.items())


def measurement_row(measurement: Measurement) -> list[str]:
    """Name, median, range over the samples, direction."""
    samples = measurement.samples
    value = numbers.quantity(measurement.value, measurement.unit) if samples else numbers.NOTHING
    spread = ""
    if len(samples) > 1:
        low, high = (numbers.quantity(of(samples), measurement.unit) for of in (min, max))
        spread = f"{low} to {high} ({len(samples)} samples)"
    better = "" if measurement.better == "neither" else f"{measurement.better} is better"
    return [measurement.name, value, spread, better]


def unfinished(result: Result) -> list[str]:
    """The sentence that an incomplete run begins with."""
    return [] if result.complete else ["Incomplete: the run stopped before its end; these numbers cover what it read."]


def _score_row(policy: PolicyScore) -> list[str]:
    beyond = BEYOND if policy.extrapolates_from is not None else ""
    cache = "all" if policy.cache_tokens is None else numbers.count(policy.cache_tokens)
    score, memory = numbers.perplexity(policy.perplexity), numbers.memory(policy.cache_bytes)
    return [policy.label + beyond, score, numbers.count(policy.tokens), cache, memory]


def _score(policy: PolicyScore, common: bool) -> float | None:
    return policy.common_perplexity if common else policy.perplexity


def _lowest(policies: list[PolicyScore], common: bool) -> list[int]:
    scores = [_score(policy, common) for policy in policies]
    numbers = {row: score for row, score in enumerate(scores) if score is not None and math.isfinite(score)}
    return [row for row, score in numbers.items() if score == min(numbers.values())] if len(numbers) > 1 else []
