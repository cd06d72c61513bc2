"""`ask`: what a model still knows of a long text."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sinkctl.api.shared import Model, checked, finish_folder, settings_of
from sinkctl.clock import timed
from sinkctl.recipe.load import validate
from sinkctl.recipe.schema import QuestionsRecipe
from sinkctl.recipe.shorthand import policy as parse_policy
from sinkctl.tasks.questions import Outcome, Progress, run


@timed()
def ask(
    questions: str | Path | QuestionsRecipe = "lines",
    *,
    model: Model = "demo",
    policies: str | Sequence[str | dict] | None = None,
    output: str | Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Outcome:
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
    loaded = checked(recipe, model, output=output)
    return run(recipe, loaded, output=output, progress=progress, stop=stop, finish=finish_folder)
