"""`sinkctl show` and `sinkctl compare`: runs that were kept."""

import math
from pathlib import Path
from typing import Annotated

import typer

from sinkctl.cli import options
from sinkctl.cli.printing import put, tables
from sinkctl.errors import UsageError

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, what -o made, or its result.json.")]


def show(
    run: Run,
    as_json: options.Json = False,
    as_html: Annotated[
        bool, typer.Option("--html", help="Write report.html anew, as this version of sinkctl makes it.")
    ] = False,
    plots: Annotated[
        str | None, typer.Option(help="Write every picture as a file of its own into the folder.", metavar="png|svg")
    ] = None,
    save_as: Annotated[
        list[str] | None,
        typer.Option(help="Write all numbers into the folder, as measurements.csv or .jsonl.", metavar="csv|jsonl"),
    ] = None,
) -> None:
    """The report of a run that was kept, again."""
    from rich.console import Console

    from sinkctl.check.mistaken import check_meant
    from sinkctl.result.saved import environment, read

    if plots not in (None, "png", "svg"):
        raise UsageError(f"--plots {plots}: png or svg")
    if wrong := set(save_as or ()) - {"csv", "jsonl"}:
        raise UsageError(f"--save-as {min(wrong)}: csv or jsonl")
    check_meant(str(run), "a run")
    result = read(run)
    folder = run if run.is_dir() else run.parent
    if as_json:
        put(result.model_dump_json(indent=1))
    elif not as_html and plots is None and not save_as:
        from sinkctl.report.console import render

        render(result, tables())
    words = Console(stderr=True)
    if as_html:
        from sinkctl.report.html import html

        (folder / "report.html").write_text(html(result, environment(folder)), encoding="utf-8")
        words.print(f"written: {folder / 'report.html'}", highlight=False)
    if plots is not None:
        from sinkctl.report.plots import write_plots

        written = write_plots(result, folder / "plots", plots)
        words.print(f"written: {len(written)} pictures in {folder / 'plots'}", highlight=False)
    if save_as:
        written = _write_numbers(result, folder, save_as)
        words.print(f"written: {written} numbers in {folder}: measurements.{', .'.join(save_as)}", highlight=False)


def _write_numbers(result, folder: Path, forms: list[str]) -> int:
    """Every measurement with its samples; what is not finite is null."""
    from sinkctl.result.rows import write_rows

    def known(number: float) -> float | None:
        return number if math.isfinite(number) else None

    head = ("name", "value", "unit", "better", "samples")
    found = [m for m in result.measurements if m.samples]
    rows = [(m.name, known(m.value), m.unit, m.better, list(map(known, m.samples))) for m in found]
    cells = ((*row[:-1], " ".join(map(str, row[-1]))) for row in rows)
    records = (dict(zip(head, row, strict=True)) for row in rows)
    write_rows(folder, "measurements", forms, head, zip(records, cells, strict=True))
    return len(rows)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders, or their result.json.")],
    as_json: options.Json = False,
) -> None:
    """Kept runs side by side; of two, what the second changes."""
    import json

    from sinkctl.check.mistaken import check_meant
    from sinkctl.report.console import print_table
    from sinkctl.report.runs_compared import compared
    from sinkctl.result.saved import read

    if len(runs) < 2:
        raise UsageError("name two runs or more, folders or their result.json: sinkctl compare RUN RUN…")
    for run in runs:
        check_meant(str(run), "a run")
    results = [read(run) for run in runs]
    tasks = list(dict.fromkeys(result.task for result in results))
    if len(tasks) > 1:
        raise UsageError(f"{', '.join(map(str, runs))}: are of {' and '.join(tasks)}; compare runs of one")
    table = compared(results, list(map(str, runs)))
    if as_json:
        shown = {"columns": table.columns, "rows": table.rows, "notes": table.legend}
        put(json.dumps(shown, indent=1, ensure_ascii=False))
    else:
        print_table(table, tables())
