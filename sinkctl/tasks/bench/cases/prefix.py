"""Tokens in front of every text, kept in full: what is massive past them, perplexity, what rounding adds."""

import numpy as np

from sinkctl.recipe.bench import PrefixCase
from sinkctl.recipe.sizes import Size
from sinkctl.result.bench import OURS
from sinkctl.tasks.bench.prefixes import Prefixes
from sinkctl.tasks.bench.subject import Subject
from sinkctl.tasks.bench.way import Group, Reading

STRETCHES = 8  # at least, by which a standard error is counted
NONE = {
    "bos": "the model has no BOS",
    "measured": "nothing but BOS, if that, is massive",
    "frequent": "nothing is as measured that it would be the control of",
    "greedy": "no token in front surely lowers the loss",
}


def group(case: PrefixCase, subject: Subject, size: Size) -> Group:
    """One front; nothing is read where the model has none of that name."""
    name = size["front"]
    prefixes = subject.once(f"prefixes {case.model_dump_json()}", lambda: Prefixes(case, subject.loaded, subject.told))
    front = [] if name == "nothing" else getattr(prefixes, name)
    if name in ("measured", "frequent") and len(front) <= len(prefixes.bos):
        front = []
    if name in NONE and not front:
        absent = {"front": [], "why": NONE[name]}
        return Group(
            readings=[Reading(OURS, "front_tokens", "", "neither", 0, absent)],
            choices={f"front {name}": f"none: {NONE[name]}"},
        )
    full = prefixes.losses(front, None, case.limit)
    (places, largest), spelt = prefixes.massive(front), [subject.loaded.tokenizer.decode([token]) for token in front]
    detail = {"tokens": len(full), "front": spelt}
    readings = [
        Reading(OURS, "perplexity", "perplexity", "lower", float(np.exp(full.mean())), detail),
        Reading(OURS, "front_tokens", "", "neither", len(front), detail),
        Reading(OURS, "massive_places", "", "lower", places, detail),
        Reading(OURS, "largest_activation", "", "lower", largest, detail),
    ]
    for kv in case.kv:
        subject.told(f"{case.label}: {name}, {kv}", 0.0)
        added = prefixes.losses(front, kv, case.limit) - full
        length = max(1, len(added) // STRETCHES)
        stretches = added[: len(added) // length * length].reshape(-1, length).mean(1)
        factor = float(np.exp(added.mean()))
        error = 100 * factor * stretches.std(ddof=1) / len(stretches) ** 0.5 if len(stretches) > 1 else None
        readings.append(Reading(OURS, f"added_{kv}", "%", "lower", 100 * (factor - 1), detail | {"error": error}))
    return Group(readings=readings)
