"""The three figures that a page begins with."""

from sinkctl.report.measured import cost_said, sink_name, sink_percent
from sinkctl.result.bench import OURS, BenchDetail
from sinkctl.result.bench_words import advantage, ours_beside, times
from sinkctl.result.convert import CONTROL, CONVERTED, ORIGINAL, ConvertDetail
from sinkctl.result.measure import SCORED, MeasureDetail
from sinkctl.result.numbers import count, difference, figures, known, percent, perplexity, quantity
from sinkctl.result.schema import Result
from sinkctl.result.stream import StreamDetail

Figure = tuple[str, str]  # what is said, large, and what it is


def headline(result: Result) -> list[Figure]:
    """At most three, the most telling first; what was not measured is left out."""
    shown: list[Figure] = []
    if result.stream is not None:
        shown = _stream(result.stream)
    elif result.measure is not None:
        shown = _measured(result.measure)
    elif result.convert is not None:
        shown = _converted(result.convert)
    elif result.registers is not None:
        names = {"original": "of patches are outliers", "converted": "with registers"}
        lines = {line.checkpoint: line for line in result.registers.lines}
        shown = [(percent(lines[name].outlier_percent), said) for name, said in names.items() if name in lines]
        shown += [(figures(lines["converted"].cosine), "cosine of other patches")] if "converted" in lines else []
    elif result.bench is not None:
        shown = _benched(result.bench)
    elif result.questions is not None:
        best = [(policy.exact / policy.asked, policy.label) for policy in result.questions.policies if policy.asked]
        shown = [(percent(100 * share), f"answered right under {label}") for share, label in best]
    elif result.generate is not None:
        shown = [(count(sum(row.tokens for row in result.generate.rows)), "tokens generated")]
    return [*shown, *_speed(result)][:3]


def _speed(result: Result) -> list[Figure]:
    names = {"stream.tokens_per_s": "speed", "generate.ms_per_token": "a step", "questions.per_s": "speed",
             "stream.peak_memory": "peak memory", "generate.peak_memory": "peak memory"}  # fmt: skip
    found = [(result.measurement(name), words) for name, words in names.items()]
    return [(quantity(m.value, m.unit), words) for m, words in found if m is not None and m.samples]


def _stream(stream: StreamDetail) -> list[Figure]:
    first, *others = [policy for policy in stream.policies if known(policy.perplexity)] or [None]
    if first is None:
        return []
    shown = [(perplexity(first.perplexity), f"perplexity with {first.label}")]
    if others:
        worst = max(others, key=lambda policy: policy.common_perplexity or 0)
        said = difference(worst.common_perplexity, first.common_perplexity)
        shown.append((said, f"perplexity with {worst.label} instead"))
    return shown


def _measured(detail: MeasureDetail) -> list[Figure]:
    shown: list[Figure] = []
    several = len(detail.checkpoints) > 1
    rates = [sink_percent(c.inputs[0], detail.epsilons[0]) for c in detail.checkpoints if c.inputs]
    for checkpoint in detail.checkpoints[: 3 if several else 1]:
        whose = f", {checkpoint.label}" if several else ""
        for score in checkpoint.inputs[:1]:
            if known(rate := sink_percent(score, detail.epsilons[0])):
                shown.append((percent(rate), f"of heads sink on the first token{whose} ({sink_name(0)}, {score.name})"))
        if several:
            continue
        hidden = [line for line in checkpoint.costs if line.hidden_from == SCORED] or checkpoint.costs
        shown += [(cost_said(line), f"perplexity, {line.name}") for line in hidden[:1]]
        tops = [layer.massive.top[0] for s in checkpoint.inputs[:1] for layer in s.layers if layer.massive is not None]
        shown += [(figures(max(tops)), "largest activation")] if tops and known(max(tops)) else []
    if len(detail.checkpoints) == 2 and len(rates) == 2 and all(map(known, rates)):
        shown.append((f"{rates[1] - rates[0]:+.1f} points", "the second's rate beside the first's"))
    return shown


def _converted(detail: ConvertDetail) -> list[Figure]:
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


def _benched(detail: BenchDetail) -> list[Figure]:
    gated = [change for change in detail.changes if change.limit is not None]
    shown: list[Figure] = []
    if gated:
        shown.append((f"{sum(not change.failed for change in gated)} of {len(gated)}", "gates hold"))
    for row in detail.rows:
        ours = None if row.way == OURS else ours_beside(row, detail.rows)
        ratio = None if ours is None or row.metric == "perplexity" else advantage(ours, row)
        if ratio is not None and len(shown) < 3:
            what = "less memory" if row.unit == "bytes" else "as fast"
            shown.append((times(ratio), f"{what} as {row.way}: {row.case}, {row.label}" if what == "as fast" else
                          f"{what} than {row.way}: {row.case}, {row.label}"))  # fmt: skip
    return shown
