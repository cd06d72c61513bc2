"""`stream` and `stream_blocks`: the losses of a text, in constant memory."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sinkctl.api.shared import Model, checked, finish_folder, settings_of
from sinkctl.clock import timed
from sinkctl.errors import UsageError
from sinkctl.launched import first
from sinkctl.recipe.load import validate
from sinkctl.recipe.schema import StreamRecipe
from sinkctl.recipe.shorthand import policy as parse_policy
from sinkctl.tasks.stream import Outcome, Progress, ScoredBlock, StreamRun, calibrated, run


@timed()
def stream(
    text: str | Path | Sequence[str | Path] | StreamRecipe = (),
    *,
    model: Model = "demo",
    policies: str | Sequence[str | dict] | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Outcome | None:
    """Per-token losses of a text under one or more cache policies.

    `text` is a file, several, or a whole recipe; `policies` are kinds or sizes (`4+252`, `dense`; default
    `sink_window`), or as a recipe has them, with `precision` and `redistribute`; `settings` are the recipe's other
    fields (`chunk`, `limit`, …, and those of `text`: `bos`, `field`, `errors`, `each`). With `output`, a run folder is
    kept there (and continued with `resume`). Returns the Result and, by policy, NLL in nats a token, float32; of
    several processes, which share out texts on their own (`each`), in the first one alone. Raises SinkctlError.
    """
    recipe = _recipe(text, policies, settings, model)
    loaded = checked(recipe, model, output=output, resume=resume)
    with tqdm(unit="tok", unit_scale=True, disable=progress is not None or not first()) as bar:
        return run(
            recipe,
            loaded,
            output=output,
            resume=resume,
            progress=progress or _shown(bar),
            stop=stop,
            finish=finish_folder,
        )


def stream_blocks(
    text: str | Path | Sequence[str | Path] | StreamRecipe = (),
    *,
    model: Model = "demo",
    policies: str | Sequence[str | dict] | None = None,
    **settings: Any,
) -> Iterator[ScoredBlock]:
    """The same, live: yields the losses, ids and places of each block as it is scored."""
    recipe = _recipe(text, policies, settings, model)
    loaded = checked(recipe, model)
    yield from StreamRun(calibrated(recipe, loaded), loaded)


def _recipe(text, policies, settings: dict[str, Any], model: Model) -> StreamRecipe:
    if isinstance(text, StreamRecipe):
        if policies is not None or settings:
            raise UsageError("a recipe says its own policies and settings; change them with recipe.model_copy")
        return text
    files = [text] if isinstance(text, (str, Path)) else list(text)
    chosen = [policies] if isinstance(policies, str) else policies or ["sink_window"]
    of_text = {key: settings.pop(key) for key in ("field", "errors", "bos", "bos_each_file", "each") if key in settings}
    data = {
        "task": "stream",
        "model": settings_of(model).model_dump(),
        "text": {"files": [str(file) for file in files], **of_text},
        "policies": [parse_policy(p) for p in chosen],
        **settings,
    }
    return validate(data, "sinkctl.stream")


def _shown(bar: tqdm) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        if progress.what:
            bar.set_description(progress.what)
            return
        if progress.share:
            bar.total = int(progress.tokens / progress.share)
        bar.set_description("")
        bar.set_postfix({label: f"{p:.2f}" for label, p in progress.perplexities.items() if p is not None})
        bar.update(progress.tokens - bar.n)

    return show
