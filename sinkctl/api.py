"""The Python calls; the command line makes the same ones."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from tqdm import tqdm

from sinkctl.cache.streaming import streaming
from sinkctl.errors import UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.model.load import load as _load
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.load import validate
from sinkctl.recipe.schema import ConvertRecipe, GenerateRecipe, MeasureRecipe, QuestionsRecipe, StreamRecipe
from sinkctl.recipe.shorthand import policy as parse_policy
from sinkctl.report.html import html
from sinkctl.report.model_card import model_card
from sinkctl.result.environment import environment
from sinkctl.result.schema import Result
from sinkctl.result.store import RunFolder
from sinkctl.tasks.convert import Outcome as Converted
from sinkctl.tasks.convert import Progress as Converting
from sinkctl.tasks.convert import run as run_convert
from sinkctl.tasks.generate import Generated, GenerateRun, Tokens
from sinkctl.tasks.generate import run as run_generation
from sinkctl.tasks.measure import Outcome as Measured
from sinkctl.tasks.measure import Progress as Measuring
from sinkctl.tasks.measure import run as run_measure
from sinkctl.tasks.questions import Outcome as Answers
from sinkctl.tasks.questions import Progress as Asking
from sinkctl.tasks.questions import run as run_questions
from sinkctl.tasks.stream import Outcome, Progress, ScoredBlock, StreamRun, run

Model = str | ModelSettings | LoadedModel
__all__ = ["ask", "convert", "generate", "load", "measure", "stream", "stream_blocks", "streaming"]


def load(name: str = "demo", **settings: Any) -> LoadedModel:
    """Load a checkpoint: a folder, a Hub id, or `demo`; settings as in a recipe's `model` (device, dtype, …)."""
    try:
        return _load(ModelSettings(name=name, **settings))
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(f"sinkctl.load: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error


def stream(
    text: str | Path | Sequence[str | Path] | StreamRecipe = (),
    *,
    model: Model = "demo",
    policies: str | Sequence[str] | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Outcome:
    """Per-token losses of a text under one or more cache policies.

    `text` is a file, several, or a whole recipe; `policies` are kinds or sizes (`4+252`, `dense`; default
    `sink_window`); `settings` are the recipe's other fields (`chunk`, `limit`, …, and those of `text`: `bos`, `field`,
    `errors`). With `output`, a run folder is kept there (and continued with `resume`). Returns the Result and, by
    policy, NLL in nats a token, float32. Raises SinkctlError.
    """
    if resume and output is None:
        raise UsageError("resume=True continues the run kept in `output`; name it")
    recipe, loaded = _recipe(text, policies, settings, model)

    with tqdm(unit="tok", unit_scale=True, disable=progress is not None) as bar:
        return run(
            recipe, loaded, output=output, resume=resume, progress=progress or _shown(bar), stop=stop, finish=_finish
        )


def generate(
    prompts: str | Sequence[str] | GenerateRecipe = (),
    *,
    model: Model = "demo",
    policy: str | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Tokens, GenerateRun], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Generated:
    """Text past any context length, one prompt or several side by side.

    `settings` are the recipe's other fields (`tokens`, a number or "endless"; `bos`, `chunk`, …, and those of
    `sampling`: `temperature`, `top_k`, `top_p`, `seed`). `progress` sees the tokens as they come. With `output`, a run
    folder is kept there (and continued with `resume`). Returns the Result and the ids, int32 [steps, rows], −1 where a
    row had ended. Raises SinkctlError.
    """
    if resume and output is None:
        raise UsageError("resume=True continues the run kept in `output`; name it")
    if isinstance(prompts, GenerateRecipe):
        if settings or policy is not None:
            raise UsageError("a recipe says its own policy and settings; change them with recipe.model_copy")
        recipe = prompts
    else:
        sampling = {key: settings.pop(key) for key in ("temperature", "top_k", "top_p", "seed") if key in settings}
        data = {
            "task": "generate",
            "model": _settings_of(model).model_dump(),
            "prompts": [prompts] if isinstance(prompts, str) else list(prompts),
            "policy": parse_policy(policy or "sink_window"),
            "sampling": sampling,
            **settings,
        }
        recipe = validate(data, "sinkctl.generate")
    if recipe.chat:
        raise UsageError("a chat takes turns; see sinkctl.tasks.generate.chat.Conversation")
    loaded = model if isinstance(model, LoadedModel) else _load(recipe.model)
    with tqdm(unit="tok", disable=progress is not None) as bar:

        def show(tokens: Tokens, run: GenerateRun) -> None:
            bar.total = run.limit
            bar.update(run.steps - bar.n)

        return run_generation(
            recipe, loaded, output=output, resume=resume, progress=progress or show, stop=stop, finish=_finish
        )


def stream_blocks(
    text: str | Path | Sequence[str | Path] | StreamRecipe = (),
    *,
    model: Model = "demo",
    policies: str | Sequence[str] | None = None,
    **settings: Any,
) -> Iterator[ScoredBlock]:
    """The same, live: yields the losses, ids and places of each block as it is scored."""
    recipe, loaded = _recipe(text, policies, settings, model)
    yield from StreamRun(recipe, loaded)


def ask(
    questions: str | Path | QuestionsRecipe = "lines",
    *,
    model: Model = "demo",
    policies: str | Sequence[str] | None = None,
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
            "model": _settings_of(model).model_dump(),
            "questions": str(questions),
            "policies": [parse_policy(p) for p in chosen],
            **settings,
        }
        recipe = validate(data, "sinkctl.ask")
    loaded = model if isinstance(model, LoadedModel) else _load(recipe.model)
    return run_questions(recipe, loaded, output=output, progress=progress, stop=stop, finish=_finish)


def measure(
    checkpoints: str | Path | LoadedModel | Sequence[str | Path] | MeasureRecipe = "demo",
    *,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Measuring], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Measured:
    """Where the sinks of one or more checkpoints are, how strong, what carries them, what they cost.

    `checkpoints` are folders, Hub ids, a loaded model, or a whole recipe; `settings` are the recipe's other fields
    (`epsilon`, `sinks`, …), those of `input` (`kinds`, `files`, `bos`, `samples`, `length`, `seed`) and of `model`
    (`device`, `dtype`, …). Returns the Result and every metric as an array by layer and head. Raises SinkctlError.
    """
    loaded = checkpoints if isinstance(checkpoints, LoadedModel) else None
    if isinstance(checkpoints, MeasureRecipe):
        if settings:
            raise UsageError("a recipe says its own settings; change them with recipe.model_copy")
        recipe = checkpoints
    else:
        names = [checkpoints] if isinstance(checkpoints, (str, Path)) else [] if loaded else list(checkpoints)
        parts = _parts(MeasureRecipe, ("input", "model"), settings)
        parts |= {"model": _settings_of(loaded).model_dump()} if loaded else {}
        data = {"task": "measure", "checkpoints": [str(name) for name in names], **parts}
        recipe = validate(data | settings, "sinkctl.measure")
    with _shown_share(progress) as told:
        return run_measure(recipe, loaded, output=output, resume=resume, progress=told, stop=stop, finish=_finish)


def convert(
    checkpoint: str | Path | LoadedModel | ConvertRecipe = "demo",
    *,
    to: str = "sink_logit",
    output: str | Path,
    text: str | Path | Sequence[str | Path] = (),
    resume: bool = False,
    progress: Callable[[Converting], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Converted | None:
    """Give a checkpoint a designed sink, and train it where `steps` says so; `output` loads with transformers.

    `checkpoint` is a folder, a Hub id, a loaded model, or a whole recipe; `text` calibrates and, further on, evaluates;
    `settings` are those of the mechanism (`start`, `bos`, …), of `calibration` (`window`, `samples`), of `text`
    (`field`, `errors`), of `model` (`device`, …), of `training` (`lr`, `batch`, …; all as `training={"length": …}`) and
    the recipe's other fields (`steps`, `store`, `evaluation`, …). `output` is a new folder, or with `resume` that of a
    stopped training. Returns the Result and the path, None in all but the first process. Raises SinkctlError.
    """
    loaded = checkpoint if isinstance(checkpoint, LoadedModel) else None
    if isinstance(checkpoint, ConvertRecipe):
        if settings or text or to != "sink_logit":
            raise UsageError("a recipe says its own mechanism and settings; change them with recipe.model_copy")
        recipe = checkpoint
    else:
        parts = _parts(ConvertRecipe, ("sink", "text", "calibration", "model", "training"), settings)
        parts["sink"] = {"kind": to} | parts["sink"]
        parts["text"]["files"] = [str(file) for file in ([text] if isinstance(text, (str, Path)) else text)]
        parts["model"] = _settings_of(loaded).model_dump() if loaded else {"name": str(checkpoint)} | parts["model"]
        parts["training"] |= dict(settings.pop("training", {}))
        recipe = validate({"task": "convert", **parts, **settings}, "sinkctl.convert")

    def finish(folder: RunFolder, result: Result) -> None:
        _finish(folder, result)
        folder.write_text("README.md", model_card(result, Path(output).name))

    with _shown_share(progress) as told:
        return run_convert(recipe, loaded, output=output, resume=resume, progress=told, stop=stop, finish=finish)


def _finish(folder: RunFolder, result: Result) -> None:
    folder.write_text("report.html", html(result, environment()))


def _parts(recipe: type, names: Sequence[str], settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Take what belongs to these parts of a recipe out of `settings`; by part."""
    found = {}
    for name in names:
        annotation = recipe.model_fields[name].annotation
        fields = {field for model in get_args(annotation) or [annotation] for field in model.model_fields}
        found[name] = {field: settings.pop(field) for field in fields & set(settings)}
    return found


def _recipe(text, policies, settings: dict[str, Any], model: Model) -> tuple[StreamRecipe, LoadedModel]:
    if isinstance(text, StreamRecipe):
        if policies is not None or settings:
            raise UsageError("a recipe says its own policies and settings; change them with recipe.model_copy")
        return text, model if isinstance(model, LoadedModel) else _load(text.model)
    files = [text] if isinstance(text, (str, Path)) else list(text)
    chosen = [policies] if isinstance(policies, str) else policies or ["sink_window"]
    of_text = {key: settings.pop(key) for key in ("field", "errors", "bos", "bos_each_file") if key in settings}
    data = {
        "task": "stream",
        "model": _settings_of(model).model_dump(),
        "text": {"files": [str(file) for file in files], **of_text},
        "policies": [parse_policy(p) for p in chosen],
        **settings,
    }
    recipe = validate(data, "sinkctl.stream")
    return recipe, model if isinstance(model, LoadedModel) else _load(recipe.model)


def _settings_of(model: Model) -> ModelSettings:
    """What a recipe says of this model, so that the kept recipe runs again."""
    if isinstance(model, LoadedModel):
        dtype = str(model.dtype).removeprefix("torch.")
        return ModelSettings(name=model.name, device=str(model.device), dtype=dtype)
    return ModelSettings(name=model) if isinstance(model, str) else model


def _shown(bar: tqdm) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        if progress.share:
            bar.total = int(progress.tokens / progress.share)
        bar.set_postfix({label: f"{p:.2f}" for label, p in progress.perplexities.items() if p is not None})
        bar.update(progress.tokens - bar.n)

    return show


@contextmanager
def _shown_share(progress: Callable | None) -> Iterator[Callable[[Measuring | Converting], None]]:
    """The callback given, or a bar."""
    with tqdm(total=100, unit="%", disable=progress is not None) as bar:

        def show(now: Measuring | Converting) -> None:
            bar.set_description(now.what)
            bar.update(round(100 * now.share) - bar.n)

        yield progress or show
