"""Tokens to keep in full where keys and values are rounded, as a table."""

import math

from sinkctl.report.summary import ScoreTable
from sinkctl.result.measure import Agreement, InputScore, PredictedSinks
from sinkctl.result.numbers import count, percent, place
from sinkctl.result.words import quoted, ranges

FIRST = "the first token"


def predicted_table(score: InputScore, most: int | None = None) -> ScoreTable:
    """Tokens told by massive activations, at most `most`, and how often heads sink on them; empty where none is."""
    columns, found = ["token", "places", "sinks of later layers", "position"], score.predicted
    if found is None:
        return ScoreTable(columns, [], set(), [])
    rows = [
        [
            FIRST if token.token is None else quoted(token.token),
            count(token.predicted),
            count(token.right),
            place(token.position),
        ]
        for token in found.tokens[:most]
    ]
    channels = f"channel{'s' if len(found.channels) > 1 else ''} {ranges(found.channels)}"
    legend = [
        f"places: massive in {channels} after layer {found.layer}; {_kept(found)}",
        f"{_agreement(found.all)}; besides the first token, {_agreement(found.besides_first)}",
    ]
    if len(front := prefix(score)) > bool(score.bos):
        legend.append(f"a prefix of as many tokens as samples have such places: {' '.join(map(quoted, front))}")
    if most is not None and len(found.tokens) > most:
        legend.append(f"and {count(len(found.tokens) - most)} more")
    return ScoreTable(columns, rows, set(), legend)


def prefix(score: InputScore) -> list[str]:
    """Tokens that in front of a text would be the massive ones, so that those in it need not be.

    After PrefixQuant (Chen et al. 2024, arXiv 2410.05265): as many as a sample has such places, rounded up; those told
    most often, BOS last where samples have it. As in its code, what fewer than a tenth of the samples have is left out.
    """
    found = score.predicted
    assert found is not None
    number = math.ceil(found.all.predicted / score.samples)
    often = [token.token for token in found.tokens if token.token is not None and 10 * token.predicted >= score.samples]
    return often[: number - 1] + (score.first_tokens[:1] if score.bos else [])


def _kept(found: PredictedSinks) -> str:
    if found.keep == "none":
        return "no setting keeps them"
    return f"--kv-keep {found.keep} keeps all" + (f" but {count(found.left)} of them" if found.left else " of them")


def _agreement(found: Agreement) -> str:
    """precision 100.0 % (20 of 20), recall 19.6 % (20 of 102)."""
    right = count(found.right)
    precision = f"precision {percent(found.precision)} ({right} of {count(found.predicted)})"
    recall = f"recall {percent(found.recall)} ({right} of {count(found.sinks)})"
    return f"{precision if found.predicted else 'none predicted'}, {recall if found.sinks else 'no sinks'}"
