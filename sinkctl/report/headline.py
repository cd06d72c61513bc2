"""The figures that a page begins with, by task, the most telling first; what was not measured is left out."""

from sinkctl.report.measured import cost_said, sink_name, sink_percent
from sinkctl.result.bench import OURS, BenchDetail
from sinkctl.result.bench_words import advantage, ours_beside, times
from sinkctl.result.convert import CONTROL, CONVERTED, ORIGINAL, ConvertDetail
from sinkctl.result.generate import GenerateDetail
from sinkctl.result.measure import SCORED, MeasureDetail
from sinkctl.result.numbers import count, difference, figures, known, part, percent, perplexity
from sinkctl.result.questions import QuestionsDetail
from sinkctl.result.registers import RegistersDetail
from sinkctl.result.stream import StreamDetail

Figure = tuple[str, str]  # what is said, large, and what it is


def stream(stream: StreamDetail) -> list[Figure]:
    first, *others = [policy for policy in stream.policies if known(policy.perplexity)] or [None]
    shown = [] if first is None else [(perplexity(first.perplexity), f"perplexity with {first.label}")]
    if others:
        worst = max(others, key=lambda policy: policy.common_perplexity or 0)
        said = difference(worst.common_perplexity, first.common_perplexity)
        shown.append((said, f"perplexity with {worst.label} instead"))
    return shown


def measured(detail: MeasureDetail) -> list[Figure]:
    shown: list[Figure] = []
    several, epsilon = len(detail.checkpoints) > 1, detail.epsilons[0]
    for checkpoint in detail.checkpoints[: 3 if several else 1]:
        whose = f", {checkpoint.label}" if several else ""
        for score in checkpoint.inputs[:1]:
            if known(rate := sink_percent(score, epsilon)):
                shown.append((percent(rate), f"of heads sink on the first token{whose} ({sink_name(0)}, {score.name})"))
        if several:
            continue
        hidden = [line for line in checkpoint.costs if line.hidden_from == SCORED] or checkpoint.costs
        shown += [(cost_said(line), f"perplexity, {line.name}") for line in hidden[:1]]
        tops = [x.massive.largest or x.massive.top[0] for s in checkpoint.inputs[:1] for x in s.layers if x.massive]
        shown += [(figures(max(tops)), "largest activation")] if tops and known(max(tops)) else []
    rates = [sink_percent(c.inputs[0], epsilon) for c in detail.checkpoints if c.inputs]
    if len(detail.checkpoints) == 2 and len(rates) == 2 and all(map(known, rates)):
        shown.append((f"{rates[1] - rates[0]:+.1f} points", "the second's rate beside the first's"))
    return shown


def converted(detail: ConvertDetail) -> list[Figure]:
    def best(checkpoint: str) -> float | None:
        found = [line.perplexity for line in detail.streams if line.checkpoint == checkpoint and known(line.perplexity)]
        return min(found, default=None)

    ours, original, control = map(best, (CONVERTED, ORIGINAL, CONTROL))
    bare = [line.perplexity for line in detail.streams if line.checkpoint == ORIGINAL and line.policy.startswith("0+")]
    shown = [] if ours is None else [(perplexity(ours), f"perplexity with {detail.mechanism}, streamed")]
    if ours is not None and original is not None:
        shown.append((difference(ours, original), "beside the original"))
    if control is not None:
        shown.append((perplexity(control), "the control, trained without it"))
    elif bare and known(bare[0]):
        shown.append((perplexity(bare[0]), "the control: the original without its first token"))
    return shown


def registers(detail: RegistersDetail) -> list[Figure]:
    lines = {line.checkpoint: line for line in detail.lines}
    names = {ORIGINAL: "of patches are outliers", CONVERTED: "with registers"}
    shown = [(percent(lines[name].outlier_percent), said) for name, said in names.items() if name in lines]
    return shown + ([(figures(lines[CONVERTED].cosine), "cosine of other patches")] if CONVERTED in lines else [])


def benched(detail: BenchDetail) -> list[Figure]:
    gated = [change for change in detail.changes if change.limit is not None]
    shown = [(f"{sum(not change.failed for change in gated)} of {len(gated)}", "gates hold")] if gated else []
    for row in detail.rows:
        ours = None if row.way == OURS or row.metric == "perplexity" else ours_beside(row, detail.rows)
        if ours is not None and (ratio := advantage(ours, row)) is not None:
            what = "less memory than" if row.unit == "bytes" else "as fast as"
            shown.append((times(ratio), f"{what} {row.way}: {row.case}, {row.label}"))
    return shown


def answered(detail: QuestionsDetail) -> list[Figure]:
    asked = [policy for policy in detail.policies if policy.asked]
    return [(part(policy.exact / policy.asked), f"answered right under {policy.label}") for policy in asked]


def generated(detail: GenerateDetail) -> list[Figure]:
    return [(count(sum(row.tokens for row in detail.rows)), "tokens generated")]
