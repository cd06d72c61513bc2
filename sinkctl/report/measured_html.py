"""A sink measurement as sections of a page: tables, heatmaps and line plots; keys are chosen without a script."""

from dataclasses import replace
from itertools import count as counter

from sinkctl.report.compared import compare_table
from sinkctl.report.layer_rows import layer_parts, layer_words
from sinkctl.report.linepicture import LinePicture, line_svg, y_ranges
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
from sinkctl.report.measured_maps import alpha_map, cells_of, first_token_map, head_classes, surface_map
from sinkctl.report.measured_pictures import (
    all_pictures,
    checkpoint_pictures,
    input_pictures,
    key_name,
    overall_pictures,
)
from sinkctl.report.parts import escaped, figure, listed, score_rows, section
from sinkctl.report.predicted import predicted_table
from sinkctl.report.summary import model_line
from sinkctl.result.measure import CheckpointScore, HeadMap, InputScore, MeasureDetail
from sinkctl.result.numbers import count

MOST_HOVERS = 30_000  # cells of a page that say their numbers: each takes about 100 bytes


class _Page:
    """What the sections of one page share: ids, the scales of line plots, and how many cells may still speak."""

    def __init__(self, detail: MeasureDetail):
        self.epsilon = detail.epsilons[0]
        self.ranges = y_ranges(all_pictures(detail))
        self.ids = counter()
        self.hovers = MOST_HOVERS

    def name(self, kind: str) -> str:
        return f"{kind}-{next(self.ids)}"

    def may_hover(self, cells: int) -> bool:
        allowed = cells <= self.hovers
        self.hovers -= cells if allowed else 0
        return allowed

    def plots(self, pictures: list[LinePicture]) -> list[str]:
        parts = []
        for picture in pictures:
            scaled = replace(picture, y_range=self.ranges.get(picture.name, picture.y_range))
            parts += figure(line_svg(scaled, self.name(picture.name)), f"{picture.title}. {picture.caption}")
        return ['<div class="plots">', *parts, "</div>"] if parts else []


def measured(detail: MeasureDetail) -> list[str]:
    """The overview, then every checkpoint; checkpoints fold where there are several."""
    page = _Page(detail)
    keys = max((len(s.heads.keys) for c in detail.checkpoints for s in c.inputs if s.heads is not None), default=0)
    parts = [f"<style>{_picking(keys)}</style>"] if keys else []
    rates = section("Sink rates", score_rows(rate_table(detail)))
    if len(detail.checkpoints) == 1:
        return parts + rates + _checkpoint(page, detail.checkpoints[0])
    parts += section("Checkpoints side by side", _overview(page, detail)) + rates
    for number, checkpoint in enumerate(detail.checkpoints):
        parts += [f"<details{'' if number else ' open'}><summary>{escaped(checkpoint.label)}</summary>"]
        parts += [f'<p class="quiet">{escaped(model_line(checkpoint.model))}</p>']
        parts += [*(f"<p>{escaped(line)}</p>" for line in checkpoint.verdict), *_checkpoint(page, checkpoint)]
        parts += [*listed("Notes", checkpoint.notes), "</details>"]
    return parts


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


def _overview(page: _Page, detail: MeasureDetail) -> list[str]:
    parts = score_rows(compare_table(detail))
    parts += page.plots(overall_pictures(detail))
    for name in dict.fromkeys(score.name for checkpoint in detail.checkpoints for score in checkpoint.inputs):
        maps = []
        for checkpoint in detail.checkpoints:
            score = next((score for score in checkpoint.inputs if score.name == name), None)
            if score is not None and score.heads is not None and cells_of(score.heads):
                maps += figure(first_token_map(score, score.heads, page.name("first")), checkpoint.label)
        if maps:
            parts += section(f"α of token 1: {name}", ['<div class="maps">', *maps, "</div>"], level=3)
    return parts


def _checkpoint(page: _Page, checkpoint: CheckpointScore) -> list[str]:
    parts = []
    for score in checkpoint.inputs:
        parts += section(score.name, _input(page, score))
    spread = [f'<p class="quiet">{escaped(line)}</p>' for line in mixing_lines(checkpoint)]
    ablations = [*score_rows(cost_table(checkpoint)), *page.plots(checkpoint_pictures(checkpoint)), *spread]
    return parts + section("Ablations", ablations)


def _input(page: _Page, score: InputScore) -> list[str]:
    heads = f"Heads: {class_line(score)}" if score.classes else ""
    said = filter(None, (input_line(score), heads, massive_line(score)))
    parts = [f'<p class="quiet">{"<br>".join(map(escaped, said))}</p>']
    if score.heads is not None and cells_of(score.heads):
        parts += _heads(page, score, score.heads)
    parts += page.plots(input_pictures(score, page.epsilon))
    drawing = None if score.surface is None else surface_map(score.surface, page.name("surface"))
    if drawing is not None:
        caption = (
            f"|h| after layer {score.surface.layer} for the tokens of the first sample; each cell is the largest of "
            "its channels, and pointing at a row shows where its largest is."
        )
        parts += figure(drawing, caption)
    if score.patches is not None:
        parts.append(f"<p>{escaped(patch_line(score.patches))}</p>")
    parts += section("Sinks other than the first token", score_rows(found_table(score)) if score.found else [], 3)
    parts += section("Tokens to keep where keys and values are rounded", score_rows(predicted_table(score)), 3)
    experts = expert_table(score)
    parts += section("Where first tokens go", score_rows(experts) if experts.rows else [], 3)
    layers = [part for title, table in layer_parts(score) for part in section(title, score_rows(table), 4)]
    words = [f'<p class="legend">{escaped(line)}</p>' for line in layer_words(page.epsilon)]
    return parts + section("Layers", [*layers, *words] if layers else [], 3)


def _heads(page: _Page, score: InputScore, heads: HeadMap) -> list[str]:
    name, hover = page.name("alpha"), page.may_hover(cells_of(heads))
    caption = "α by layer and head: mean attention to the token from every query that sees it. "
    if hover:
        caption += "Pointing at a cell shows its value for each of these tokens, in their order."
    drawing = figure(alpha_map(score, heads, name, hover), caption)
    parts = ['<div class="keys">', *_buttons(name, [key_name(score, key) for key in heads.keys]), *drawing, "</div>"]
    if any(name for row in heads.classes for name in row):
        parts += figure(head_classes(score, heads, page.name("classes")), "What each head does; the rule is below.")
    return parts


def _buttons(name: str, labels: list[str]) -> list[str]:
    if len(labels) < 2:
        return []
    parts = []
    for number, label in enumerate(labels):
        checked = "" if number else ' checked="checked"'
        parts.append(f'<input type="radio" name="{name}" id="{name}-{number}" class="pick{number}"{checked}/>')
        parts.append(f'<label for="{name}-{number}">{escaped(label)}</label>')
    return parts


def _picking(keys: int) -> str:
    """The rules by which a chosen key shows its sheet and hides the others."""
    return "".join(
        f".pick{i}:checked~figure .sheet{{display:none}}.pick{i}:checked~figure .sheet{i}{{display:inline}}"
        for i in range(keys)
    )
