"""Tasks of lm-evaluation-harness, put to the model while it streams under a cache policy."""

from math import isfinite
from typing import Any

from sinkctl.recipe.bench import TasksCase
from sinkctl.recipe.sizes import Size, label_of, policy_of
from sinkctl.result.bench import OURS
from sinkctl.tasks.bench.subject import Subject
from sinkctl.tasks.bench.way import Group, Reading

NO_TEXT = -1  # of RULER's tasks, whose metrics are lengths: none was so long
BETTER = {True: "higher", False: "lower", None: "neither"}


def group(case: TasksCase, subject: Subject, size: Size) -> Group:
    """Every metric of the task, as the harness computes it."""
    from sinkctl.tasks.bench.harness import SinkctlLM, evaluate

    subject.told(f"{case.label}: {size['task']}", 0.0)
    lm = SinkctlLM(subject.loaded, policy_of(size["policy"]))
    found = readings(evaluate(lm, size["task"], case.include, case.limit, size.get("length")))
    before, why = lm.prefix
    return Group(
        readings=found, choices={"token before a text scored whole": f"{lm.tokenizer.decode(before)!r}: {why}"}
    )


def readings(found: dict[str, Any]) -> list[Reading]:
    """The harness' `metric,filter` entries; a filter that is not `none` is part of the name."""
    results, read = found["results"], []
    for key, value in results.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)) or not isfinite(value):
            continue
        if metric.isdigit() and value == NO_TEXT:
            continue
        stderr = results.get(f"{metric}_stderr,{filtered}")
        detail = {"stderr": stderr if isinstance(stderr, float) else None, "samples": found["samples"]}
        name = label_of(metric if filtered == "none" else f"{metric}-{filtered}")
        better = BETTER[found["higher_is_better"].get(metric)]
        read.append(Reading(OURS, name, _unit(metric), better, float(value), detail))
    return read


def _unit(metric: str) -> str:
    if metric.endswith("perplexity"):
        return "perplexity"
    return "bits" if metric.startswith("bits_per") else ""
