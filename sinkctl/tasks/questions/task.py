"""Ask all questions, and keep what was answered."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from sinkctl.clock import phase, timed
from sinkctl.errors import Interrupted, within_memory
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import QuestionsRecipe
from sinkctl.result.environment import environment
from sinkctl.result.schema import Result
from sinkctl.result.store import ENVIRONMENT, RunFolder
from sinkctl.tasks.finishing import Finish, finished
from sinkctl.tasks.questions.asking import Answer, Progress, QuestionsRun
from sinkctl.tasks.questions.outcome import result_of
from sinkctl.tasks.stream.calibration import calibrated

ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class Outcome:
    """A Result and every answer behind it, question by question."""

    result: Result
    answers: list[Answer]


@timed()
def run(
    recipe: QuestionsRecipe,
    loaded: LoadedModel,
    *,
    output: str | Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    finish: Finish = lambda folder, result: None,
) -> Outcome:
    """Stream the recipe's text and ask its questions; with `output`, keep a run folder there.

    `stop` is asked after every text and question: where it says yes, Interrupted is raised; such a run is not resumed.
    `finish` adds to the folder of a finished run.
    """
    with ExitStack() as holding:
        return _run(recipe, loaded, output, holding, progress, stop, finish)


def _run(
    recipe: QuestionsRecipe, loaded: LoadedModel, output: str | Path | None, holding: ExitStack,
    progress: Callable[[Progress], None], stop: Callable[[], bool], finish: Finish,
) -> Outcome:  # fmt: skip
    with phase("preparing"):
        recipe = calibrated(recipe, loaded, lambda what, share: progress(Progress(0, 0, share, 0, {}, what)), stop)
        folder = None if output is None else RunFolder.create(output, holding)
        asking = QuestionsRun(recipe, loaded)
        if folder is not None:
            folder.write_recipe(asking.recipe.model_dump(mode="json"))
            folder.write_json(ENVIRONMENT, environment())
    answers, shown = [], 0
    less = "--chunk takes fewer tokens at once, --window keeps fewer, and dense keeps all"
    try:
        with phase("asking"), within_memory(loaded.device, less):
            for some in asking:
                answers += some
                if some or asking.tokens - shown >= asking.recipe.chunk:
                    shown = asking.tokens
                    progress(asking.progress)
                if stop():
                    raise Interrupted("stopped")
    except Interrupted as error:
        said = f"stopped after {asking.asked:,} questions"
        raise Interrupted(f"{said}; a run with questions cannot be resumed, start it again") from error
    result = result_of(asking, answers)
    if folder is not None:
        lines = (json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
        folder.write_text(ANSWERS, "".join(lines))
    return Outcome(finished(result, folder, finish), answers)
