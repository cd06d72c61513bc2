"""The table of finished rows of `emergence.py`, beside what was published: for a terminal, or as markdown in groups."""

import re
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from emergence_rows import (
    BASELINE,
    FEWER,
    GROUPS,
    IN_SIGHT,
    SAME,
    Chance,
    Seeds,
    chance_of,
    compared,
    of_fewer,
    published,
)
from row_queue import read_row

COLUMNS = (
    ("loss", "valid_loss", "{:.3f}"), ("Sink_* %", "sink_star", "{:.1f}"), ("Sink_1 %", "sink_1", "{:.1f}"),
    ("largest |h|", "massive", "{:.0f}"), ("× median", "massive_ratio", "{:.0f}"), ("kurtosis", "kurtosis", "{:.0f}"),
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
)  # fmt: skip
MARKDOWN = (
    "", "seeds", "minutes", "loss", "Sink_*", "Sink_1", "by fifths of its steps", "largest / median", "kurtosis",
    "theirs: loss, Sink_*, Sink_1", "effect ± chance; theirs", "the same sign?",
)  # fmt: skip
VERDICTS = ("agree", "agree (none)", "within chance", "not", "–")  # in the order of a summary
HOLDS = "probes"  # what the rows of this table alone have
Found = dict[str, list[dict[str, Any]]]  # what was kept of rows, by seed


def print_table(names: Sequence[str], folder: Path) -> None:
    """Every row that was asked for, with what the folder holds of it."""
    found, chances = kept(names, folder), chances_of(folder)
    for said in sorted({row["machine"] for runs in found.values() for row in runs}):
        print(f"\n{said}")
    heads = [f"{head:>11}" for head, _, _ in COLUMNS]
    print(" | ".join([f"{'':22}", "seeds", *heads, "Gu et al.: Sink_*, Sink_1, loss | the same sign?"]))
    for name in names:
        print(printed_row(name, found[name]) + f" | {judged(name, found, chances)}")
    print("\nSink_1 %, after so many steps (the first seed):")
    for name in [name for name in names if found[name]]:
        curve = [(p["step"], p["sink_percent"]) for p in found[name][0]["probes"] if p["sink_percent"] is not None]
        print(f"{name:22} " + "  ".join(f"{step}: {percent:.1f}" for step, percent in curve))


def print_markdown(names: Sequence[str], folder: Path) -> None:
    """The finished rows in groups, with the range of rates and kurtosis, and how Sink_1 grew; then what chance is, how
    many signs agree, which rows there are none of, and how long the others took."""
    found, chances = kept(names, folder), chances_of(folder)
    print("| " + " | ".join(MARKDOWN) + " |\n" + "|---" * len(MARKDOWN) + "|")
    for group, patterns in GROUPS.items():
        rows = [name for p in patterns for name in sorted(names, key=by_number) if fnmatch(name, p) and found[name]]
        if rows:
            print(f"| **{group}** " + "| " * (len(MARKDOWN) - 1) + "|")
        for name in rows:
            print("| " + " | ".join(cells(name, found, chances)) + " |")
    for column, said in (("sink_1", "Sink_1"), ("sink_star", "Sink_*")):
        chance = chances[column]
        if chance is not None and not (column == "sink_star" and chance is chances["sink_1"]):
            print(f"\n{said} of one row: {chance.deviation:.1f} points by seed ({chance.freedom} degrees of freedom).")
    signs = Counter(verdict(name, found, chances) for name in names)
    print("\nSigns: " + (", ".join(f"{signs[each]} {each}" for each in VERDICTS if signs[each]) or "none told") + ".")
    whole = [name for name in names if name not in (*SAME, *FEWER) and seeds_of(found[name], "sink_1") is not None]
    if len(whole) > 2:
        sinks, ratios, kurtoses = (
            [seeds_of(found[name], column).mean for name in whole] for column in ("sink_1", "massive_ratio", "kurtosis")
        )
        said = (
            f"largest / median {rank_correlation(sinks, ratios):.2f}, kurtosis {rank_correlation(sinks, kurtoses):.2f}"
        )
        print(f"\nSpearman's rank correlation with Sink_1 over {len(whole)} rows: {said}.")
    missing = [f"`{name}`" for name in names if not found[name]]
    print("\nNot run: " + (", ".join(missing) or "none") + ".")
    runs = {(row["row"], row["seed"]): row["seconds"] for name in names for row in found[name]}
    print(f"\n{len(runs)} runs, {sum(runs.values()) / 3600:.1f} hours of their own time, side by side.")


def by_number(name: str) -> list[str | float]:
    """What puts decay_0p5 between decay_0p1 and decay_1, and batch_32 before batch_256."""
    parts = re.split(r"(\d+(?:p\d+)?)", name)
    return [float(part.replace("p", ".")) if number % 2 else part for number, part in enumerate(parts)]


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's; equal values share the mean of their ranks. nan where one of the two does not vary."""
    ranks = [[sum(x < y) + sum(x <= y) for y in x] for x in (np.asarray(one), np.asarray(other))]
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(*ranks)[0, 1])


def cells(name: str, found: Found, chances: dict[str, Chance | None]) -> list[str]:
    """One row of the markdown table."""
    rows, theirs = found[name], published(name)

    def mean(column: str, form: str) -> str:
        values = seeds_of(rows, column)
        return "" if values is None else form.format(values.mean)

    def ranged(column: str, form: str, unit: str = "") -> str:
        values, said = seeds_of(rows, column), mean(column, form + unit)
        if values is None:
            return said
        known = len(values.values)
        said += f" ({form} to {form})".format(min(values.values), max(values.values)) if known > 1 else ""
        return said + (f" [{known} of {len(rows)}]" if known < len(rows) else "")

    published_numbers = ((theirs.loss, "{:.2f}"), (theirs.sink_star, "{:g} %"), (theirs.sink_1, "{:g} %"))
    said = ["–" if number is None else form.format(number) for number, form in published_numbers]
    minutes = sum(row["seconds"] for row in rows) / len(rows) / 60
    return [
        f"`{name}`", str(len(rows)), f"{minutes:.1f}", mean("valid_loss", "{:.3f}"),
        ranged("sink_star", "{:.1f}", " %"), ranged("sink_1", "{:.1f}", " %"),
        ", ".join(f"{percent:.0f}" for percent in curve(rows)), mean("massive_ratio", "{:.0f}"),
        ranged("kurtosis", "{:.0f}"), "" if set(said) == {"–"} else ", ".join(said), effects(name, found, chances),
        judged(name, found, chances),
    ]  # fmt: skip


def curve(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Sink_1 in percent at every probe after the first step, the mean of the seeds; [] where probes do not read it."""
    seeds = [[p["sink_percent"] for p in row["probes"][1:]] for row in rows]
    if any(None in seed or seed[-1] != row["sink_1"] for seed, row in zip(seeds, rows, strict=True)):
        return []  # read by the script, from the last checkpoint
    return [sum(each) / len(each) for each in zip(*seeds, strict=True)]


def kept(names: Sequence[str], folder: Path) -> Found:
    """What the folder has of these rows and of their baselines."""
    return {name: kept_rows(folder, name) for name in {*names, *(published(n).against for n in names)}}


def kept_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """What was kept of a row, by seed."""
    seeds = {path.stem.rpartition("-")[2]: path for path in folder.glob(f"{SAME.get(name, name)}-*.json")}
    return [read_row(seeds[seed], HOLDS) for seed in sorted(filter(str.isdecimal, seeds), key=int)]


def chances_of(folder: Path) -> dict[str, Chance | None]:
    """By column: what seeds differ by, of the folder's rows with a sink; Sink_1 of those judged over as many queries,
    Sink_* of learned sinks, or as Sink_1 where none of them has several seeds."""
    names = {path.stem.rpartition("-")[0] for path in folder.glob("*-*.json")}
    learned = {name for name in names if not any(fnmatch(name, pattern) for pattern in GROUPS[IN_SIGHT])}
    columns: dict[str, Chance | None] = {}
    for column, of in (("sink_1", names - set(FEWER)), ("sink_star", learned)):
        seeds = [seeds_of(kept_rows(folder, name), column) for name in of]
        columns[column] = chance_of(each for each in seeds if each is not None)
    return columns | {"sink_star": columns["sink_star"] or columns["sink_1"]}


def pair(name: str, found: Found) -> tuple[Seeds | None, Seeds | None]:
    """The numbers that are compared: the row's, and its baseline's over as many queries."""
    theirs = published(name)
    column = of_fewer(FEWER[name]) if name in FEWER else theirs.of
    return seeds_of(found[name], theirs.of), seeds_of(found[theirs.against], column)


def effects(name: str, found: Found, chances: dict[str, Chance | None]) -> str:
    """What the row adds to its baseline, in points, with what chance does; then what it adds there."""
    theirs, (row, baseline) = published(name), pair(name, found)
    if name == theirs.against or row is None or baseline is None:
        return ""
    chance, there = chances[theirs.of], theirs.effect()
    bound = "" if chance is None else f" ± {chance.of(row, baseline):.1f}"
    return f"{row.mean - baseline.mean:+.1f}{bound}" + ("" if there is None else f"; {there:+.1f}")


def judged(name: str, found: Found, chances: dict[str, Chance | None]) -> str:
    """The verdict, and of what it is where that is not Sink_1 beside the baseline."""
    said, theirs = verdict(name, found, chances), published(name)
    if said in ("baseline", "not measured"):
        return said
    of = "" if theirs.of == "sink_1" else " (Sink_*)"
    return said + of + ("" if theirs.against == BASELINE else f", beside {theirs.against}")


def verdict(name: str, found: Found, chances: dict[str, Chance | None]) -> str:
    theirs = published(name)
    if name == theirs.against:
        return "baseline"
    row, baseline = pair(name, found)
    if found[name] and found[theirs.against] and None in (row, baseline):
        return "not measured"
    return compared(theirs, row, baseline, chances[theirs.of])


def seeds_of(rows: Sequence[dict[str, Any]], column: str) -> Seeds | None:
    values = tuple(row[column] for row in rows if row.get(column) is not None)
    return Seeds(values) if values else None


def printed_row(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Means over seeds beside the published numbers; or why there are none."""
    wrong = next((row["error"] for row in rows if "error" in row), None)
    if wrong is not None:
        return f"{name:22} | {wrong}"
    means = {column: seeds_of(rows, column) for _, column, _ in COLUMNS}
    shown = ["–" if means[c] is None else form.format(means[c].mean) for _, c, form in COLUMNS]
    theirs = published(name)
    said = [
        "–" if x is None else f"{x:.{places}f}"
        for x, places in ((theirs.sink_star, 1), (theirs.sink_1, 1), (theirs.loss, 2))
    ]
    return " | ".join([f"{name:22}", f"{len(rows):>5}", *(f"{text:>11}" for text in shown), ", ".join(said)])
