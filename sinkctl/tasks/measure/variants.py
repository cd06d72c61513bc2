"""Ways to take something away from samples, each a line of the costs, and what they came to.

N samples, T tokens, V vocabulary.
"""

import math
from dataclasses import dataclass, field

import torch

from sinkctl.metrics.masked_key import hide, hide_nearest
from sinkctl.metrics.next_token import NextToken, Seen
from sinkctl.result.measure import LATER, SCORED
from sinkctl.result.words import quoted

SHORTEST = 8  # tokens a sample


@dataclass
class Variant:
    """One of them; `runs` has what it came to, batch by batch."""

    name: str
    what: str
    also: Seen | None = None  # what is hidden, the same in every sample
    hidden_from: str | None = None
    runs: list[NextToken] = field(default_factory=list)

    @property
    def joined(self) -> NextToken:
        """Of all samples, on the CPU."""
        return joined(self.runs)


def joined(runs: list[NextToken]) -> NextToken:
    """Batches as one."""
    nll, last, attentions = zip(*runs, strict=True)
    return NextToken(torch.cat([x.cpu() for x in nll]), torch.cat([x.cpu() for x in last]), attentions[0])


def perplexity(run: NextToken) -> float | None:
    """exp of the mean loss; None where it is no finite number."""
    found = float(run.nll_NT.double().mean().exp())
    return found if math.isfinite(found) else None


def hidden_keys(tokens: int, keys: int) -> list[Variant]:
    """The first key from every later query; then, from the scored ones: it, the first `keys`, as many middle ones
    that all scored tokens come after, and the nearest."""
    half, keys = tokens // 2, min(keys, tokens // SHORTEST)
    s, number = ("", "") if keys == 1 else ("s", f"{keys} ")
    middle = tokens // 4 - keys // 2
    span = f"key {middle}" if keys == 1 else f"keys {middle} to {middle + keys - 1}"
    near = f"the {number}key{s} before each query hidden from it, the query's own key kept"
    first = [
        Variant(f"first key hidden from {LATER}", "key 0 hidden", hide((0,)), LATER),
        Variant(f"first key hidden from {SCORED}", "key 0 hidden once the sink has formed", hide((0,), half), SCORED),
    ]
    if keys > 1:
        what = f"keys 0 to {keys - 1} hidden"
        first.append(Variant(f"first {keys} keys hidden", what, hide(range(keys), half), SCORED))
    hidden = hide(range(middle, middle + keys), half)
    return [
        *first,
        Variant(f"{keys} middle key{s} hidden", f"{span} of {tokens} hidden", hidden, SCORED),
        Variant(f"{keys} nearest key{s} hidden", near, hide_nearest(keys, half), SCORED),
    ]


def hidden_token(token: str) -> tuple[Variant, Variant]:
    """A token in the places where heads sink on it, which every sample has of its own: from later, from scored."""
    what = f"{quoted(token)} hidden where heads sink on it, one sample at a time"
    later, scored = (Variant(f"{quoted(token)} hidden from {whom}", what, None, whom) for whom in (LATER, SCORED))
    return later, scored
