"""Measured checkpoints → their Result."""

from collections.abc import Sequence

from sinkctl import __version__
from sinkctl.clock import spent
from sinkctl.metrics.head_class import THRESHOLDS
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.measure import LATER, SCORED, CheckpointScore, InputScore, LayerScore, MeasureDetail
from sinkctl.result.schema import Measurement, Result
from sinkctl.tasks.measure.reading import cost_of, first_percent, main_input


def result_of(
    recipe: MeasureRecipe,
    scores: Sequence[CheckpointScore],
    choices: dict[str, str],
    complete: bool = True,
) -> Result:
    """Everything the run found; its model is the first one measured."""
    measurements = [m for score in scores for m in _measurements(score, f"@{score.label}" if len(scores) > 1 else "")]
    seconds = spent()
    measurements.append(Measurement(name="measure.seconds", samples=[seconds], unit="s", better="lower"))
    return Result(
        task="measure",
        sinkctl_version=__version__,
        recipe=recipe.model_dump(mode="json"),
        model=scores[0].model,
        choices=choices,
        seconds=seconds,
        complete=complete,
        measurements=measurements,
        verdict=_verdict(scores),
        notes=_notes(scores),
        measure=MeasureDetail(
            epsilons=list(recipe.epsilon),
            keys=recipe.keys,
            sinks=recipe.sinks,
            local=recipe.local,
            tail=recipe.tail,
            class_rule=THRESHOLDS,
            massive_rule=f"|h| above {recipe.massive.size:g} and {recipe.massive.ratio:g} times the median",
            checkpoints=list(scores),
        ),
    )


def _verdict(scores: Sequence[CheckpointScore]) -> list[str]:
    if len(scores) == 1:
        return scores[0].verdict
    return [f"{score.label}: {' '.join(score.verdict)}" for score in scores]


def _notes(scores: Sequence[CheckpointScore]) -> list[str]:
    """Said once where it holds for every checkpoint."""
    notes: dict[str, list[str]] = {}
    for score in scores:
        for note in score.notes:
            notes.setdefault(note, []).append(score.label)
    return [note if len(of) == len(scores) else f"{', '.join(of)}: {note}" for note, of in notes.items()]


def _measurements(score: CheckpointScore, suffix: str) -> list[Measurement]:
    main, found = main_input(score.inputs), []

    def add(name: str, value: float | None, unit: str, better: str = "neither") -> None:
        if value is not None:
            found.append(Measurement(name=name + suffix, samples=[value], unit=unit, better=better))

    layers = main.layers
    massive = [layer.massive for layer in layers if layer.massive is not None]
    if main.heads is not None:
        add("sink_rate", first_percent(main), "% of heads")
        for number, each in enumerate(score.inputs, 1):
            add(f"{_slug(each, number)}.sink_rate", first_percent(each), "% of heads")
        add("alpha_max", main.alpha_max, "mass")
        add("tail_mass", _mean(layers, "tail_mass"), "mass")
        add("entropy", _mean(layers, "entropy"), "nats")
        add("learned_mass", _mean(layers, "learned_mass"), "mass")
        add("value_drain", min(_of(layers, "value_drain"), default=None), "ratio")
        dormant, errors = _of(layers, "dormant"), _of(score.inputs, "balance_error")
        add("dormant_heads", sum(dormant) if dormant else None, "heads", "lower")
        add("balance_error", max(errors, default=None), "mass", "lower")
    add("massive_max", max((m.largest for m in massive if m.largest is not None), default=None), "|h|", "lower")
    add("massive_ratio", max((m.top[0] / m.median for m in massive if m.median), default=None), "× median", "lower")
    add("kurtosis_max", max(_of(layers, "kurtosis"), default=None), "kurtosis", "lower")
    add("max_abs", max(_of(layers, "max_abs"), default=None), "|h|", "lower")
    add("effective_rank_min", min(_of(layers, "effective_rank"), default=None), "directions", "higher")
    if main.predicted is not None:
        add("predicted.precision", main.predicted.all.precision, "% of predicted sinks", "higher")
        add("predicted.recall", main.predicted.all.recall, "% of sinks", "higher")
    if main.patches is not None:
        add("outlier_patches", main.patches.outlier_percent, "% of patches", "lower")
    for group in main.groups:
        add(f"mass.{group.name}", group.percent, "% of attention")
    if score.suspects is not None:
        add("alarms", sum(one.alarm for one in score.suspects.suspects), "candidates", "lower")
    for name, start in (
        ("no_sinks", "0+"),
        ("massive_zeroed", "massive activations zeroed"),
        ("largest_zeroed", "largest activations zeroed"),
        ("no_bos", "BOS left out"),
        ("first_key_text", "first key hidden from the text"),
        ("image_hidden", "image hidden"),
        ("half_moved", "50 % moved"),
    ):
        add(f"cost.{name}", _hundredfold(cost_of(score.costs, start)), "% of perplexity")
    for name, start in (("first_key", "first key"), ("other_sink", "“")):
        for ending, whom in (("", LATER), ("_scored", SCORED)):
            add(f"cost.{name}{ending}", _hundredfold(cost_of(score.costs, start, whom)), "% of perplexity")
    return found


def _hundredfold(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _slug(score: InputScore, number: int) -> str:
    """natural, natural_no_bos, images, encoder, random_decoder; step_1 of a denoising trajectory."""
    if score.kind == "denoising":
        return f"step_{number}"
    if score.part is not None:
        return ("random_" if "random" in score.kind else "") + score.part.replace("-", "_")
    kind = "images" if "image" in score.kind else score.kind
    return f"{kind}_no_bos" if score.bos is False else kind


def _of(records: Sequence[LayerScore | InputScore], name: str) -> list[float]:
    return [value for record in records if (value := getattr(record, name)) is not None]


def _mean(layers: Sequence[LayerScore], name: str) -> float | None:
    values = _of(layers, name)
    return sum(values) / len(values) if values else None
