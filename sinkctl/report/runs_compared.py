"""Kept runs side by side: measurements of checkpoints as they stand in one report, all else by its numbers."""

from pathlib import PurePath
from typing import Any

from sinkctl.report.compared import compare_table
from sinkctl.report.parts import Table
from sinkctl.result.bench import Row
from sinkctl.result.bench_words import points, worse
from sinkctl.result.numbers import NOTHING, count, difference, quantity
from sinkctl.result.schema import Measurement, Result

NOISE = " ~"


def compared(results: list[Result], names: list[str]) -> Table:
    """One row a number and one column a run; of two runs of one task also the second's difference to the first."""
    if all(result.bench is not None for result in results):
        return _benchmarks(results, names)
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
        rows.append([name, *said, *([_change(*found)] if len(results) == 2 else [])])
    legend = [*other_texts, *(["* better of the two"] if best else [])]
    return Table(["", *names, *(["Δ"] if len(results) == 2 else [])], rows, best, legend)


def _measured(results: list[Result], names: list[str]) -> Table:
    """Every checkpoint of every run, under its own name, or its run's where two have the same."""
    pairs = [(name, score) for name, result in zip(names, results, strict=True) for score in result.measure.checkpoints]
    labels = [score.label for _, score in pairs]
    named = [
        score if labels.count(score.label) == 1 else score.model_copy(update={"label": f"{name}: {score.label}"})
        for name, score in pairs
    ]
    return compare_table(results[0].measure.model_copy(update={"checkpoints": named}))._replace(narrow=None)


def _texts_differ(results: list[Result], names: list[str]) -> list[str]:
    """What to know before numbers of other texts are compared; nothing where all are of one."""
    tokens = [NOTHING if result.stream is None else count(result.stream.tokens) for result in results]
    said = not_the_same("text", list(map(_files, results)), names) + not_the_same("number of tokens", tokens, names)
    return [f"{line}; neither run is better for it" for line in said]


def _files(result: Result) -> str:
    """The files that were read, by name."""
    text = result.recipe.get("text")
    files = text.get("files") if isinstance(text, dict) else None
    return ", ".join(PurePath(name).name for name in files or ["the built-in text"])


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


def _benchmarks(results: list[Result], names: list[str]) -> Table:
    """The last column compares the last with the first."""
    by_name = [{row.name: row for row in result.bench.rows} for result in results]
    rows = []
    for name in dict.fromkeys(name for found in by_name for name in found):
        found = [of_result.get(name) for of_result in by_name]
        cells = [NOTHING if row is None else quantity(row.value, row.unit) for row in found]
        rows.append([name, *cells, _row_change(found[0], found[-1])])
    noise = any(row[-1].endswith(NOISE) for row in rows)
    legend = [f"change: of {names[-1]} against {names[0]}", *["~ the 95 % intervals of the two overlap"] * noise]
    # What of the machine, beside the code, is not the same in all of them.
    machines = [result.bench.machine for result in results]
    flat = [machine.model_dump(exclude={"versions"}) | machine.versions for machine in machines]
    for key in dict.fromkeys(key for of_machine in flat for key in of_machine):
        legend += not_the_same(key, [of_machine.get(key) for of_machine in flat], names)
    return Table(["measurement", *names, "change"], rows, (), legend)


def _row_change(before: Row | None, now: Row | None) -> str:
    if before is None or now is None or not before.value:
        return NOTHING
    ratio = now.value / before.value
    if before.better == "neither":
        return f"{'+' if ratio >= 1 else ''}{points(100 * (ratio - 1))} %"
    ends = (before.low, before.high, now.low, now.high)
    overlap = None not in ends and before.low <= now.high and now.low <= before.high
    return worse(100 * (1 - ratio if before.better == "higher" else ratio - 1)) + NOISE * overlap


def not_the_same(what: str, values: list[Any], names: list[str]) -> list[str]:
    """One line where these differ among the results, none where they do not."""
    if len(set(values)) <= 1:
        return []
    pairs = (f"{value} ({name})" for value, name in zip(values, names, strict=True))
    return [f"not the same {what}: {', '.join(pairs)}"]
