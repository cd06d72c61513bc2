"""A tally → the score of one input, and its arrays."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from statistics import median, stdev
from typing import Any

import torch
from torch import Tensor

from sinkctl.metrics.head_class import CLASSES, head_class
from sinkctl.metrics.output import DORMANT, relative_output
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.measure import (
    FoundSink,
    HeadMap,
    InputScore,
    LayerScore,
    MassiveActivation,
    QueryPoint,
    SinkShare,
    Surface,
)
from sinkctl.tasks.measure.input_set import InputSet
from sinkctl.tasks.measure.key_groups import key_groups
from sinkctl.tasks.measure.patches import patch_norms
from sinkctl.tasks.measure.predicted import predicted_sinks
from sinkctl.tasks.measure.tally import SURFACE_CELLS, Row, Tally

QUERY_POINTS = 160
FOUND = 20


def input_score(
    shown: InputSet, tally: Tally, recipe: MeasureRecipe, unattended: Sequence[str], leading: list[str], seconds: float
) -> InputScore:
    """`unattended` says of every layer what it is, for those without an attention map; `leading` names the tokens in
    front of a vision model's patches."""
    rows = tally.rows
    keys = list(range(min(recipe.keys, tally.tokens))) if rows else []
    alone = len(shown.samples[0]) if shown.samples[0].dim() == 1 else tally.tokens
    first = alone if shown.lengths is None else shown.lengths[0]
    massive = {layer: torch.cat(parts) for layer, parts in tally.massive.items()}
    layers = [
        LayerScore(
            number=number,
            kind="; ".join(dict.fromkeys(row.kind for row in own)) or kind,
            attends=bool(own),
            **_block(number, tally, massive.get(number), shown),
            **(_attention(own, recipe.epsilon[0]) if own else {}),
        )
        for number, kind in enumerate(unattended)
        for own in [[row for row in rows if row.layer == number]]
    ]
    classes = [_classes(row) for row in rows]
    return InputScore(
        name=shown.name,
        kind=shown.kind,
        bos=shown.bos,
        samples=len(shown.samples),
        length=tally.tokens,
        shared_tokens=_shared(shown.samples),
        first_tokens=[shown.token_text(0, i) for i in range(min(12, first))],
        sinks=[
            SinkShare(
                epsilon=epsilon,
                key=key,
                percent=_finite(100 * sink_rate(rows, epsilon, key)),
                error=standard_error(tally.shares) if (epsilon, key) == (recipe.epsilon[0], 0) else None,
            )
            for epsilon in recipe.epsilon
            for key in keys
        ],
        layers=layers,
        heads=_heads(rows, keys, classes) if rows else None,
        classes={name: sum(row.count(name) for row in classes) for name in CLASSES} if rows else {},
        found=_found(tally, shown),
        predicted=predicted_sinks(tally, shown),
        queries=_queries(rows),
        surface=_surface(tally, massive, shown),
        part=shown.part,
        groups=key_groups(rows, shown),
        patches=patch_norms(torch.cat(tally.norms), leading, recipe.outlier_norm)
        if "image" in shown.kind and tally.norms
        else None,
        balance_error=_greatest(row.means["balance_error"].value for row in rows if "balance_error" in row.means),
        alpha_max=_greatest(row.means["alpha"].value[:, 0] for row in rows),
        massive_layers=[layer for layer, found_N8 in massive.items() if bool((found_N8[:, 4] > 0).any())],
        seconds=seconds,
    )


def sink_rate(rows: Sequence[Row], epsilon: float, key: int) -> float:
    """Sink_{key+1}^ε: the mean over samples, layers and heads of 1[α > ε], a share."""
    heads = sum(row.heads for row in rows)
    return sum(row.heads * float(row.rates[epsilon].value[key]) for row in rows) / heads


def standard_error(shares: Sequence[float]) -> float | None:
    """Of their mean, in percent; None for a single sample."""
    return 100 * stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else None


def arrays(tally: Tally) -> dict[str, Tensor]:
    """Every metric, means over samples, float32: stacked over rows where their shapes agree, else one a row."""
    found: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for row in tally.rows for name in row.means):
        found |= _stacked(name, {n: row.means[name].value for n, row in enumerate(tally.rows) if name in row.means})
    for epsilon in tally.epsilons:
        found |= _stacked(f"sinking.{epsilon:g}", {n: row.rates[epsilon].value for n, row in enumerate(tally.rows)})
    for name in dict.fromkeys(name for means in tally.blocks.values() for name in means):
        found |= _stacked(name, {n: means[name].value for n, means in tally.blocks.items()})
    found |= _stacked("massive", {n: torch.cat(parts).mean(0) for n, parts in tally.massive.items()})
    if tally.rows:
        found["layer_of_row"] = torch.tensor([row.layer for row in tally.rows])
    return {name: x.float().contiguous() if x.is_floating_point() else x for name, x in found.items()}


def _stacked(name: str, values: dict[int, Tensor]) -> dict[str, Tensor]:
    if len({x.shape for x in values.values()}) <= 1:
        return {name: torch.stack(list(values.values()))} if values else {}
    return {f"{name}.{number}": x for number, x in values.items()}


def _block(number: int, tally: Tally, massive: Tensor | None, shown: InputSet) -> dict[str, Any]:
    """What the residual stream after a layer shows, and its router."""
    block = tally.blocks.get(number, {})
    norms, outliers, rank = (block[n].value if n in block else None for n in ("residual_norms", "outliers", "rank"))
    scores = {
        "norm_first": _at(norms, 0), "norm_rest": _at(norms, 1),
        "max_abs": _at(outliers, 0), "kurtosis": _at(outliers, 1), "outlier_share": _at(outliers, 2),
        "matrix_entropy": _at(rank, 0), "effective_rank": _at(rank, 1), "first_direction": _at(rank, 2),
        "massive": None if massive is None else _massive(massive, shown),
    }  # fmt: skip
    if number in tally.experts:
        first_X, load_X = (mean.value for mean in tally.experts[number])
        expert = int(first_X.argmax())
        scores |= {
            "first_token_expert": expert, "first_token_share": _at(first_X, expert), "expert_share": _at(load_X, expert)
        }  # fmt: skip
    return scores


def _attention(rows: list[Row], epsilon: float) -> dict[str, float | int | None]:
    """Means over the heads of a layer (of all its attentions, where it has several)."""

    def mean(name: str, pick: Callable[[Tensor], Tensor] = lambda x: x) -> float | None:
        values = [pick(row.means[name].value).flatten() for row in rows if name in row.means]
        return _finite(float(torch.cat(values).nanmean())) if values else None

    relative = [relative_output(row.means["head_output"].value) for row in rows if "head_output" in row.means]
    written = [row.means["written_norms"].value for row in rows if "written_norms" in row.means]
    drain = float(torch.cat([x[:, 0] / x[:, 1] for x in written]).nanmean()) if written else None
    return {
        "sink_percent": _finite(100 * sink_rate(rows, epsilon, 0)),
        "alpha": mean("alpha", lambda x: x[:, 0]),
        "alpha_max": _greatest(row.means["alpha"].value[:, 0] for row in rows),
        "last_query": mean("last_query", lambda x: x[:, 0]),
        "tail_mass": mean("tail_mass"),
        "entropy": mean("entropy"),
        "entropy_share": mean("entropy_share"),
        "distance": mean("mean_distance"),
        "sinks_mass": mean("mass_split", lambda x: x[:, 0]),
        "local_mass": mean("mass_split", lambda x: x[:, 1]),
        "rest_mass": mean("mass_split", lambda x: x[:, 2]),
        "learned_mass": mean("learned_mass"),
        "key_first": mean("key_norms", lambda x: x[:, 0]),
        "key_rest": mean("key_norms", lambda x: x[:, 1]),
        "value_first": mean("value_norms", lambda x: x[:, 0]),
        "value_rest": mean("value_norms", lambda x: x[:, 1]),
        "value_drain": mean("value_drain"),
        "written_drain": drain,
        "cosine_first": mean("qk_cosine", lambda x: x[:, 0]),
        "cosine_rest": mean("qk_cosine", lambda x: x[:, 1]),
        "dormant": int(sum((x < DORMANT).sum() for x in relative)) if relative else None,
        "gate": mean("gate"),
    }


def _massive(found_N8: Tensor, shown: InputSet) -> MassiveActivation | None:
    """Of the samples that have finite numbers; None where none has."""
    kept = found_N8[:, 0].isfinite().nonzero().flatten().tolist()
    if not kept:
        return None
    place, _ = Counter(tuple(found_N8[n, 5:7].long().tolist()) for n in kept).most_common(1)[0]
    sample = next(n for n in kept if tuple(found_N8[n, 5:7].long().tolist()) == place)
    mean = found_N8[kept].double().mean(0)
    return MassiveActivation(
        top=tuple(mean[:3].tolist()),
        largest=float(found_N8[kept, 0].max()),
        median=float(mean[3]),
        token=place[0],
        channel=place[1],
        text=shown.token_text(sample, place[0]),
        count=float(mean[4]),
        samples=int((found_N8[kept, 4] > 0).sum()),
        not_finite=float(found_N8[:, 7].double().mean()),
    )


def _classes(row: Row) -> list[str]:
    split, share = row.means["mass_split"].value, row.means["entropy_share"].value
    return [CLASSES[number] for number in head_class(split, share).tolist()]


def _shared(samples: Sequence[Tensor]) -> int:
    """How many tokens all samples begin with; of images only the tokens in front of the patches are alike."""
    if samples[0].dim() != 1:
        return 0
    shortest = min(map(len, samples))
    alike = torch.stack([(ids[:shortest] == samples[0][:shortest]) for ids in samples]).all(0)
    return shortest if bool(alike.all()) else int(alike.int().argmin())


def _heads(rows: list[Row], keys: list[int], classes: list[list[str]]) -> HeadMap:
    alpha = [row.means["alpha"].value for row in rows]
    by_key = [[[_finite(round(x, 5)) for x in layer[:, key].tolist()] for layer in alpha] for key in keys]
    return HeadMap(keys=keys, layers=[row.layer for row in rows], alpha=by_key, classes=classes)


def _found(tally: Tally, shown: InputSet) -> list[FoundSink]:
    """Tokens besides the first that heads sink on, the ones that most heads sink on first."""
    heads = sum(row.heads for row in tally.rows)
    by_text = defaultdict(list)
    for place in tally.found.places:
        if place.key:
            by_text[shown.token_text(place.sample, place.key)].append(place)
    occurrences: Counter[str] = Counter()
    for sample, eligible_T in enumerate(tally.found.eligible if by_text else ()):
        for key in eligible_T.nonzero().flatten().tolist():
            occurrences[shown.token_text(sample, key)] += key > 0
    found = [
        FoundSink(
            token=text,
            times=len(places),
            occurrences=occurrences[text],
            position=median(place.key for place in places),
            percent=100 * sum(place.heads for place in places) / len(places) / heads,
            strongest=max(places, key=lambda place: place.alpha).strongest,
            alpha=max(place.alpha for place in places),
        )
        for text, places in by_text.items()
    ]
    return sorted(found, key=lambda sink: -sink.percent * sink.times)[:FOUND]


def _queries(rows: Sequence[Row]) -> list[QueryPoint]:
    """Mean over rows by heads, over stretches of queries that grow with their position."""
    means = [row.means["first_keys"].value * row.heads for row in rows if "first_keys" in row.means]
    if not means:
        return []
    mass_TK = torch.stack(means).sum(0) / sum(row.heads for row in rows)
    edges, points = [0], []
    while edges[-1] < len(mass_TK):
        edges.append(min(len(mass_TK), edges[-1] + max(1, round(edges[-1] * 8 / QUERY_POINTS))))
    for first, end in zip(edges, edges[1:], strict=False):
        mass = mass_TK[first:end].nanmean(0)
        points.append(QueryPoint(first=first, end=end, mass=[None if m != m else m for m in mass.tolist()]))
    return points


def _surface(tally: Tally, massive: dict[int, Tensor], shown: InputSet) -> Surface | None:
    """After the layer with the largest activation."""
    if not massive:
        return None
    layer = max(massive, key=lambda number: float(massive[number][:, 0].nan_to_num().mean()))
    cells = tally.surfaces[layer]
    return Surface(
        layer=layer,
        tokens=[shown.token_text(0, i) for i in range(len(cells))],
        channels=[cell * -(-tally.channels // SURFACE_CELLS) for cell in range(cells.shape[1])],
        size=[[float(f"{x:.4g}") if isfinite(x) else None for x in row] for row in cells.tolist()],
    )


def _finite(x: float) -> float | None:
    return x if isfinite(x) else None


def _at(x: Tensor | None, place: int) -> float | None:
    return None if x is None or x[place].isnan() else float(x[place])


def _greatest(parts: Iterable[Tensor]) -> float | None:
    """The largest finite number in any of the tensors."""
    numbers = [x for part in parts for x in part.flatten().tolist() if isfinite(x)]
    return max(numbers, default=None)
