"""`bench`: speed, memory and quality."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from sinkctl.api.progress import share_shown
from sinkctl.check.bench import check_held, held
from sinkctl.recipe.load import load as read_recipe
from sinkctl.recipe.load import validate
from sinkctl.recipe.named import called, find
from sinkctl.recipe.schema import BenchRecipe
from sinkctl.report.benched import summary
from sinkctl.report.github import bigger, smaller
from sinkctl.report.html import html
from sinkctl.report.junit import junit
from sinkctl.result.compare import thresholds
from sinkctl.result.schema import Result
from sinkctl.result.store import RunFolder
from sinkctl.small_file import is_there
from sinkctl.tasks.bench import Progress, run


def bench(
    suite: str | Path | BenchRecipe = "ci",
    *,
    name: str | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    baseline: str | Path | None = None,
    on_mismatch: Literal["fail", "warn", "skip"] = "fail",
    against: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Result:
    """Speed, memory and quality, beside what would be run instead.

    `suite` is a built-in one (`ci`, `peers`, …), a recipe file, or a whole recipe; `name` is what it is called
    in reports; `settings` replace fields of the recipe (`shape`, `timing`, `cases`, …). `baseline` is a saved result,
    `against` a git ref that is timed in turns with this version; `result.bench.changes` says what became of the gates.
    Relative thresholds among `settings` take one of the two. Raises SinkctlError.
    """
    if isinstance(suite, BenchRecipe):
        recipe, name = suite, name or "bench"
    else:
        path = find(str(suite) if is_there(suite) else f"bench/{suite}")
        recipe, name = read_recipe(path), name or called(path)
    recipe = validate(recipe.model_dump(mode="json") | settings, "sinkctl.bench") if settings else recipe
    if "fail_on" in settings:
        check_held(recipe, baseline=baseline, against=against, kept=held(output) if resume else {}, asked=True)
    with share_shown(progress) as told:
        return run(
            recipe, suite=name, output=output, resume=resume, baseline=baseline, on_mismatch=on_mismatch,
            against=against, progress=told, stop=stop, finish=finish_bench,
        )  # fmt: skip


def finish_bench(folder: RunFolder, result: Result) -> None:
    folder.write_text("report.html", html(result, result.bench.environment))
    folder.write_text("summary.md", summary(result, result.bench.environment))
    folder.write_text("junit.xml", junit(result, thresholds(result)))
    folder.write_text("benchmark-smaller.json", smaller(result))
    folder.write_text("benchmark-bigger.json", bigger(result))
