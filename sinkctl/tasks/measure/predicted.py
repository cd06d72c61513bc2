"""A tally → the tokens that massive activations predict to be sinks, and how far they are."""

from collections import Counter, defaultdict
from statistics import median

import torch

from sinkctl.metrics.predicted import predicted, rule
from sinkctl.result.measure import Agreement, PredictedSinks, PredictedToken
from sinkctl.tasks.measure.input_set import InputSet
from sinkctl.tasks.measure.tally import Tally

SHOWN = 20
Places = set[tuple[int, int]]  # sample, index in it


def predicted_sinks(tally: Tally, shown: InputSet) -> PredictedSinks | None:
    """None where nothing is massive, and where attention is not causal: no keys and values are cached then."""
    if not tally.rows or not all(row.causal for row in tally.rows):
        return None
    samples, last = tally.found.samples, max(tally.blocks)
    elements = {layer: torch.cat(parts) for layer, parts in tally.places.items()}
    found = rule(elements, samples, last)
    if found is None:
        return None
    eligible = tally.found.eligible
    told = {(n, t) for n, t in predicted(elements[found.layer], found.channels) if eligible[n][t]}
    sinks = {(place.sample, place.key) for place in tally.found.places if place.last > found.layer}
    keep = _first(told & sinks, samples)  # commas that are massive and no sinks reach far into a text
    return PredictedSinks(
        layer=found.layer,
        channels=found.channels,
        tokens=_tokens(told, sinks, shown),
        all=_agreement(told, sinks),
        besides_first=_agreement(*({place for place in places if place[1]} for places in (told, sinks))),
        keep=f"first:{keep}" if keep else "none",
        left=sum(t >= keep for _, t in told),
    )


def _first(right: Places, samples: int) -> int:
    """So many first tokens reach up to the last place that is a predicted sink in half of the samples."""
    often = [t for t, times in Counter(t for _, t in right).items() if 2 * times >= samples]
    return max(often, default=-1) + 1


def _tokens(told: Places, sinks: Places, shown: InputSet) -> list[PredictedToken]:
    """The ones predicted most often."""
    by_text = defaultdict(list)
    for n, t in sorted(told):
        by_text[shown.token_text(n, t) if t else None].append((n, t))
    tokens = [
        PredictedToken(
            token=text, predicted=len(places), right=len(sinks.intersection(places)),
            position=median(t for _, t in places),
        )
        for text, places in by_text.items()
    ]  # fmt: skip
    return sorted(tokens, key=lambda token: -token.predicted)[:SHOWN]


def _agreement(told: Places, sinks: Places) -> Agreement:
    right = len(told & sinks)
    return Agreement(
        predicted=len(told), sinks=len(sinks), right=right,
        precision=100 * right / len(told) if told else None, recall=100 * right / len(sinks) if sinks else None,
    )  # fmt: skip
