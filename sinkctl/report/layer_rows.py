"""Layers of a sink measurement as rows: which columns there are, in which order, and what each says."""

from collections.abc import Callable

from sinkctl.report.measured import COUNTED, input_lines
from sinkctl.report.parts import Table, of, table_of, without_empty
from sinkctl.report.printable import shorten, visible
from sinkctl.result.measure import InputScore, LayerScore
from sinkctl.result.numbers import NOTHING, count, figures, part, percent, place, quotient, share
from sinkctl.result.words import quoted

KIND, TOKEN = "attention", "its token"
Read = Callable[[LayerScore], str]


def _quotient(first: str, rest: str) -> Read:
    return lambda layer: figures(quotient(getattr(layer, first), getattr(layer, rest)))


def _massive(say: Callable) -> Read:
    return lambda layer: NOTHING if layer.massive is None else say(layer.massive)


# A heading, the part of the model it speaks of (a page has a table for each), and what it says of a layer. Most telling
# first: a terminal shows those that fit, very wide ones all.
PARTS = ("Attention", "Largest activations", "Residual stream", "Keys, values and outputs")
ATTENTION, LARGEST, RESIDUAL, PROJECTED = PARTS
COLUMNS: tuple[tuple[str, str, Read], ...] = (
    (KIND, ATTENTION, of("kind")), ("sink heads", ATTENTION, of("sink_percent", percent)),
    ("α₁ mean", ATTENTION, of("alpha", share)), ("α₁ max", ATTENTION, of("alpha_max", share)),
    ("entropy, nats", ATTENTION, of("entropy", figures)), ("distance, tokens", ATTENTION, of("distance", figures)),
    ("mass sinks", ATTENTION, of("sinks_mass", share)), ("mass local", ATTENTION, of("local_mass", share)),
    ("mass rest", ATTENTION, of("rest_mass", share)), ("mass learned", ATTENTION, of("learned_mass", share)),
    ("mass tail", ATTENTION, of("tail_mass", share)),
    ("top-1 |h|", LARGEST, _massive(lambda m: figures(m.top[0]))),
    (TOKEN, LARGEST, _massive(lambda m: f"{quoted(m.text)} at {place(m.token)}")),
    ("its channel", LARGEST, _massive(of("channel", count))), ("median |h|", LARGEST, _massive(of("median", figures))),
    ("kurtosis", RESIDUAL, of("kurtosis", figures)),
    ("‖h₁‖ /rest", RESIDUAL, _quotient("norm_first", "norm_rest")),
    ("‖k₁‖ /rest", PROJECTED, _quotient("key_first", "key_rest")),
    ("value drain", PROJECTED, of("value_drain", figures)), ("cos(q,k₁)", PROJECTED, of("cosine_first", figures)),
    ("cos rest", PROJECTED, of("cosine_rest", figures)),
    ("dormant heads", PROJECTED, lambda layer: NOTHING if layer.dormant is None else count(layer.dormant)),
    ("effective rank", RESIDUAL, of("effective_rank", figures)), ("last query", ATTENTION, of("last_query", share)),
    ("entropy share", ATTENTION, of("entropy_share", share)),
    ("top-2", LARGEST, _massive(lambda m: figures(m.top[1]))),
    ("top-3", LARGEST, _massive(lambda m: figures(m.top[2]))),
    ("massive elements", LARGEST, _massive(of("count", figures))),
    ("not finite", LARGEST, _massive(lambda m: figures(m.not_finite) if m.not_finite else NOTHING)),
    ("‖h₁‖", RESIDUAL, of("norm_first", figures)), ("‖h‖ rest", RESIDUAL, of("norm_rest", figures)),
    ("‖h‖∞", RESIDUAL, of("max_abs", figures)), ("beyond 6σ", RESIDUAL, of("outlier_share", part)),
    ("matrix entropy", RESIDUAL, of("matrix_entropy", figures)), ("σ₁² share", RESIDUAL, of("first_direction", share)),
    ("‖k₁‖", PROJECTED, of("key_first", figures)), ("‖k‖ rest", PROJECTED, of("key_rest", figures)),
    ("‖v₁‖", PROJECTED, of("value_first", figures)), ("‖v‖ rest", PROJECTED, of("value_rest", figures)),
    ("written drain", PROJECTED, of("written_drain", figures)), ("gate", PROJECTED, of("gate", share)),
)  # fmt: skip


def layer_table(score: InputScore, part: str | None = None, longest: int | None = None) -> Table:
    """One row a layer, with the columns of `part` (all, without one) that say something, words cut to `longest`.

    What kind of attention a layer has is said where layers differ.
    """
    kinds = len({layer.kind for layer in score.layers}) > 1
    chosen = {name: read for name, whose, read in COLUMNS if part in (None, whose) and (kinds or name != KIND)}
    words = [name for name in (KIND, TOKEN) if name in chosen]
    for name in words if longest is not None else ():
        chosen[name] = lambda layer, say=chosen[name]: shorten(visible(say(layer)), longest)
    columns = {"layer": of("number"), **chosen}
    table = table_of(score.layers, columns, words=words)._replace(legend=[] if part else input_lines(score))
    return without_empty(table)


def layer_parts(score: InputScore) -> list[tuple[str, Table]]:
    """The same in full, a table for each part of the model, under its title."""
    tables = [(part, layer_table(score, part)) for part in PARTS]
    return [(part, table) for part, table in tables if len(table.columns) > 1]


def layer_words(epsilon: float) -> list[str]:
    """What the columns mean."""
    return [
        f"sink heads: α₁ above {epsilon:g}. Mass: mean over queries, on the first tokens, near ones, the rest and a "
        "learned sink logit; tail: of the last queries on the first tokens. "
        "/rest: the first token against the mean of the others; value drain: the same for values, and written drain "
        "after the output projection. Dormant heads write less than a tenth of their layer's mean.",
        COUNTED,
    ]
