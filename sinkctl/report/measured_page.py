"""A sink measurement as sections of a page: the overview, then every checkpoint by its name."""

from sinkctl.report.cells import alpha_map, cells_of, class_map, first_token_map, surface_map
from sinkctl.report.compared import compare_table
from sinkctl.report.image_maps import image_cells, largest_norm
from sinkctl.report.layer_rows import layer_parts, layer_words
from sinkctl.report.measured import (
    COUNTED,
    class_line,
    cost_table,
    expert_table,
    found_table,
    input_line,
    massive_line,
    mixing_lines,
    patch_line,
    rate_table,
)
from sinkctl.report.measured_pictures import checkpoint_pictures, input_pictures, key_name, overall_pictures
from sinkctl.report.page import Part, Section, table
from sinkctl.report.picture import LinePicture, on_one_scale
from sinkctl.report.predicted import predicted_table
from sinkctl.report.summary import model_line
from sinkctl.report.suspects import suspect_table
from sinkctl.result.measure import CheckpointScore, InputScore, MeasureDetail
from sinkctl.result.numbers import count

MOST_HOVERS = 30_000  # cells of a page that say their numbers: each takes about 100 bytes
Drawn = dict[int, list[LinePicture]]


def measured(detail: MeasureDetail) -> list[Section]:
    """Sink rates, the comparison of several checkpoints, then every checkpoint."""
    drawn, hovers = on_common_scales(detail), [MOST_HOVERS]
    rates = Section("Sink rates", [table(rate_table(detail))])
    if len(detail.checkpoints) == 1:
        return [rates, *_checkpoint(detail.checkpoints[0], detail, drawn, hovers)]
    shown = [Section("Checkpoints side by side", _overview(detail)), rates]
    for number, checkpoint in enumerate(detail.checkpoints):
        words = [("quiet", [model_line(checkpoint.model)]), ("plain", checkpoint.verdict)]
        inner = [("section", section) for section in _checkpoint(checkpoint, detail, drawn, hovers)]
        notes = ("section", Section("Notes", [("list", checkpoint.notes)]))
        shown.append(Section(checkpoint.label, [*words, *inner, notes], fold=number > 0))
    return shown


def measured_facts(detail: MeasureDetail) -> list[list[str]]:
    """How it was measured, as rows of a table."""
    return [
        ["thresholds ε", ", ".join(f"{epsilon:g}" for epsilon in detail.epsilons)],
        ["α reported for", f"the first {count(detail.keys)} tokens"],
        ["sinks, local, tail", f"{detail.sinks} first tokens, {detail.local} near ones, {detail.tail} last queries"],
        ["classes of heads", detail.class_rule],
        ["massive activations", detail.massive_rule],
        ["counted", COUNTED],
    ]


def on_common_scales(detail: MeasureDetail) -> Drawn:
    """The pictures of every checkpoint and input, by its identity, those of one name on one scale."""
    owners: list[tuple[int, LinePicture]] = []
    for checkpoint in detail.checkpoints:
        owners += [(id(checkpoint), picture) for picture in checkpoint_pictures(checkpoint)]
        for score in checkpoint.inputs:
            owners += [(id(score), picture) for picture in input_pictures(score, detail.epsilons[0])]
    drawn: Drawn = {}
    for (owner, _), picture in zip(owners, on_one_scale(picture for _, picture in owners), strict=True):
        drawn.setdefault(owner, []).append(picture)
    return drawn


def _overview(detail: MeasureDetail) -> list[Part]:
    parts = [table(compare_table(detail)), ("plots", overall_pictures(detail))]
    for name in dict.fromkeys(score.name for checkpoint in detail.checkpoints for score in checkpoint.inputs):
        maps = [
            first_token_map(score, checkpoint.label)
            for checkpoint in detail.checkpoints
            for score in checkpoint.inputs
            if score.name == name and score.heads is not None and cells_of(score.heads)
        ]
        parts.append(("section", Section(f"α of token 1: {name}", [("maps", maps)])))
    return parts


def _checkpoint(checkpoint: CheckpointScore, detail: MeasureDetail, drawn: Drawn, hovers: list[int]) -> list[Section]:
    shown = [
        Section("What it costs", [
            table(cost_table(checkpoint)),
            ("plots", drawn.get(id(checkpoint), [])),
            ("quiet", mixing_lines(checkpoint)),
        ])
    ]  # fmt: skip
    if checkpoint.suspects is not None:
        shown.insert(0, Section("Trigger candidates", [table(suspect_table(checkpoint.suspects))]))
    for score in checkpoint.inputs:
        shown.append(Section(score.name, _input(score, detail, drawn.get(id(score), []), hovers)))
    return shown


def _input(score: InputScore, detail: MeasureDetail, pictures: list[LinePicture], hovers: list[int]) -> list[Part]:
    heads = f"Heads: {class_line(score)}" if score.classes else ""
    parts: list[Part] = [("quiet", [line for line in (input_line(score), heads, massive_line(score)) if line])]
    if score.heads is not None and (cells := cells_of(score.heads)):
        hover = cells <= hovers[0]
        hovers[0] -= cells if hover else 0
        keys = [key_name(score, key) for key in score.heads.keys]
        parts.append(("cells", alpha_map(score.heads, "α by layer and head", keys, hover)))
        if any(name for row in score.heads.classes for name in row):
            parts.append(("cells", class_map(score.heads)))
    parts.append(("plots", pictures))
    surface = None if score.surface is None else surface_map(score.surface)
    patches = [] if score.patches is None else [patch_line(score.patches)]
    layers = [("section", Section(title, [table(found)])) for title, found in layer_parts(score)]
    words = [("legend", layer_words(detail.epsilons[0]))] if layers else []
    found = found_table(score) if score.found else None
    experts = expert_table(score)
    return [
        *parts,
        ("cells", surface),
        ("plain", patches),
        ("section", Section("Images, patch by patch", [("maps", image_cells(score, largest_norm(detail)))])),
        ("section", Section("Sinks other than the first token", [table(found)])),
        ("section", Section("Tokens to keep where keys and values are rounded", [table(predicted_table(score))])),
        ("section", Section("Where first tokens go", [table(experts if experts.rows else None)])),
        ("section", Section("Layers", [*layers, *words], fold=True)),
    ]
