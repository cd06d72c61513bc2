"""A conversion on a terminal: its two tables at any width, how it was trained, and how it is stored and loaded."""

from sinkctl.report.converted import checkpoint_table, rounded_table, stored_line, stream_table
from sinkctl.report.measured import columns_of
from sinkctl.report.measured_console import fitted, fitting
from sinkctl.report.summary import ScoreTable
from sinkctl.report.trained import training_line
from sinkctl.result.convert import ConvertDetail

NUMBERS_FIRST = [0, 1, 3, 4, 2]  # of the streams: what is in front can be told from the cache


def console_tables(detail: ConvertDetail, width: int, ascii_only: bool) -> list[tuple[str, ScoreTable]]:
    """Titled tables, each with the columns that `width` cells hold; under the last how it was made."""
    streams = stream_table(detail)
    if fitting(streams, width, ascii_only) < len(streams.columns):
        streams = columns_of(streams, [x for x in NUMBERS_FIRST if x < len(streams.columns)])
    checkpoints = checkpoint_table(detail)
    if fitting(checkpoints, width, ascii_only) < len(checkpoints.columns):
        checkpoints = checkpoint_table(detail, as_rows=True)
    rounded = rounded_table(detail)
    if fitting(rounded, width, ascii_only) < len(rounded.columns):
        rounded = rounded_table(detail, narrow=True)
    tables = [("Streams", streams), ("Keys and values in few bits", rounded), ("Checkpoints", checkpoints)]
    tables = fitted([(title, table) for title, table in tables if table.rows], width, ascii_only)
    lines = [] if detail.training is None else [training_line(detail.training)]
    return [*tables, ("", ScoreTable([], [], set(), [*lines, stored_line(detail)]))]
