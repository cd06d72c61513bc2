"""A benchmark as sections of a page: changes, a section a case with its pictures, quality, growth."""

from dataclasses import replace

from sinkctl.report.bars import bars_svg
from sinkctl.report.benched import SETTINGS, case_rows, case_table, change_table, changes_title, fit_table
from sinkctl.report.benched_pictures import share_bars, size_picture
from sinkctl.report.linepicture import line_svg
from sinkctl.report.parts import escaped, figure, score_rows, section
from sinkctl.report.quality import quality_svg, quality_table, retrieval_table
from sinkctl.report.settings import settings_table
from sinkctl.report.startup import startup_table
from sinkctl.result.bench import BenchDetail, Row


def benched(detail: BenchDetail) -> list[str]:
    """All sections; one without rows is left out."""
    parts = []
    if detail.changes:
        parts += section(changes_title(detail), score_rows(change_table(detail.changes)))
    for number, (title, rows) in enumerate(case_rows(detail)):
        parts += section(title, score_rows(case_table(rows, detail)) + _pictures(f"case{number}", title, rows))
    quality, drawing, retrieval = quality_table(detail), quality_svg(detail), retrieval_table(detail)
    if quality is not None:
        drawn = [] if drawing is None else figure(drawing, "Perplexity by the number of sinks.")
        parts += section("Quality", score_rows(quality) + drawn)
    if retrieval is not None:
        parts += section("Retrieval", score_rows(retrieval))
    startup = startup_table(detail)
    parts += section("Startup", score_rows(startup)) if startup is not None else []
    parts += section("Growth", score_rows(fit_table(detail.fits)) if detail.fits else [])
    settings = settings_table(detail)
    return parts if settings is None else parts + section(SETTINGS, score_rows(settings))


def _pictures(name: str, title: str, rows: list[Row]) -> list[str]:
    parts, picture, bars = [], size_picture(title, rows), share_bars(rows)
    if picture is not None:
        drawn = replace(picture, x_title=escaped(picture.x_title), y_title=escaped(picture.y_title))
        parts += ['<div class="plots single">', *figure(line_svg(drawn, f"{name}-size"), f"{picture.title}."), "</div>"]
    if bars:
        words = f"{title}: share of the hardware's limit"
        drawing = bars_svg(bars, name=f"{name}-limit", title=words, x_title="percent", say=lambda v: f"{v:.3g} %")
        parts += figure(drawing, f"{words}.")
    return parts
