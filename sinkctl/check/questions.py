"""Before questions are asked."""

from sinkctl.check.redistribution import check_calibration
from sinkctl.check.stream import different
from sinkctl.errors import TextError, UsageError
from sinkctl.recipe.schema import QuestionsRecipe
from sinkctl.result.compare import check_names, parse
from sinkctl.text import Source, is_records
from sinkctl.text.source import check, is_pipe

BUILT_IN = "lines"


def check_inputs(recipe: QuestionsRecipe) -> None:
    """Raises UsageError or TextError."""
    rules(recipe)
    check_calibration(recipe.policies, [recipe.questions])
    if recipe.questions == BUILT_IN:
        return
    check([recipe.questions])
    if not is_pipe(recipe.questions):
        source = Source(recipe.questions)
        empty = not source.read(1)
        source.close()
        if empty:
            raise TextError(f"{recipe.questions}: is empty; write texts and questions, one JSON object a line")


def rules(recipe: QuestionsRecipe) -> None:
    """UsageError for what does not go together, whatever the model."""
    labels = different(recipe.policies)
    thresholds = [parse(text) for text in recipe.fail_on]
    if any("auto" in label for label in labels):
        thresholds = [t for t in thresholds if t.metric.rpartition(".")[2] != "exact_match"]
    check_names(thresholds, measured(labels))
    piped = is_pipe(recipe.questions)
    if recipe.questions != BUILT_IN and not piped and not is_records(recipe.questions):
        raise UsageError(f"{recipe.questions}: no .jsonl file of questions; give one, or `lines` for the built-in set")
    growing = next((policy.kind for policy in recipe.policies if policy.grows), None)
    if piped and growing is not None:
        raise UsageError(f"--policy {growing} has to know how long the text is, and a pipe is read only once")


def measured(labels: list[str]) -> list[str]:
    """Names of everything a run with these policies measures."""
    return ["exact_match", *(f"{label}.exact_match" for label in labels), "questions.per_s"]
