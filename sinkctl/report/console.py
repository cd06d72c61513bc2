"""A result on a terminal: at any width, with or without colour, and in plain ASCII where the encoding asks for it."""

import textwrap
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from sinkctl.report.chart import chart, chart_caption
from sinkctl.report.page import cache_line, tables
from sinkctl.report.parts import Table, columns_of
from sinkctl.report.printable import shorten, to_ascii, visible
from sinkctl.report.questions import mistakes, questions_line
from sinkctl.report.summary import model_line, passage_words, phases_line, speed_line, unfinished
from sinkctl.result.schema import Result
from sinkctl.result.stream import StreamDetail

PASSAGES, KEPT = 5, 10
WIDEST_CHART, CHART_INDENT = 100, 9
BEST = " *"
HEADING = 14  # letters of a column's name on one line
GAP, SHORTEST = 3, 12  # cells between two columns, and of words where there is little room
MORE = "A wider terminal and the HTML report show more columns."


def render(result: Result, console: Console) -> None:
    """Print the picture, passages, what was scored, notes, and last the verdict, speed and model."""

    def say(lines: Sequence[str], style: str = "") -> None:
        for line in lines:
            console.print(_text(line, console, style))

    if result.stream is not None:
        _picture(result.stream, console)
        _passages(result.stream, result.recipe.get("passages", {}).get("top", KEPT), console)
    if result.questions is not None:
        say([questions_line(result.questions)], "dim")
    if result.generate is not None:
        say([cache_line(result.generate)], "dim")
    _print(tables(result, console.width), console)
    if result.questions is not None:
        title, wrong = mistakes(result.questions)
        say(["", title] if wrong else [], "bold")
        for line in wrong:
            _hanging("  ", line, console)
    console.print(end="\n" if result.notes else "")
    for note in result.notes:
        _hanging("note: ", note, console)
    console.print()
    # Last, where a terminal shows it: what the run says.
    say(unfinished(result), "yellow")
    say(result.verdict, "bold")
    say([speed_line(result)])
    say([phases_line(result)] if result.phases else [], "dim")
    say([] if result.model is None else [model_line(result.model)], "dim")


def print_table(table: Table, console: Console) -> None:
    """One table alone, with the columns that fit; where some do not, the last of them comes first."""
    last = len(table.columns) - 1
    narrow = columns_of(table, [0, last, *range(1, last)])
    _print([("", table._replace(narrow=narrow))], console, least=2, more="a wider terminal shows more columns")


def _print(titled: list[tuple[str, Table]], console: Console, least: int = 1, more: str = MORE) -> None:
    """Each table with as many of its first columns as fit; where some do not, the last table says so."""
    shown, cut = [], False
    for title, table in titled:
        if table:
            table = table if _fitting(table, console) == len(table.columns) else table.narrow or table
            kept = max(least, _fitting(table, console))
            cut = cut or kept < len(table.columns)
            shown.append((title, columns_of(table, range(len(table.columns))[:kept])))
    for number, (title, table) in enumerate(shown, 1):
        _table(table, console, title)
        if cut and number == len(shown):
            console.print(_text(more, console, "dim"))


def _fitting(table: Table, console: Console) -> int:
    """How many columns fit; one in any case."""
    used = -GAP
    for x, name in enumerate(table.columns):
        cells = [*_heading(name), *(row[x] for row in table.rows)]
        needed = max(cell_len(_text(cell, console).plain) for cell in cells)
        # Words may wrap, but only the names of rows do: in the middle of a row they would tear it apart.
        used += GAP + (min(needed, max(SHORTEST, console.width // 4)) if x in table.words and x < 2 else needed)
        if used > console.width:
            return max(1, x)
    return len(table.columns)


def _heading(name: str) -> list[str]:
    """A column's name over a few lines: its last word below the others, and long names broken."""
    lines = name.rsplit(" ", 1)
    return textwrap.wrap(name, HEADING) if max(map(len, lines)) > HEADING else lines


def _table(table: Table, console: Console, title: str) -> None:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    overflow = "crop" if console.options.ascii_only else "ellipsis"
    for number, name in enumerate(table.columns):
        head, words = Text("\n").join(_text(part, console) for part in _heading(name)), number in table.words
        settings = dict(justify="left" if words else "right", no_wrap=not words, overflow="fold" if words else overflow)
        grid.add_column(head, vertical="bottom", **settings)
    marked = {column for _, column in table.best}
    for y, row in enumerate(table.rows):
        cells = []
        for x, words in enumerate(row):
            best = (y, x) in table.best
            pad = (BEST if best else " " * len(BEST)) if x in marked else ""
            cells.append(_text(words + pad, console, "bold green" if best else ""))
        grid.add_row(*cells)
    console.print()
    if title:
        console.print(_text(title, console, "bold"))
    if table.rows:
        console.print(grid)
    for line in table.legend:
        console.print(_text(line, console, "dim"))


def _picture(stream: StreamDetail, console: Console) -> None:
    ascii_only = console.options.ascii_only
    colour = console.color_system in ("256", "truecolor") and not console.no_color
    drawn = chart(stream.policies, min(console.width, WIDEST_CHART), ascii_only=ascii_only, colour=colour)
    if drawn:
        console.print(drawn, no_wrap=True, overflow="crop")
        _hanging(" " * CHART_INDENT, chart_caption(stream.policies), console, "dim")


def _passages(stream: StreamDetail, top: int, console: Console) -> None:
    """Those that were asked for; a few of as many as are kept anyway."""
    if stream.passages:
        console.print()
        console.print(_text("Most surprising passages", console, "bold"))
    ellipsis = "..." if console.options.ascii_only else "…"
    for passage in stream.passages[: PASSAGES if top == KEPT else top]:
        place = f"  {passage.file}:{passage.line}  {passage_words(passage)}"
        console.print(_text(place, console, "cyan"), overflow="fold")
        text = shorten(_text(passage.text.strip("\n"), console).plain, console.width - 4, ellipsis)
        console.print(Text(f"    {text}"), no_wrap=True, overflow="crop")


def _hanging(head: str, words: str, console: Console, style: str = "") -> None:
    """`words` wrapped to the right of `head`."""
    for number, line in enumerate(_text(words, console, style).wrap(console, console.width - len(head))):
        line.rstrip()
        console.print(Text.assemble((head if number == 0 else " " * len(head), "dim"), line))


def _text(words: str, console: Console, style: str = "") -> Text:
    """Words from anywhere: never read as markup, never able to steer the terminal."""
    shown = visible(words)
    return Text(to_ascii(shown) if console.options.ascii_only else shown, style=style)
