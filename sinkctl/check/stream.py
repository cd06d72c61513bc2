"""Before a text is streamed."""

from collections.abc import Sequence

from sinkctl.cache.policies import Policy
from sinkctl.check.redistribution import check_calibration
from sinkctl.check.texts import check_field, check_texts
from sinkctl.errors import UsageError
from sinkctl.recipe.schema import StreamRecipe
from sinkctl.result.compare import check_names, parse

OF_A_POLICY = ("perplexity", "common_perplexity")


def check_inputs(recipe: StreamRecipe) -> None:
    """Raises UsageError or TextError."""
    rules(recipe)
    check_calibration(recipe.policies, recipe.text.files, built_in=not recipe.text.files and recipe.limit is None)
    check_texts(recipe.text.files, recipe.text.field, recipe.text.errors)


def rules(recipe: StreamRecipe) -> None:
    """UsageError for what does not go together, whatever the model."""
    for policy in recipe.policies:
        policy.check_scores()
    labels = different(recipe.policies)
    thresholds = [parse(text) for text in recipe.fail_on]
    if any("auto" in label for label in labels):  # what it will be called is for the model to say
        thresholds = [t for t in thresholds if t.metric.rpartition(".")[2] not in OF_A_POLICY]
    check_names(thresholds, measured(labels))
    check_field(recipe.text.field, recipe.text.files)


def different(policies: Sequence[Policy]) -> list[str]:
    """The policies' labels; UsageError where two are the same, or one leaves no room for its precision."""
    for policy in policies:
        policy.check()
    labels = [policy.label for policy in policies]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UsageError(f"--policy {twice}: two policies are the same: {', '.join(labels)}")
    return labels


def measured(labels: list[str]) -> list[str]:
    """Names of everything a run with these policies measures."""
    of_policies = [f"{label}.{name}" for label in labels for name in OF_A_POLICY]
    return ["perplexity", *of_policies, "stream.tokens_per_s", "stream.peak_memory", "sink_rate"]
