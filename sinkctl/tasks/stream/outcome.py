"""A finished (or stopped) stream → its Result: measurements, and what they say in words."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sinkctl import __version__
from sinkctl.cache.policies import Bounded, Policy, Recompute
from sinkctl.model.load import LoadedModel
from sinkctl.result.numbers import change, percent, perplexity
from sinkctl.result.schema import Measurement, ModelReport, Result
from sinkctl.result.stream import FileMark, PolicyScore, StreamDetail
from sinkctl.tasks.stream.passages import said
from sinkctl.tasks.stream.scoring import StreamRun

# Shares of heads: stories260K, a real model without a sink, shows 0.3 % on its own kind of text and 5 % on another;
# models with one, trained as usual, show 40 % and more.
NO_SINK, WEAK_SINK = 0.01, 0.1
# Scored by both policies: fewer tokens do not carry a comparison in words.
ENOUGH = 200


@dataclass(frozen=True)
class Outcome:
    """A Result and its per-token arrays: label of the policy → NLL in nats, float32; NaN where not scored.

    Of texts on their own `texts` has a row each, int64: index of its first scored token, and this one's file, byte and
    line.
    """

    result: Result
    nll: dict[str, np.ndarray]
    texts: np.ndarray | None = None


def result_of(run: StreamRun, complete: bool, processes: int = 1) -> Result:
    """Everything the run found."""
    policies = [_score(run, label) for label in run.scorers]
    layers = [line for scorer in run.scorers.values() for line in scorer.layers]
    choices = dict(run.choices)
    for scorer in run.scorers.values():
        choices |= scorer.choices
    tally = run.tally
    marks = {*map(tuple, tally.file_starts), *map(tuple, tally.marks.items)}
    return Result(
        task="stream",
        sinkctl_version=__version__,
        recipe=run.recipe.model_dump(mode="json"),
        model=model_report(run.loaded, layers),
        choices=choices,
        seconds=tally.seconds,
        complete=complete,
        measurements=_measurements(run, policies),
        verdict=_verdict(run, policies),
        notes=_notes(run),
        stream=StreamDetail(
            tokens=tally.scored,
            texts=None if run.recipe.text.each is None else tally.texts,
            processes=processes,
            bos=run.settled.bos,
            chunk=run.recipe.chunk,
            policies=policies,
            marks=[FileMark(index=i, file=run.settled.names[f], byte=b) for i, f, b in sorted(marks)],
            passages=said(tally.passages.ended(), run.loaded.tokenizer.decode, run.settled.names),
            memory=tally.memory.items,
            sink_rate=tally.sink_rate,
        ),
    )


def model_report(loaded: LoadedModel, layers: list[str]) -> ModelReport:
    """Which checkpoint ran, and what was done in its layers."""
    return ModelReport(
        name=loaded.name,
        fingerprint=loaded.fingerprint,
        model_type=loaded.model.config.model_type,
        parameters=loaded.model.num_parameters(),
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
        context=loaded.context,
        layers=list(dict.fromkeys(layers)),
    )


def _score(run: StreamRun, label: str) -> PolicyScore:
    policy, tally = run.scorers[label].policy, run.tally
    bounded = isinstance(policy, Bounded)
    context = run.loaded.context
    held = policy.reach + 1 if bounded else 0 if _stops(run, label) else tally.longest
    beyond = context is not None and held > context
    return PolicyScore(
        label=label,
        kind=policy.kind,
        settings=policy.model_dump(mode="json"),
        tokens=tally.totals[label].tokens,
        perplexity=tally.totals[label].perplexity,
        common_perplexity=tally.common[label].perplexity,
        common_tokens=tally.common[label].tokens,
        cache_tokens=policy.reach if bounded else None,
        cache_bytes=tally.cache_bytes[label],
        extrapolates_from=context if beyond else None,
        curve=tally.curves[label].points(),
    )


def _stops(run: StreamRun, label: str) -> bool:
    """Whether a policy that keeps everything could not go on to the end of every text."""
    return run.scorers[label].policy.grows and run.tally.totals[label].tokens < run.tally.scored


def _measurements(run: StreamRun, policies: list[PolicyScore]) -> list[Measurement]:
    found = []
    for score in policies:
        for name, value in (("perplexity", score.perplexity), ("common_perplexity", score.common_perplexity)):
            if value is not None:
                found.append(
                    Measurement(name=f"{score.label}.{name}", samples=[value], unit="perplexity", better="lower")
                )
    first = policies[0]
    if first.perplexity is not None:
        found.insert(0, Measurement(name="perplexity", samples=[first.perplexity], unit="perplexity", better="lower"))
    speed = run.tally.scored / max(run.tally.seconds, 1e-9)
    found.append(Measurement(name="stream.tokens_per_s", samples=[speed], unit="tok/s", better="higher"))
    found.append(Measurement(name="stream.peak_memory", samples=[run.tally.peak_bytes], unit="bytes", better="lower"))
    if run.tally.sink_rate is not None:
        found.append(
            Measurement(name="sink_rate", samples=[100 * run.tally.sink_rate], unit="% of heads", better="neither")
        )
    return found


def _verdict(run: StreamRun, policies: list[PolicyScore]) -> list[str]:
    said, sink_rate = [], run.tally.sink_rate
    if sink_rate is not None:
        share = f"{percent(100 * sink_rate)} of heads give the first token more than 0.3 of their attention"
        found = "No sink found" if sink_rate < NO_SINK else "Hardly a sink" if sink_rate < WEAK_SINK else "Sink found"
        said.append(
            f"{found}: {share} (samples of 64 tokens from the text's beginning; "
            "sinkctl measure spreads 100 over all of it, so its rate may differ)."
        )
    as_it_is = [p for p in policies if p.settings["redistribute"] is None]
    kept = next((p for p in as_it_is if p.kind == "sink_window" and p.settings["sinks"]), None)
    bare = next((p for p in policies if kept and _without_sinks(p) and _precision(p) == _precision(kept)), None)
    if kept and bare and kept.common_tokens >= ENOUGH:
        cost = bare.common_perplexity / kept.common_perplexity - 1
        numbers = (
            f"{perplexity(kept.common_perplexity)} with ({kept.label}), "
            f"{perplexity(bare.common_perplexity)} without ({bare.label})"
        )
        if cost > 0.01:
            said.append(f"Dropping the first tokens costs {percent(100 * cost)} of perplexity: {numbers}.")
        else:
            said.append(f"Dropping the first tokens costs nothing ({change(cost)}): {numbers}.")
    said += _chosen(policies)
    said += _beside(policies, "precision", "in full") + _beside(policies, "redistribute", "without")
    reference = next((p for p in policies if p.kind == "recompute"), None)
    if kept and reference and kept.common_tokens >= ENOUGH:
        gap = kept.common_perplexity / reference.common_perplexity - 1
        tokens = f"on the {kept.common_tokens:,} tokens both scored"
        said.append(f"{kept.label} is within {percent(100 * abs(gap))} of {reference.label}, {tokens}.")
    return said


def _chosen(policies: list[PolicyScore]) -> list[str]:
    """Of each policy that chooses by attention: whether chance at its best does as well with as much kept."""
    said, scored = [], [p for p in policies if p.common_tokens >= ENOUGH]
    for score in (p for p in scored if p.kind == "heavy_hitter"):
        alike = [p for p in scored if p.kind == "random" and p.cache_tokens == score.cache_tokens]
        other = min(alike, key=lambda p: p.common_perplexity, default=None)
        if other is None:
            continue
        gain = other.common_perplexity / score.common_perplexity - 1
        what = f"better than chance by {percent(100 * gain)}" if gain > 0.01 else "no better than chance"
        numbers = f"{perplexity(score.common_perplexity)}, and {perplexity(other.common_perplexity)} of {other.label}"
        said.append(f"{score.label} chooses {what}: {numbers}.")
    return said


def _without_sinks(score: PolicyScore) -> bool:
    return score.kind in ("window", "sink_window") and not score.settings["sinks"]


def _precision(score: PolicyScore) -> dict | None:
    return score.settings["precision"]


def _beside(policies: list[PolicyScore], setting: str, how: str) -> list[str]:
    """What a setting costs the policies that ran without it as well, which is said by `how`."""
    without = {_apart_from(setting, score): score for score in policies if score.settings[setting] is None}
    said = []
    for score in policies:
        beside = without.get(_apart_from(setting, score))
        if score.settings[setting] is None or beside is None or score.common_tokens < ENOUGH:
            continue
        cost = change(score.common_perplexity / beside.common_perplexity - 1)
        said.append(
            f"{score.label}: {cost} of perplexity, {perplexity(score.common_perplexity)} against "
            f"{perplexity(beside.common_perplexity)} {how}."
        )
    return said


def _apart_from(setting: str, score: PolicyScore) -> str:
    return json.dumps({**score.settings, setting: None}, sort_keys=True)


def redistribution_notes(policy: Policy) -> list[str]:
    """How heads were chosen, where that was left to a calibration."""
    asked = policy.redistribute
    return [] if asked is None or not asked.searched else [f"{policy.label}: {asked.reason}."]


def _notes(run: StreamRun) -> list[str]:
    notes = [*run.loaded.notes, run.settled.bos[0].upper() + run.settled.bos[1:] + ".", *run.special.notes()]
    context = run.loaded.context
    for label, scorer in run.scorers.items():
        policy = scorer.policy
        if isinstance(policy, Bounded) and context is not None and policy.reach + 1 > context:
            notes.append(f"{label} reaches position {policy.reach}, past the model's context of {context}.")
        if policy.grows and context is not None and run.tally.longest > context:
            goes = "stops at" if _stops(run, label) else "extrapolates past"
            notes.append(f"{label} {goes} the model's context of {context}.")
        if isinstance(policy, Recompute) and policy.every > 1:
            notes.append(f"{label} scored one token in {policy.every}.")
        notes += redistribution_notes(policy)
        notes += scorer.notes
    if run.recipe.text.each is not None and (empty := _empty(run.recipe.text.files)):
        notes.append(f"Empty, so no text of this run: {', '.join(empty)}.")
    cuts = run.shared.tokenizer.cuts
    if not cuts.bounded:
        notes.append(f"The text was held in memory whole: {cuts.reason}.")
    return notes


def _empty(files: Sequence[str]) -> list[str]:
    """Those of no bytes, by name, as a download that failed leaves them."""
    paths = [Path(name) for name in files]
    return [path.name for path in paths if path.is_file() and not path.stat().st_size]
