"""The Python calls; the command line makes the same ones."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sinkctl.model.load import LoadedModel
from sinkctl.model.load import load as _load
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.load import validate
from sinkctl.recipe.schema import StreamRecipe
from sinkctl.recipe.shorthand import policy
from sinkctl.report.html import html
from sinkctl.result.environment import environment
from sinkctl.result.store import RunFolder
from sinkctl.tasks.stream import Outcome, Progress, ScoredBlock, StreamRun, run

Model = str | ModelSettings | LoadedModel


def load(name: str = "demo", **settings: Any) -> LoadedModel:
    """Load a checkpoint: a folder, a Hub id, or `demo`; settings as in a recipe's `model` (device, dtype, …)."""
    return _load(ModelSettings(name=name, **settings))


def stream(
    text: str | Path | Sequence[str | Path] | StreamRecipe = (),
    *,
    model: Model = "demo",
    policies: Sequence[str] = ("sink_window",),
    output: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Outcome:
    """Per-token losses of a text under one or more cache policies.

    `text` is a file, several, or a whole recipe; `policies` are kinds or sizes (`4+252`, `dense`); `settings` are the
    recipe's other fields (`chunk`, `limit`, …, and those of `text`: `bos`, `field`, `errors`). With `output`, a run
    folder is kept there (and continued with `resume`). Returns the Result and, by policy, NLL in nats a token, float32.
    """
    recipe, loaded = _recipe(text, policies, settings, model)
    if progress is not None:
        outcome = run(recipe, loaded, output=output, resume=resume, progress=progress, stop=stop)
    else:
        with tqdm(unit="tok", unit_scale=True) as bar:
            outcome = run(recipe, loaded, output=output, resume=resume, progress=_shown(bar), stop=stop)
    if output is not None:
        RunFolder(output).write_text("report.html", html(outcome.result, environment()))
    return outcome


def stream_blocks(
    text: str | Path | Sequence[str | Path] | StreamRecipe = (),
    *,
    model: Model = "demo",
    policies: Sequence[str] = ("sink_window",),
    **settings: Any,
) -> Iterator[ScoredBlock]:
    """The same, live: yields the losses, ids and places of each block as it is scored."""
    recipe, loaded = _recipe(text, policies, settings, model)
    yield from StreamRun(recipe, loaded)


def _recipe(text, policies: Sequence[str], settings: dict[str, Any], model: Model) -> tuple[StreamRecipe, LoadedModel]:
    if isinstance(text, StreamRecipe):
        recipe = text
    else:
        files = [text] if isinstance(text, (str, Path)) else list(text)
        of_text = {key: settings.pop(key) for key in ("field", "errors", "bos", "bos_each_file") if key in settings}
        data = {
            "task": "stream",
            "text": {"files": [str(file) for file in files], **of_text},
            "policies": [policy(p) for p in policies],
            **settings,
        }
        recipe = validate(data, "sinkctl.stream")
    if isinstance(model, LoadedModel):
        return recipe.model_copy(update={"model": recipe.model.model_copy(update={"name": model.name})}), model
    chosen = recipe.model if model == "demo" else (ModelSettings(name=model) if isinstance(model, str) else model)
    return recipe.model_copy(update={"model": chosen}), _load(chosen)


def _shown(bar: tqdm) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        if progress.share:
            bar.total = int(progress.tokens / progress.share)
        bar.set_postfix({label: f"{p:.2f}" for label, p in progress.perplexities.items() if p is not None})
        bar.update(progress.tokens - bar.n)

    return show
