"""Pieces of an HTML page: tables, sections, figures; every text in them is escaped."""

from collections.abc import Iterable
from html import escape

from sinkctl.report.printable import visible
from sinkctl.report.summary import BEST, ScoreTable

WIDE = 6  # columns; wider tables are set closer


def score_rows(scores: ScoreTable) -> list[str]:
    """A table of scores and its legend; nothing where there is neither."""
    lines = []
    if scores.rows:
        head = "".join(
            f'<th scope="col"{_side(scores, x)}>{escaped(name)}</th>' for x, name in enumerate(scores.columns)
        )
        wide = " wide" if len(scores.columns) > WIDE else ""
        lines += [f'<div class="scroll"><table class="scores{wide}">', f"<thead><tr>{head}</tr></thead>", "<tbody>"]
        lines += [_row(scores, y) for y in range(len(scores.rows))]
        lines.append("</tbody></table></div>")
    return lines + ([f'<p class="legend">{escaped("; ".join(scores.legend))}</p>'] if scores.legend else [])


def _row(scores: ScoreTable, y: int) -> str:
    label, *values = scores.rows[y]
    cells = [f'<th scope="row"{_side(scores, 0)}>{escaped(label)}</th>']
    for x, value in enumerate(values, start=1):
        if (y, x) in scores.best:
            cells.append(f'<td class="number best">{escaped(value)}<span class="mark">{BEST}</span></td>')
        else:
            cells.append(f"<td{_side(scores, x)}>{escaped(value)}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _side(scores: ScoreTable, x: int) -> str:
    return "" if x in scores.words else ' class="number"'


def section(title: str, body: list[str], level: int = 2) -> list[str]:
    """`body` under a heading; nothing without a body."""
    return [f"<section><h{level}>{escaped(title)}</h{level}>", *body, "</section>"] if body else []


def listed(title: str, items: list[str]) -> list[str]:
    """A section that is a list; nothing without items."""
    body = ["<ul>", *(f"<li>{escaped(item)}</li>" for item in items), "</ul>"]
    return section(title, body) if items else []


def figure(drawing: str, caption: str) -> list[str]:
    """A drawing over its caption."""
    return ["<figure>", drawing, f"<figcaption>{escaped(caption)}</figcaption>", "</figure>"]


def table(rows: Iterable[list[str]]) -> list[str]:
    """Facts, each under its label."""
    lines = []
    for label, *values in rows:
        cells = "".join(f"<td>{escaped(value)}</td>" for value in values)
        lines.append(f'<tr><th scope="row" class="label">{escaped(label)}</th>{cells}</tr>')
    return ["<table><tbody>", *lines, "</tbody></table>"] if lines else []


def escaped(text: str) -> str:
    """Text from anywhere, as it may stand in a page."""
    return escape(visible(text))
