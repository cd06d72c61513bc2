"""A benchmark on a terminal: its tables at any width."""

from sinkctl.report.benched import MEMORY, change_table, tables
from sinkctl.report.measured import columns_of
from sinkctl.report.measured_console import fitted, fitting
from sinkctl.report.summary import ScoreTable
from sinkctl.result.bench import BenchDetail

VERDICT_FIRST = [0, 6, 3, 1, 2, 4, 5]  # of the changes
OF_CASE = ["size", "way"]  # the first columns of a case's table; the third is its number
INTERVAL = "95 % interval"  # the first to go


def console_tables(detail: BenchDetail, width: int, ascii_only: bool) -> list[tuple[str, ScoreTable]]:
    """Titled tables, each with the columns that `width` cells hold; the most telling come first where some do not."""
    changes = change_table(detail.changes).columns
    titled = []
    for title, table in tables(detail):
        if fitting(table, width, ascii_only) < len(table.columns):
            if table.columns == changes:
                table = columns_of(table, VERDICT_FIRST)
            elif table.columns[:2] == OF_CASE and INTERVAL in table.columns:
                table = columns_of(table, sorted(range(len(table.columns)), key=lambda x: _rank(table.columns[x])))
        titled.append((title, table))
    return fitted(titled, width, ascii_only) if titled else []


def _rank(column: str) -> int:
    """Where a column of a case stands: what is not named stays in its place, before the share of the limit."""
    return {"of the limit": 1, MEMORY: 2, INTERVAL: 3}.get(column, 0)
