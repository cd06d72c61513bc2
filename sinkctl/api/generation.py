"""`generate`: text past any context length."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sinkctl.api.shared import Model, checked, finish_folder, settings_of
from sinkctl.clock import timed
from sinkctl.errors import UsageError
from sinkctl.launched import first
from sinkctl.recipe.load import validate
from sinkctl.recipe.schema import GenerateRecipe, SamplingSettings
from sinkctl.recipe.shorthand import policy as parse_policy
from sinkctl.tasks.generate import Generated, GenerateRun, Tokens, run


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
) -> Generated | None:
    """Text past any context length, one prompt or several side by side.

    `settings` are the recipe's other fields (`tokens`, a number or "endless"; `bos`, `chunk`, …, and those of
    `sampling`: `temperature`, `repetition_penalty`, `seed`, …). `progress` sees the tokens as they come. With `output`,
    a run folder is kept there (and continued with `resume`). Returns the Result and the ids, int32 [steps, rows], −1
    where a row had ended; of processes that share a model, in the first one alone. Raises SinkctlError.
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
    loaded = checked(recipe, model, output=output, resume=resume)
    with tqdm(unit="tok", disable=progress is not None or not first()) as bar:

        def show(tokens: Tokens, now: GenerateRun) -> None:
            bar.total = now.limit
            bar.update(now.steps - bar.n)

        return run(
            recipe, loaded, output=output, resume=resume, progress=progress or show, stop=stop, finish=finish_folder
        )
