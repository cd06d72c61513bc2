"""A result on a terminal: at any width, with or without colour, and in plain ASCII where the encoding asks for it."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sinkctl.report.benched_console import console_tables as benched_tables
from sinkctl.report.chart import chart, chart_caption
from sinkctl.report.converted_console import console_tables as converted_tables
from sinkctl.report.generated import cache_line
from sinkctl.report.measured import columns_of
from sinkctl.report.measured_console import console_tables as measured_tables
from sinkctl.report.measured_console import fitting
from sinkctl.report.printable import shorten, to_ascii, visible
from sinkctl.report.questions import answer_table, examples, mistake_line, questions_line
from sinkctl.report.registered import tables as register_tables
from sinkctl.report.summary import (
    BEST,
    ScoreTable,
    heading,
    measurement_row,
    model_line,
    passage_words,
    phases_line,
    score_table,
    speed_line,
    unfinished,
)
from sinkctl.result.questions import QuestionsDetail
from sinkctl.result.schema import Result
from sinkctl.result.stream import Passage, StreamDetail

PASSAGES, KEPT = 5, 10
WIDEST_CHART = 100
CHART_INDENT = 9


def render(result: Result, console: Console) -> None:
    """Print the picture, passages, what was scored, notes, and last the verdict, speed and model."""
    if result.stream is not None:
        _picture(result.stream, console)
        _passages(result.stream, result.recipe.get("passages", {}).get("top", KEPT), console)
        _scores(score_table(result.stream.policies), console)
    elif result.questions is not None:
        _answers(result.questions, console)
    elif result.generate is not None:
        console.print(_text(cache_line(result.generate), console, "dim"))
    elif result.measure is not None:
        _titled(measured_tables(result.measure, console.width, console.options.ascii_only), console)
    elif result.convert is not None:
        _titled(converted_tables(result.convert, console.width, console.options.ascii_only), console)
    elif result.registers is not None:
        _titled(register_tables(result.registers), console)
    elif result.bench is not None:
        _titled(benched_tables(result.bench, console.width, console.options.ascii_only), console)
    elif result.measurements:
        _measurements(result, console)
    if result.notes:
        console.print()
    for note in result.notes:
        _hanging("note: ", note, console)
    console.print()
    # Last, where a terminal shows it: what the run says.
    for line in unfinished(result):
        console.print(_text(line, console, "yellow"))
    for line in result.verdict:
        console.print(_text(line, console, "bold"))
    details = (
        result.stream,
        result.generate,
        result.questions,
        result.measure,
        result.convert,
        result.registers,
        result.bench,
    )
    if any(detail is not None for detail in details):
        console.print(_text(speed_line(result), console))
        if result.phases:
            console.print(_text(phases_line(result), console, "dim"))
    if result.model is not None:
        console.print(_text(model_line(result.model), console, "dim"))


def print_table(table: ScoreTable, console: Console) -> None:
    """One table alone, with the columns that fit; where some do not, the last of them comes first."""
    last, ascii_only = len(table.columns) - 1, console.options.ascii_only
    if fitting(table, console.width, ascii_only) <= last:
        table = columns_of(table, [0, last, *range(1, last)])
        kept = fitting(table, console.width, ascii_only)
        shown = columns_of(table, list(range(max(2, kept))))
        table = shown._replace(legend=[*shown.legend, "a wider terminal shows more columns"])
    _scores(table, console)


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
    for passage in stream.passages[: PASSAGES if top == KEPT else top]:
        _passage(passage, console)


def _answers(questions: QuestionsDetail, console: Console) -> None:
    console.print(_text(questions_line(questions), console, "dim"))
    _scores(answer_table(questions), console)
    for number, (label, mistake) in enumerate(examples(questions)):
        if not number:
            console.print()
            console.print(_text(f"Wrong under {label}, although the answer was there", console, "bold"))
        _hanging("  ", mistake_line(mistake), console)


def _scores(scores: ScoreTable, console: Console, title: str = "") -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for number, name in enumerate(scores.columns):
        head = Text("\n").join(_text(part, console) for part in heading(name))
        words, overflow = number in scores.words, "crop" if console.options.ascii_only else "ellipsis"
        table.add_column(
            head,
            justify="left" if words else "right",
            vertical="bottom",
            no_wrap=not words,
            overflow="fold" if words else overflow,
        )
    marked = {column for _, column in scores.best}
    for y, row in enumerate(scores.rows):
        cells = []
        for x, value in enumerate(row):
            best = (y, x) in scores.best
            pad = (BEST if best else " " * len(BEST)) if x in marked else ""
            cells.append(_text(value + pad, console, "bold green" if best else ""))
        table.add_row(*cells)
    console.print()
    if title:
        console.print(_text(title, console, "bold"))
    if scores.rows:
        console.print(table)
    for line in scores.legend:
        console.print(_text(line, console, "dim"))


def _titled(tables: list[tuple[str, ScoreTable]], console: Console) -> None:
    for title, table in tables:
        _scores(table, console, title)


def _measurements(result: Result, console: Console) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for measurement in result.measurements:
        table.add_row(*(_text(value, console) for value in measurement_row(measurement)))
    console.print()
    console.print(table)


def _passage(passage: Passage, console: Console) -> None:
    place = f"{passage.file}:{passage.line}  {passage_words(passage)}"
    console.print(_text(f"  {place}", console, "cyan"), overflow="fold")
    ellipsis = "..." if console.options.ascii_only else "…"
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
