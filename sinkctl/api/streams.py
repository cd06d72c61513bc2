"""`stream`, `stream_blocks`, `generate` and `ask`: texts through a model, in constant memory."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sinkctl.api.shared import Model, finish_folder, settings_of
from sinkctl.check import check
from sinkctl.clock import timed
from sinkctl.errors import UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.model.load import load as _load
from sinkctl.recipe.load import validate
from sinkctl.recipe.schema import GenerateRecipe, QuestionsRecipe, Recipe, SamplingSettings, StreamRecipe
from sinkctl.recipe.shorthand import policy as parse_policy
from sinkctl.tasks.generate import Generated, GenerateRun, Tokens
from sinkctl.tasks.generate import run as run_generation
from sinkctl.tasks.questions import Outcome as Answers
from sinkctl.tasks.questions import Progress as Asking
from sinkctl.tasks.questions import run as run_questions
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
) -> Outcome:
    """Per-token losses of a text under one or more cache policies.

    `text` is a file, several, or a whole recipe; `policies` are kinds or sizes (`4+252`, `dense`; default
    `sink_window`), or as a recipe has them, with `precision` and `redistribute`; `settings` are the recipe's other
    fields (`chunk`, `limit`, …, and those of `text`: `bos`, `field`, `errors`). With `output`, a run folder is kept
    there (and continued with `resume`). Returns the Result and, by policy, NLL in nats a token, float32. Raises
    SinkctlError.
    """
    recipe = _recipe(text, policies, settings, model)
    loaded = _checked(recipe, model, output=output, resume=resume)
    with tqdm(unit="tok", unit_scale=True, disable=progress is not None) as bar:
        return run(
            recipe,
            loaded,
            output=output,
            resume=resume,
            progress=progress or _shown(bar),
            stop=stop,
            finish=finish_folder,
        )


@timed()
def generate(
    prompts: str | Sequence[str] | GenerateRecipe = (),
    *,
    model: Model = "demo",
    policy: str | dict | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Tokens, GenerateRun], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Generated:
    """Text past any context length, one prompt or several side by side.

    `settings` are the recipe's other fields (`tokens`, a number or "endless"; `bos`, `chunk`, …, and those of
    `sampling`: `temperature`, `repetition_penalty`, `seed`, …). `progress` sees the tokens as they come. With `output`,
    a run folder is kept there (and continued with `resume`). Returns the Result and the ids, int32 [steps, rows], −1
    where a row had ended. Raises SinkctlError.
    """
    if isinstance(prompts, GenerateRecipe):
        if settings or policy is not None:
            raise UsageError("a recipe says its own policy and settings; change them with recipe.model_copy")
        recipe = prompts
    else:
        sampling = {key: settings.pop(key) for key in SamplingSettings.model_fields if key in settings}
        data = {
            "task": "generate",
            "model": settings_of(model).model_dump(),
            "prompts": [prompts] if isinstance(prompts, str) else list(prompts),
            "policy": parse_policy(policy or "sink_window"),
            "sampling": sampling,
            **settings,
        }
        recipe = validate(data, "sinkctl.generate")
    if recipe.chat:
        raise UsageError("a chat takes turns; see sinkctl.tasks.generate.chat.Conversation")
    loaded = _checked(recipe, model, output=output, resume=resume)
    with tqdm(unit="tok", disable=progress is not None) as bar:

        def show(tokens: Tokens, run: GenerateRun) -> None:
            bar.total = run.limit
            bar.update(run.steps - bar.n)

        return run_generation(
            recipe, loaded, output=output, resume=resume, progress=progress or show, stop=stop, finish=finish_folder
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
    loaded = _checked(recipe, model)
    yield from StreamRun(calibrated(recipe, loaded), loaded)


@timed()
def ask(
    questions: str | Path | QuestionsRecipe = "lines",
    *,
    model: Model = "demo",
    policies: str | Sequence[str | dict] | None = None,
    output: str | Path | None = None,
    progress: Callable[[Asking], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Answers:
    """Stream a text and ask questions about it in between; exact answers are counted, inside the cache and outside.

    `questions` is a .jsonl file of texts and questions, or "lines", a generated set; `settings` are the recipe's other
    fields (`lines`, `keep`, `answer_tokens`, …). Returns the Result and every answer. Raises SinkctlError.
    """
    if isinstance(questions, QuestionsRecipe):
        recipe = questions
    else:
        chosen = [policies] if isinstance(policies, str) else policies or ["sink_window"]
        data = {
            "task": "questions",
            "model": settings_of(model).model_dump(),
            "questions": str(questions),
            "policies": [parse_policy(p) for p in chosen],
            **settings,
        }
        recipe = validate(data, "sinkctl.ask")
    loaded = _checked(recipe, model, output=output)
    return run_questions(recipe, loaded, output=output, progress=progress, stop=stop, finish=finish_folder)


def _recipe(text, policies, settings: dict[str, Any], model: Model) -> StreamRecipe:
    if isinstance(text, StreamRecipe):
        if policies is not None or settings:
            raise UsageError("a recipe says its own policies and settings; change them with recipe.model_copy")
        return text
    files = [text] if isinstance(text, (str, Path)) else list(text)
    chosen = [policies] if isinstance(policies, str) else policies or ["sink_window"]
    of_text = {key: settings.pop(key) for key in ("field", "errors", "bos", "bos_each_file") if key in settings}
    data = {
        "task": "stream",
        "model": settings_of(model).model_dump(),
        "text": {"files": [str(file) for file in files], **of_text},
        "policies": [parse_policy(p) for p in chosen],
        **settings,
    }
    return validate(data, "sinkctl.stream")


def _checked(recipe: Recipe, model: Model, **folder: Any) -> LoadedModel:
    """The model, loaded once all else that can be known to be wrong is not."""
    loaded = model if isinstance(model, LoadedModel) else None
    check(recipe, loads=loaded is None, **folder)
    return loaded or _load(recipe.model)


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
