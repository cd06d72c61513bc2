"""A sink measurement as tables of a terminal, and as sections of a page: the overview, then every checkpoint."""

from sinkctl.report.cells import alpha_map, cells_of, class_map, image_cells, surface_map
from sinkctl.report.compared import compare_table
from sinkctl.report.key_groups import group_map, group_table
from sinkctl.report.layer_rows import layer_parts, layer_table, layer_words
from sinkctl.report.measured import (
    COUNTED,
    cost_table,
    expert_table,
    found_table,
    input_lines,
    mixing_lines,
    patch_line,
    predicted_table,
    rate_table,
    suspect_table,
)
from sinkctl.report.measured_pictures import compared_pictures, emergence, input_pictures, key_name, mixing_picture
from sinkctl.report.parts import LinePicture, Part, Section, Table, on_one_scale, plots
from sinkctl.report.summary import model_line
from sinkctl.result.measure import CheckpointScore, InputScore, MeasureDetail
from sinkctl.result.numbers import count

MOST_HOVERS = 30_000  # cells of a page that say their numbers: each takes about 100 bytes
FOUND, SHORTEST, LONGEST = 5, 12, 24  # tokens on a terminal; cells of words, narrow and wide
OTHERS, KEPT = "Sinks other than the first token", "Tokens to keep where keys and values are rounded"
EXPERTS, SUSPECTS, KINDS = "Where first tokens go", "Trigger candidates", "Attention by kind of key"
Drawn = dict[int, list[LinePicture]]


def tables(detail: MeasureDetail, width: int) -> list[tuple[str, Table]]:
    """Titled tables of a terminal, from the widest view to the summary.

    Layers, tokens and experts are those of the first checkpoint's first input; of several checkpoints the comparison
    takes the layers' place.
    """
    first = detail.checkpoints[0] if detail.checkpoints else None
    score = first.inputs[0] if first is not None and first.inputs else None
    several = len(detail.checkpoints) > 1
    shown: list[tuple[str, Table]] = [("Checkpoints", compare_table(detail))] if several else []
    if score is not None:
        whose = f": {first.label}, {score.name}" if several else f": {score.name}"
        if not several:
            layers = layer_table(score, longest=LONGEST if width > 100 else SHORTEST)
            shown += [(f"Layers{whose}", layers), (f"{EXPERTS}{whose}", expert_table(score))]
        shown.append((f"{KINDS}{whose}", group_table(score)))
        shown += [(f"{OTHERS}{whose}", found_table(score, FOUND)), (f"{KEPT}{whose}", predicted_table(score, FOUND))]
    if first is not None:
        patches = [patch_line(score.patches)] if score is not None and score.patches is not None else []
        costs = cost_table(first)
        title = "Ablations" if costs.rows else "Patches"
        costs = costs._replace(legend=[*costs.legend, *mixing_lines(first), *patches])
        shown.append((f"{title}: {first.label}" if several else title, costs))
    for each in detail.checkpoints:
        shown.append((f"{SUSPECTS}: {each.label}" if several else SUSPECTS, suspect_table(each.suspects)))
    return [*shown, ("Sink rates", rate_table(detail))]


def sections(detail: MeasureDetail) -> list[Section]:
    """Sink rates, the comparison of several checkpoints, then every checkpoint."""
    drawn, hovers = on_common_scales(detail), [MOST_HOVERS]
    rates = Section("Sink rates", [("table", rate_table(detail))])
    if len(detail.checkpoints) == 1:
        return [rates, *_checkpoint(detail.checkpoints[0], detail, drawn, hovers)]
    shown = [Section("Checkpoints side by side", _overview(detail)), rates]
    for number, checkpoint in enumerate(detail.checkpoints):
        words = [("quiet", [model_line(checkpoint.model)]), ("plain", checkpoint.verdict)]
        inner = [("section", section) for section in _checkpoint(checkpoint, detail, drawn, hovers)]
        notes = ("section", Section("Notes", [("list", checkpoint.notes)]))
        shown.append(Section(checkpoint.label, [*words, *inner, notes], fold=number > 0))
    return shown


def facts(detail: MeasureDetail) -> list[list[str]]:
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
        owners += [(id(checkpoint), picture) for picture in plots(mixing_picture(checkpoint))[1]]
        for score in checkpoint.inputs:
            owners += [(id(score), picture) for picture in input_pictures(score, detail.epsilons[0])]
    drawn: Drawn = {}
    for (owner, _), picture in zip(owners, on_one_scale(picture for _, picture in owners), strict=True):
        drawn.setdefault(owner, []).append(picture)
    return drawn


def _overview(detail: MeasureDetail) -> list[Part]:
    parts: list[Part] = [("table", compare_table(detail)), plots(emergence(detail), *compared_pictures(detail))]
    pairs = [(checkpoint.label, score) for checkpoint in detail.checkpoints for score in checkpoint.inputs]
    for name in dict.fromkeys(score.name for _, score in pairs):
        maps = [
            alpha_map(score.heads, label, [""], hover=False)._replace(caption="")
            for label, score in pairs
            if score.name == name and cells_of(score.heads)
        ]
        parts.append(("section", Section(f"α of token 1: {name}", [("maps", maps)])))
    return parts


def _checkpoint(checkpoint: CheckpointScore, detail: MeasureDetail, drawn: Drawn, hovers: list[int]) -> list[Section]:
    pictures = ("plots", drawn.get(id(checkpoint), []))
    costs = [("table", cost_table(checkpoint)), pictures, ("quiet", mixing_lines(checkpoint))]
    return [
        Section(SUSPECTS, [("table", suspect_table(checkpoint.suspects))]),
        Section("What it costs", costs),
        *(Section(score.name, _input(score, detail, drawn, hovers)) for score in checkpoint.inputs),
    ]


def _input(score: InputScore, detail: MeasureDetail, drawn: Drawn, hovers: list[int]) -> list[Part]:
    parts: list[Part] = [("quiet", input_lines(score))]
    if cells := cells_of(score.heads):
        hover = cells <= hovers[0]
        hovers[0] -= cells if hover else 0
        keys = [key_name(score, key) for key in score.heads.keys]
        parts.append(("cells", alpha_map(score.heads, "α by layer and head", keys, hover)))
        if any(name for row in score.heads.classes for name in row):
            parts.append(("cells", class_map(score.heads)))
    layers: list[Part] = [("section", Section(title, [("table", found)])) for title, found in layer_parts(score)]
    layers += [("legend", layer_words(detail.epsilons[0]))] if layers else []
    inner = [
        Section(KINDS, [("table", group_table(score)), ("cells", group_map(score))]),
        Section("Images, patch by patch", [("maps", image_cells(score, detail))]),
        Section(OTHERS, [("table", found_table(score))]),
        Section(KEPT, [("table", predicted_table(score))]),
        Section(EXPERTS, [("table", expert_table(score))]),
        Section("Layers", layers, fold=True),
    ]
    return [
        *parts,
        ("plots", drawn.get(id(score), [])),
        ("cells", None if score.surface is None else surface_map(score.surface)),
        ("plain", [] if score.patches is None else [patch_line(score.patches)]),
        *(("section", section) for section in inner),
    ]
