"""Layers of a sink measurement as rows: which columns there are, in which order, and what each says."""

from collections.abc import Callable
from typing import NamedTuple

from sinkctl.report.measured import COUNTED, class_line, input_line, massive_line, without_empty
from sinkctl.report.printable import shorten, visible
from sinkctl.report.summary import ScoreTable
from sinkctl.result.measure import InputScore, LayerScore
from sinkctl.result.numbers import NOTHING, count, figures, percent, place, quotient, share
from sinkctl.result.words import quoted

KIND, TOKEN = "attention", "its token"


class Column(NamedTuple):
    """One column: its heading, the part of the model it speaks of, and what it says of a layer."""

    name: str
    part: str
    read: Callable[[LayerScore], str]


def _number(field: str, say: Callable[[float | None], str] = figures) -> Callable[[LayerScore], str]:
    return lambda layer: say(getattr(layer, field))


def _quotient(first: str, rest: str) -> Callable[[LayerScore], str]:
    return lambda layer: figures(quotient(getattr(layer, first), getattr(layer, rest)))


def _massive(say: Callable) -> Callable[[LayerScore], str]:
    return lambda layer: NOTHING if layer.massive is None else say(layer.massive)


# Most telling first: a terminal shows those that fit. (Within a part, a page keeps this order.)
COLUMNS = (
    Column(KIND, "Attention", lambda layer: layer.kind),
    Column("sink heads", "Attention", _number("sink_percent", percent)),
    Column("α₁ mean", "Attention", _number("alpha", share)),
    Column("α₁ max", "Attention", _number("alpha_max", share)),
    Column("entropy, nats", "Attention", _number("entropy")),
    Column("distance, tokens", "Attention", _number("distance")),
    Column("mass sinks", "Attention", _number("sinks_mass", share)),
    Column("mass local", "Attention", _number("local_mass", share)),
    Column("mass rest", "Attention", _number("rest_mass", share)),
    Column("mass learned", "Attention", _number("learned_mass", share)),
    Column("mass tail", "Attention", _number("tail_mass", share)),
    Column("top-1 |h|", "Largest activations", _massive(lambda m: figures(m.top[0]))),
    Column(TOKEN, "Largest activations", _massive(lambda m: f"{quoted(m.text)} at {place(m.token)}")),
    Column("its channel", "Largest activations", _massive(lambda m: count(m.channel))),
    Column("median |h|", "Largest activations", _massive(lambda m: figures(m.median))),
    Column("kurtosis", "Residual stream", _number("kurtosis")),
    Column("‖h₁‖ /rest", "Residual stream", _quotient("norm_first", "norm_rest")),
    Column("‖k₁‖ /rest", "Keys, values and outputs", _quotient("key_first", "key_rest")),
    Column("value drain", "Keys, values and outputs", _number("value_drain")),
    Column("cos(q,k₁)", "Keys, values and outputs", _number("cosine_first")),
    Column("cos rest", "Keys, values and outputs", _number("cosine_rest")),
    Column("dormant heads", "Keys, values and outputs", lambda layer: _whole(layer.dormant)),
    Column("effective rank", "Residual stream", _number("effective_rank")),
    # Only on a page, and on very wide terminals.
    Column("last query", "Attention", _number("last_query", share)),
    Column("entropy share", "Attention", _number("entropy_share", share)),
    Column("top-2", "Largest activations", _massive(lambda m: figures(m.top[1]))),
    Column("top-3", "Largest activations", _massive(lambda m: figures(m.top[2]))),
    Column("massive elements", "Largest activations", _massive(lambda m: figures(m.count))),
    Column("not finite", "Largest activations", _massive(lambda m: figures(m.not_finite) if m.not_finite else NOTHING)),
    Column("‖h₁‖", "Residual stream", _number("norm_first")),
    Column("‖h‖ rest", "Residual stream", _number("norm_rest")),
    Column("‖h‖∞", "Residual stream", _number("max_abs")),
    Column("beyond 6σ", "Residual stream", lambda layer: _part(layer.outlier_share)),
    Column("matrix entropy", "Residual stream", _number("matrix_entropy")),
    Column("σ₁² share", "Residual stream", _number("first_direction", share)),
    Column("‖k₁‖", "Keys, values and outputs", _number("key_first")),
    Column("‖k‖ rest", "Keys, values and outputs", _number("key_rest")),
    Column("‖v₁‖", "Keys, values and outputs", _number("value_first")),
    Column("‖v‖ rest", "Keys, values and outputs", _number("value_rest")),
    Column("written drain", "Keys, values and outputs", _number("written_drain")),
    Column("gate", "Keys, values and outputs", _number("gate", share)),
)


def layer_table(score: InputScore, part: str | None = None, longest: int | None = None) -> ScoreTable:
    """One row a layer, with the columns of `part` (all, without one) that say something, words cut to `longest`.

    What kind of attention a layer has is said where layers differ.
    """
    chosen = [column for column in COLUMNS if part in (None, column.part)]
    if len({layer.kind for layer in score.layers}) < 2:
        chosen = [column for column in chosen if column.name != KIND]
    rows = [[str(layer.number), *(column.read(layer) for column in chosen)] for layer in score.layers]
    words = frozenset(number for number, column in enumerate(chosen, 1) if column.name in (KIND, TOKEN))
    if longest is not None:
        rows = [[shorten(visible(cell), longest) if x in words else cell for x, cell in enumerate(row)] for row in rows]
    said = (input_line(score), _heads(class_line(score)), massive_line(score))
    legend = [line for line in said if line and part is None]
    table = ScoreTable(["layer", *(column.name for column in chosen)], rows, set(), legend, words)
    return without_empty(table)


def layer_parts(score: InputScore) -> list[tuple[str, ScoreTable]]:
    """The same in full, a table for each part of the model, under its title."""
    parts = list(dict.fromkeys(column.part for column in COLUMNS))
    tables = [(part, layer_table(score, part)) for part in parts]
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


def _whole(value: int | None) -> str:
    return NOTHING if value is None else count(value)


def _part(value: float | None) -> str:
    return NOTHING if value is None else percent(100 * value)


def _heads(line: str) -> str:
    return f"Heads: {line}" if line else ""
