"""Before a text is streamed."""

from collections.abc import Sequence

from sinkctl.cache.policies import Policy
from sinkctl.check.precision import check_compiled
from sinkctl.check.redistribution import check_calibration
from sinkctl.check.texts import check_field, check_texts
from sinkctl.errors import UsageError
from sinkctl.launched import processes
from sinkctl.recipe.schema import StreamRecipe
from sinkctl.result.compare import check_names, parse
from sinkctl.text import holds_records
from sinkctl.text.source import is_pipe

OF_A_POLICY = ("perplexity", "common_perplexity")


def check_inputs(recipe: StreamRecipe) -> None:
    """Raises UsageError or TextError."""
    check_processes(recipe)
    rules(recipe)
    check_calibration(recipe.policies, recipe.text.files, built_in=not recipe.text.files and recipe.limit is None)
    check_texts(recipe.text.files, recipe.text.field, recipe.text.errors)


def rules(recipe: StreamRecipe) -> None:
    """UsageError for what does not go together, whatever the model."""
    for policy in recipe.policies:
        policy.check_scores()
    check_compiled(recipe.policies, recipe.compile)
    labels = different(recipe.policies)
    thresholds = [parse(text) for text in recipe.fail_on]
    if any("auto" in label for label in labels):  # what it will be called is for the model to say
        thresholds = [t for t in thresholds if t.metric.rpartition(".")[2] not in OF_A_POLICY]
    check_names(thresholds, measured(labels))
    check_field(recipe.text.field, recipe.text.files)
    text = recipe.text
    if text.each == "record" and not any(holds_records(name, text.field) for name in text.files):
        piped = any(map(is_pipe, text.files))
        way = "--field NAME says that a pipe holds records" if piped else "--each file has every file as a text"
        raise UsageError(f"--each record: none of the texts is a .jsonl file; {way}")
    if text.each is None and recipe.rows != "auto":
        raise UsageError(
            f"--rows {recipe.rows}: all files are one text, which has no rows; --each file has every file as a text"
        )


def check_processes(recipe: StreamRecipe, shared: bool = False) -> None:
    """UsageError for what several processes cannot share out, but where they have one model between them (`shared`)."""
    if processes() == 1 or shared or recipe.model.parallel is not None:
        return
    if recipe.text.each is None:
        many = f"the {len(recipe.text.files)} files are one text" if len(recipe.text.files) > 1 else "this is one text"
        raise UsageError(
            f"{processes()} processes: {many}, which goes on in one cache to its end, so one process alone can score "
            "it; --each file, or --each record, has texts that begin anew (in one process too: the result is the same)"
        )
    pipe = next(filter(is_pipe, recipe.text.files), None)
    if pipe is not None:
        raise UsageError(f"{pipe}: a pipe is read by one process alone; {processes()} of them need files")


def different(policies: Sequence[Policy]) -> list[str]:
    """The policies' labels; UsageError where two are the same, or one leaves no room for its precision."""
    for policy in policies:
        policy.check()
    labels = [policy.label for policy in policies]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        alike = [policy.precision and policy.precision.massive for policy in policies if policy.label == twice]
        if any(massive != alike[0] for massive in alike):
            raise UsageError(f"--policy {twice}: two differ in precision.massive alone; give each a run of its own")
        raise UsageError(f"--policy {twice}: two policies are the same: {', '.join(labels)}")
    return labels


def measured(labels: list[str]) -> list[str]:
    """Names of everything a run with these policies measures."""
    of_policies = [f"{label}.{name}" for label in labels for name in OF_A_POLICY]
    return ["perplexity", *of_policies, "stream.tokens_per_s", "stream.peak_memory", "sink_rate"]
