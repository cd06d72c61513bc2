"""The tables of `retrofit.py`, of rows that are kept in a folder."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrofit_judged import ERROR, ROUNDINGS, SOUGHT, beside, means
from row_queue import read_row

TEXTS = ("text", "second")
COLUMNS = (
    ("dense", "dense", "{:.2f}"), ("0 kept", "bare", "{:.2f}"), ("4 kept", "kept", "{:.2f}"), ("KL", "kl", "{:.3f}"),
    ("KV 4 bits", "kv_4", "{:+.2%}"), ("3 bits", "kv_3", "{:+.2%}"), ("2 bits", "kv_2", "{:+.1%}"),
    ("KV 4 bits by token", "kv_4_by_token", "{:+.2%}"), ("the first 4 in full", "kv_4_by_token_first", "{:+.2%}"),
    ("activations 8 bits", "a_8", "{:+.2%}"),
)  # fmt: skip
ONCE = (
    ("Sink_1 %", "sink_1", "{:.1f}"), ("largest activation", "massive", "{:,.0f}"),
    ("× median", "massive_ratio", "{:,.0f}"), ("kurtosis", "kurtosis", "{:,.0f}"),
    ("loss from stock's", "stock_gap", "{:.0e}"), ("trained, s", "seconds", "{:,.0f}"),
)  # fmt: skip

SAID = {"bare": "0 kept", "kept": "4 kept", "dense": "in sight"}
NEEDLES = [(f"{length:,}, {SAID[form]}", f"{form}.needle_{length}", "{:.0f}") for form, length in SOUGHT]


def kept_rows(names: Sequence[str], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Finished rows and, of those under way, what is known by now, by name and in the order of seeds.

    One under way that is of other sizes than the first of all is left out, and that is said: it may have been left by
    another run. SystemExit for a file that is no row.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in names}
    first: list[Any] = []
    places = [(name, path) for kind in ("json", "part") for name in names for path in _places(name, kind, folder)]
    for name, path in places:
        row = read_row(path)
        own = _sizes(row)
        first = [b if a is None else a for a, b in zip(first, own, strict=True)] if first else own
        if path.suffix == ".part" and any(a != b for a, b in zip(first, own, strict=True) if b is not None):
            print(f"{path}: is of other settings than the first row, and left out", file=sys.stderr)
        else:
            found[name].setdefault(path.stem, row)
    return {name: [rows[stem] for stem in sorted(rows)] for name, rows in found.items()}


def _places(name: str, kind: str, folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{name}-*.{kind}"))


def _sizes(row: dict[str, Any]) -> list[Any]:
    """What rows of one table have in common; None: not said, or the original, which is not trained."""
    said = row.get("settings") or {}
    recipe = said.get("recipe") or {}
    training = recipe.get("training") or {}
    batch, length = (training.get(key) for key in ("batch", "length"))  # sequences may be longer, and then are fewer
    return [said.get("judged"), recipe.get("steps"), training.get("lr"), batch and length and batch * length]


def print_tables(rows: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """A table a text, and two of what is of no text; means over seeds."""
    for said in sorted({each["machine"] for found in rows.values() for each in found}):
        print(f"\n{said}")
    for text in TEXTS:
        file = getattr(options, text)
        print_table(
            f"{text} ({Path(file).name})" if file else text, [(h, f"{text}.{k}", f) for h, k, f in COLUMNS], rows
        )
    print_table("the checkpoint", ONCE, rows)
    print_table("needles found, %", NEEDLES, rows)
    for name, theirs in kept_rows(options.beside, options.folder).items():
        print_shares(name, theirs, rows)


def print_shares(other: str, others: list[dict[str, Any]], rows: dict[str, list[dict[str, Any]]]) -> None:
    """A table a text of what few bits cost each row as a share of what they cost the `other`: means over all seeds that
    each of the two has."""
    for text in TEXTS:
        columns = [(head, f"{text}.{key}", "{:.2f}") for head, key, _ in COLUMNS if key in dict(ROUNDINGS)]
        names = [key for _, key, _ in columns]
        shares = {}
        for name, found in rows.items():
            if name != other and (known := beside(means(found), means(others), names)):
                shares[name] = [known]
        seeds = {name: sum(not row.keys().isdisjoint(names) for row in rows[name]) for name in shares}
        print_table(f"{text}, share of {other}", columns, shares, seeds)


def print_table(
    head: str, columns: Sequence[tuple[str, str, str]], rows: dict[str, list[dict[str, Any]]],
    seeds: dict[str, int] | None = None,
) -> None:  # fmt: skip
    """`seeds`: of how many the rows are, where they are means already."""
    print(f"\n| {head} | seeds | {' | '.join(title for title, _, _ in columns)} |")
    print("|---" * (len(columns) + 2) + "|")
    for name, found in rows.items():
        cells = [cell(found, key, form) for _, key, form in columns]
        print(f"| `{name}` | {(seeds or {}).get(name, len(found))} | {' | '.join(cells)} |", flush=True)


def cell(found: Sequence[dict[str, Any]], key: str, form: str) -> str:
    """The mean over seeds, ± its standard error where there is one and, of several, from which to which. Of fewer seeds
    than the row has, how many."""
    mean, values = means(found), [each[key] for each in found if each.get(key) is not None]
    if key not in mean:
        return "–"
    said, error = form.format(mean[key]), mean.get(f"{key}{ERROR}")
    if error is not None:
        said = f"{said} ± {form.format(error).lstrip('+')}"
    if len(values) > 1:
        said = f"{said} ({form.format(min(values))} to {form.format(max(values))})"
    return said if len(values) == len(found) else f"{said} [{len(values)} of {len(found)}]"
