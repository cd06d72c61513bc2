"""Lines to be remembered: exact answers in percent, by policy and by how many lines back they stand."""

from sinkctl.recipe.bench import RetrievalCase
from sinkctl.recipe.schema import LineSettings, QuestionsRecipe
from sinkctl.recipe.sizes import Size, asked_of
from sinkctl.result.bench import OURS
from sinkctl.tasks.bench.subject import Subject, in_words_of
from sinkctl.tasks.bench.way import Group, Reading
from sinkctl.tasks.questions import run


def group(case: RetrievalCase, subject: Subject, size: Size) -> Group:
    """Exact match of one policy at one distance; the detail tells answers in the cache from those that have left it."""
    lines = LineSettings(
        count=case.lines,
        every=case.every,
        back=(size["back"],),
        digits=case.digits,
        seed=subject.recipe.timing.seed,
    )
    recipe = QuestionsRecipe(model=subject.recipe.model, lines=lines, policies=(asked_of(case, size),))
    with in_words_of(case):
        result = run(recipe, subject.loaded, progress=lambda now: subject.told(case.label, now.share or 0.0)).result
    (score,) = result.questions.policies
    detail = score.model_dump(include={"asked", "inside_asked", "inside_exact", "outside_asked", "outside_exact"})
    detail |= score.groups[0].model_dump(include={"inside", "tokens_back"})
    reading = Reading(OURS, "exact_match", "%", "higher", 100 * score.exact / score.asked, detail)
    return Group(readings=[reading])
