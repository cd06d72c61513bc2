"""A sink measurement written by hand: two checkpoints, two inputs, three layers of two heads, one of them linear."""

import math

from example_result import result

from sinkctl.result.measure import (
    Agreement,
    CheckpointScore,
    CostLine,
    FoundSink,
    HeadMap,
    InputScore,
    LayerScore,
    MassiveActivation,
    MeasureDetail,
    MixingLine,
    PatchNorms,
    PredictedSinks,
    PredictedToken,
    QueryPoint,
    SinkShare,
    Surface,
)
from sinkctl.result.schema import Result

HOSTILE = '[red]<script>alert("1")</script>[/red]\n\x1b[31m\u202e🙂$x_'
NAN = math.nan


def layer(number: int, **changes) -> LayerScore:
    """A softmax layer whose numbers follow from its own."""
    settings = {
        "number": number, "kind": "softmax", "attends": True, "sink_percent": 50.0 + number,
        "alpha": 0.401 + number / 10, "alpha_max": 0.9 + number / 100, "last_query": 0.31,
        "tail_mass": 0.52, "entropy": 2.25, "entropy_share": 0.61,
        "distance": 12.5, "sinks_mass": 0.611, "local_mass": 0.212, "rest_mass": 0.177, "key_first": 3.0,
        "key_rest": 12.0, "value_first": 0.5, "value_rest": 8.0, "value_drain": 0.0625 + number, "written_drain": 0.07,
        "cosine_first": 0.71, "cosine_rest": -0.12, "dormant": number, "norm_first": 3000.0, "norm_rest": 30.0,
        "max_abs": 2950.0, "kurtosis": 33510.0 + number, "outlier_share": 0.0004, "effective_rank": 41.5,
        "matrix_entropy": 3.73, "first_direction": 0.83,
        "massive": MassiveActivation(top=(3024.0 + number, 802.5, 77.25), median=0.321, token=0, channel=447,
                                     text=HOSTILE, count=2.0, not_finite=0.0),
    }  # fmt: skip
    return LayerScore(**(settings | changes))


def linear_layer(number: int) -> LayerScore:
    """A layer without an attention map."""
    kind = "linear attention: no softmax map"
    return LayerScore(number=number, kind=kind, attends=False, norm_first=NAN, norm_rest=9.0)


def input_score(name: str = "natural, BOS", **changes) -> InputScore:
    """Two softmax layers around a linear one."""
    settings = {
        "name": name, "kind": "natural", "bos": True, "samples": 100, "length": 64,
        "first_tokens": [HOSTILE, " The", "\n"],
        "sinks": [SinkShare(epsilon=epsilon, key=key, percent=percent) for epsilon, percents in
                  ((0.3, (73.61, 0.25, NAN)), (0.5, (53.47, 0.0, 0.0))) for key, percent in enumerate(percents)],
        "layers": [layer(0), linear_layer(1),
                   layer(2, first_token_expert=5, first_token_share=1.0, expert_share=0.125)],
        "heads": HeadMap(keys=[0, 1, 16], layers=[0, 2], classes=[["sink", "local"], ["diffuse", "retrieval"]],
                         alpha=[[[0.93, 0.04], [0.5, 0.25]], [[0.0, 1.0], [None, NAN]], [[0.1, 0.1], [0.1, 0.1]]]),
        "classes": {"local": 1, "retrieval": 1, "diffuse": 1, "sink": 24},
        "found": [FoundSink(token=text, times=7, occurrences=40, position=17.5, percent=12.5, strongest=(2, 1),
                            alpha=0.456)
                  for text in (HOSTILE, ".", "\n", " the", ",", ";")],
        "predicted": PredictedSinks(
            layer=1, channels=[7, 8, 447], keep="first:1", left=6,
            tokens=[PredictedToken(token=None, predicted=100, right=99, position=0),
                    PredictedToken(token=HOSTILE, predicted=6, right=0, position=17.5)],
            all=Agreement(predicted=106, sinks=300, right=99, precision=93.396, recall=33.0),
            besides_first=Agreement(predicted=6, sinks=0, right=0, precision=0.0, recall=None)),
        "queries": [QueryPoint(first=0, end=1, mass=[1.0, None]), QueryPoint(first=1, end=8, mass=[0.7, 0.1]),
                    QueryPoint(first=8, end=64, mass=[0.6, NAN])],
        "surface": Surface(layer=2, tokens=[HOSTILE, " The", "."], channels=[0, 8],
                           size=[[3026, 12.0], [0.5, 0.0], [1.0, NAN]]),
        "balance_error": 2.4e-7, "alpha_max": 0.92, "massive_layers": [0, 2], "seconds": 3.2,
    }  # fmt: skip
    return InputScore(**(settings | changes))


def checkpoint(label: str = "demo", step: int | None = None, **changes) -> CheckpointScore:
    """Both inputs, two costs, and how a swapped token spreads."""
    settings = {
        "label": label, "step": step, "model": result().model.model_copy(update={"name": label}), "kind": "decoder",
        "verdict": [f"{label}: the first token is a sink."], "notes": ["One layer has no attention map."],
        "inputs": [input_score(), input_score("random, no BOS", bos=False, surface=None, found=[], alpha_max=NAN)],
        "costs": [CostLine(name="first 4 masked", what="no query sees them", perplexity=9.36, baseline=5.0,
                           error=0.034, kl=0.113, top5=0.6),
                  CostLine(name="massive set to 0", what="the largest element", perplexity=8977.0, baseline=5.13)],
        "mixing": [MixingLine(name="with BOS", change=[0.5, 0.05, 0.0125]), MixingLine(name="no BOS", change=[])],
    }  # fmt: skip
    return CheckpointScore(**(settings | changes))


def patches() -> PatchNorms:
    """Of a vision model with a few outliers."""
    bins = [(0.0, 100.0, 970), (100.0, 150.0, 0), (150.0, 300.0, 24)]
    return PatchNorms(cls=45.1, registers=[30.2], patch_median=42.0, patch_max=287.0, outlier_percent=2.37,
                      threshold=150.0, bins=bins)  # fmt: skip


def measure_detail(*checkpoints: CheckpointScore) -> MeasureDetail:
    """These checkpoints, or two."""
    return MeasureDetail(
        epsilons=[0.3, 0.5], keys=3, sinks=4, local=64, tail=64, class_rule="sink-dominated: more than half on sinks.",
        massive_rule="|h| > 100 and 1000 times the median.",
        checkpoints=list(checkpoints) or [checkpoint("one"), checkpoint("two")],
    )  # fmt: skip


def measure_result(*checkpoints: CheckpointScore, **changes) -> Result:
    """A measurement of these checkpoints, or of two."""
    return result(**({"task": "measure", "measure": measure_detail(*checkpoints), "measurements": []} | changes))
