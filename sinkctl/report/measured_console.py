"""A sink measurement on a terminal: which tables are printed, and which of their columns fit."""

from rich.cells import cell_len

from sinkctl.report.compared import compare_table
from sinkctl.report.layer_rows import layer_table
from sinkctl.report.measured import (
    columns_of,
    cost_table,
    expert_table,
    found_table,
    mixing_lines,
    patch_line,
    rate_table,
)
from sinkctl.report.predicted import predicted_table
from sinkctl.report.printable import to_ascii, visible
from sinkctl.report.summary import ScoreTable, heading
from sinkctl.report.suspects import suspect_table
from sinkctl.result.measure import MeasureDetail

FOUND, GAP = 5, 3  # tokens shown; cells between two columns
SHORTEST, LONGEST = 12, 24  # cells of words: narrow and wide
MORE = "A wider terminal and the HTML report show more columns."


def console_tables(detail: MeasureDetail, width: int, ascii_only: bool) -> list[tuple[str, ScoreTable]]:
    """Titled tables from the widest view to the summary, each with the columns that `width` cells hold.

    Layers, tokens and experts are those of the first checkpoint's first input; of several checkpoints the comparison
    takes the layers' place.
    """
    first = detail.checkpoints[0] if detail.checkpoints else None
    score = first.inputs[0] if first is not None and first.inputs else None
    several = len(detail.checkpoints) > 1
    tables: list[tuple[str, ScoreTable]] = []
    if several:
        side_by_side = compare_table(detail)
        if fitting(side_by_side, width, ascii_only) < len(side_by_side.columns):
            side_by_side = compare_table(detail, most=1)
        tables.append(("Checkpoints", side_by_side))
    if score is not None:
        whose = f": {first.label}, {score.name}" if several else f": {score.name}"
        if not several:
            layers = layer_table(score, longest=LONGEST if width > 100 else SHORTEST)
            tables.append((f"Layers{whose}", layers))
            tables.append((f"Where first tokens go{whose}", expert_table(score)))
        tables.append((f"Sinks other than the first token{whose}", found_table(score, FOUND)))
        tables.append((f"Tokens to keep where keys and values are rounded{whose}", predicted_table(score, FOUND)))
    if first is not None:
        patches = [patch_line(score.patches)] if score is not None and score.patches is not None else []
        costs = cost_table(first)
        costs = costs._replace(legend=[*costs.legend, *mixing_lines(first), *patches])
        title = "Ablations" if costs.rows else "Patches"
        tables.append((f"{title}: {first.label}" if several else title, costs))
    for checkpoint in detail.checkpoints:
        if checkpoint.suspects is not None:
            title = f"Trigger candidates{f': {checkpoint.label}' if several else ''}"
            tables.append((title, suspect_table(checkpoint.suspects)))
    tables.append(("Sink rates", rate_table(detail)))
    tables = [(title, table) for title, table in tables if table.rows or table.legend]
    return fitted(tables, width, ascii_only)


def fitted(tables: list[tuple[str, ScoreTable]], width: int, ascii_only: bool) -> list[tuple[str, ScoreTable]]:
    """Each table with as many of its first columns as fit; where some do not, the last table says so."""
    kept = [fitting(table, width, ascii_only) for _, table in tables]
    shown = [
        (title, columns_of(table, list(range(columns)))) for (title, table), columns in zip(tables, kept, strict=True)
    ]
    if any(columns < len(table.columns) for (_, table), columns in zip(tables, kept, strict=True)):
        title, last = shown[-1]
        shown[-1] = title, last._replace(legend=[*last.legend, MORE])
    return shown


def fitting(table: ScoreTable, width: int, ascii_only: bool) -> int:
    """How many columns fit; one in any case."""
    used = -GAP
    for x, name in enumerate(table.columns):
        cells = [*heading(name), *(row[x] for row in table.rows)]
        needed = max(_cells(cell, ascii_only) for cell in cells)
        # Words may wrap, but only the names of rows do: in the middle of a row they would tear it apart.
        used += GAP + (min(needed, max(SHORTEST, width // 3)) if x in table.words and x < 2 else needed)
        if used > width:
            return max(1, x)
    return len(table.columns)


def _cells(words: str, ascii_only: bool) -> int:
    shown = visible(words)
    return cell_len(to_ascii(shown) if ascii_only else shown)
