"""Kept runs side by side: measurements of checkpoints as they stand in one report, all else by its numbers."""

from pathlib import PurePath

from sinkctl.report.bench_compared import compared as benchmarks
from sinkctl.report.bench_compared import not_the_same
from sinkctl.report.compared import compare_table
from sinkctl.report.summary import ScoreTable
from sinkctl.result.numbers import NOTHING, count, difference, quantity
from sinkctl.result.schema import Measurement, Result


def compared(results: list[Result], names: list[str]) -> ScoreTable:
    """One row a number and one column a run; of two runs of one task also the second's difference to the first."""
    if all(result.bench is not None for result in results):
        return benchmarks(results, names)
    if all(result.measure is not None for result in results):
        return _measured(results, names)
    order = dict.fromkeys(m.name for result in results for m in result.measurements if m.samples)
    rows, best, other_texts = [], set(), _texts_differ(results, names)
    for name in order:
        found = [result.measurement(name) for result in results]
        if _said_before(name, results):
            continue
        if len(results) == 2 and not other_texts and None not in found and (winner := _better(*found)) is not None:
            best.add((len(rows), 1 + winner))
        said = [NOTHING if m is None or not m.samples else quantity(m.value, m.unit) for m in found]
        change = [_change(*found)] if len(results) == 2 else []
        rows.append([name, *said, *change])
    legend = [*other_texts, *(["* better of the two"] if best else [])]
    return ScoreTable(["", *names, *(["Δ"] if len(results) == 2 else [])], rows, best, legend)


def _measured(results: list[Result], names: list[str]) -> ScoreTable:
    """Every checkpoint of every run, under its own name, or its run's where two have the same."""
    pairs = [(name, score) for name, result in zip(names, results, strict=True) for score in result.measure.checkpoints]
    labels = [score.label for _, score in pairs]
    named = [
        score if labels.count(score.label) == 1 else score.model_copy(update={"label": f"{name}: {score.label}"})
        for name, score in pairs
    ]
    return compare_table(results[0].measure.model_copy(update={"checkpoints": named}))


def _texts_differ(results: list[Result], names: list[str]) -> list[str]:
    """What to know before numbers of other texts are compared; nothing where all are of one."""
    said = [
        *not_the_same("text", [_files(result) for result in results], names),
        *not_the_same("number of tokens", [_tokens(result) for result in results], names),
    ]
    return [f"{line}; neither run is better for it" for line in said]


def _files(result: Result) -> str:
    """The files that were read, by name."""
    text = result.recipe.get("text")
    files = text.get("files") if isinstance(text, dict) else None
    return ", ".join(PurePath(name).name for name in files or ["the built-in text"])


def _tokens(result: Result) -> str:
    return NOTHING if result.stream is None else count(result.stream.tokens)


def _said_before(name: str, results: list[Result]) -> bool:
    """Whether a perplexity over common tokens is that over all of them, in every run."""
    whole = name.replace(".common_perplexity", ".perplexity")
    pairs = [(result.measurement(name), result.measurement(whole)) for result in results]
    return whole != name and all(a is None or (b is not None and a.samples == b.samples) for a, b in pairs)


def _change(before: Measurement | None, now: Measurement | None) -> str:
    both = before is not None and now is not None and before.samples and now.samples
    if both and now.unit.startswith("%"):
        return f"{now.value - before.value:+.2f} points"
    return difference(now.value, before.value) if both and before.value else NOTHING


def _better(before: Measurement, now: Measurement) -> int | None:
    """Which of the two is better; None where neither is."""
    if before.better == "neither" or before.value == now.value:
        return None
    return int((now.value < before.value) == (before.better == "lower"))
