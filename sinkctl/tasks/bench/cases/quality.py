"""Perplexity by sinks and cache size: one stream, all policies side by side, each number exact."""

import math
from collections.abc import Iterable

import numpy as np
from torch import Tensor

from sinkctl.cache.policies import Dense, HeavyHitter, Policy, RandomKept, Recompute
from sinkctl.errors import ModelError, SinkctlError, TextError, out_of_memory
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.bench import QualityCase
from sinkctl.recipe.schema import StreamRecipe, TextSettings
from sinkctl.recipe.sizes import ALL, Size, kept_in, sizes
from sinkctl.result.bench import OURS
from sinkctl.result.stream import PolicyScore
from sinkctl.tasks.bench.beside_full import Beside, beside_full, opening
from sinkctl.tasks.bench.subject import Subject, in_words_of
from sinkctl.tasks.bench.way import Group, Reading
from sinkctl.tasks.stream import run
from sinkctl.tasks.stream.scorers import scorer_for
from sinkctl.tasks.stream.settle import resolved

STRETCHES = 20  # at least, where there are so many tokens


def group(case: QualityCase, subject: Subject, size: Size) -> Group:
    """The perplexity of one policy; the first call streams the text under all of them that can.

    SinkctlError: why this one cannot.
    """
    policy = _policy(case, size, subject.loaded.context)
    found = _scores(case, subject)[policy.label]
    if isinstance(found, SinkctlError):
        raise found
    score, stretches = found
    if score.common_perplexity is None:
        raise TextError(f"{case.label}: no token was scored by every policy; leave out a peer, or raise its limit")
    detail = {
        "setting": policy.label,
        "bytes": score.cache_bytes,
        "stretches": stretches,
        "tokens": score.common_tokens,
        "own_perplexity": score.perplexity,
        "own_tokens": score.tokens,
        "extrapolates_from": score.extrapolates_from,
    }
    way = OURS if "sinks" in size else policy.kind
    readings, choices = [Reading(way, "perplexity", "perplexity", "lower", score.common_perplexity, detail)], {}
    if case.beside_full:
        further, left_out = _further(case, subject, policy, way, score.common_perplexity)
        readings, choices = readings + further, choices | left_out
    if isinstance(policy, Recompute) and policy.window < size["cache"]:
        choices["recompute"] = f"{policy.window} tokens: with the query the model's context"
    return Group(readings=readings, choices=choices)


Scored = tuple[PolicyScore, list[float]]


def _scores(case: QualityCase, subject: Subject) -> dict[str, Scored | SinkctlError]:
    """By the policy's label, with its loss by stretch of the text; or why it has none. Remembered by the subject."""
    loaded = subject.loaded
    if loaded.tokenizer is None:
        raise ModelError(f"{loaded.name} has no tokenizer, so no text to score; give a checkpoint instead")

    def found() -> dict[str, Scored | SinkctlError]:
        left, refused = {policy.label: policy for policy in _policies(case, loaded)}, {}
        while left:
            try:
                return refused | _streamed(case, subject, left.values())
            except Exception as error:
                if out_of_memory(error):
                    problem = ModelError(f"{case.label}: {loaded.device} is out of memory")
                    out = {label: problem for label, policy in left.items() if policy.grows}
                elif isinstance(error, SinkctlError):
                    problem = _bare(error)
                    out = {label: why for label, policy in left.items() if (why := _refusal(case, policy, loaded))}
                else:
                    raise
            refused |= out or dict.fromkeys(left, problem)
            left = {label: policy for label, policy in left.items() if label not in refused}
        return refused

    return subject.once(case.model_dump_json(), found)


def _streamed(case: QualityCase, subject: Subject, policies: Iterable[Policy]) -> dict[str, Scored | SinkctlError]:
    recipe = StreamRecipe(
        model=subject.recipe.model,
        text=TextSettings(files=case.files),
        policies=tuple(policies),
        limit=case.limit,
    )
    with in_words_of(case):
        outcome = run(recipe, subject.loaded, progress=lambda now: subject.told(case.label, now.share or 0.0))
    common = np.isfinite(list(outcome.nll.values())).all(0)
    by_label = {label: _stretches(nll[common]) for label, nll in outcome.nll.items()}
    return {score.label: (score, by_label[score.label]) for score in outcome.result.stream.policies}


def _refusal(case: QualityCase, policy: Policy, loaded: LoadedModel) -> SinkctlError | None:
    """Why the model cannot be streamed under this policy, alone."""
    try:
        with in_words_of(case):
            (settled,) = resolved([policy], loaded, {})
            scorer_for(loaded, settled, bos=loaded.uses_bos)
    except SinkctlError as error:
        return _bare(error)
    return None


def _bare(error: SinkctlError) -> SinkctlError:
    """The same without its traceback, which would keep the caches that it was met with."""
    return type(error)(str(error))


def _further(
    case: QualityCase, subject: Subject, policy: Policy, way: str, perplexity: float
) -> tuple[list[Reading], dict[str, str]]:  # fmt: skip
    """Bits per byte, which compare models of other vocabularies, and what is seen beside everything kept.

    And why that was left out, where memory does not suffice for both caches.
    """
    _, rate = _opening(case, subject)
    found, said = _beside(case, subject), {"setting": policy.label}
    beside = None if isinstance(found, str) else found.get(policy.label)
    left_out = {"beside everything kept": f"left out: {found}"} if isinstance(found, str) else {}
    readings = [Reading(way, "bits_per_byte", "bits", "lower", math.log2(perplexity) * rate, said)]
    if beside is not None:
        said = said | {"tokens": beside.tokens}
        readings.append(Reading(way, "kl", "nats", "lower", beside.divergence, said))
        readings.append(Reading(way, "flips", "%", "lower", beside.flips, said))
    return readings, left_out


def _opening(case: QualityCase, subject: Subject) -> tuple[Tensor, float]:
    """What is streamed, and its tokens a byte; remembered by the subject."""
    return subject.once(f"opening {case.files} {case.limit}", lambda: opening(subject.loaded, case.files, case.limit))


def _beside(case: QualityCase, subject: Subject) -> dict[str, Beside] | str:
    """By label, of recomputation nothing, which scores some tokens only; or why there is none. Remembered too."""

    def found() -> dict[str, Beside] | str:
        subject.told(f"{case.label}: beside everything kept", 0.0)
        scored = {label for label, one in _scores(case, subject).items() if not isinstance(one, SinkctlError)}
        policies = [policy for policy in _policies(case, subject.loaded) if policy.label in scored]
        kept = [policy for policy in policies if not isinstance(policy, Recompute | Dense)]
        try:
            return beside_full(subject.loaded, kept, _opening(case, subject)[0])
        except Exception as error:
            if out_of_memory(error):
                return f"{subject.loaded.device} is out of memory"
            raise

    return subject.once(f"beside {case.model_dump_json()}", found)


def _stretches(nll: np.ndarray) -> list[float]:
    """Mean losses over stretches of one length, by which any two policies can be compared; a rest is left out."""
    length = max(1, len(nll) // STRETCHES)
    return nll[: len(nll) // length * length].reshape(-1, length).mean(1, dtype=np.float64).tolist()


def _policies(case: QualityCase, loaded: LoadedModel) -> list[Policy]:
    return [_policy(case, size, loaded.context) for size in sizes(case).values()]


def _policy(case: QualityCase, size: Size, context: int | None) -> Policy:
    """What a size stands for; recomputation re-encodes no more than the model's context."""
    if size["cache"] == ALL:
        return Dense()
    if "pinned" in size:
        chosen = {"heavy_hitter": HeavyHitter, "random": RandomKept}[size["policy"]]
        return chosen(sinks=size["pinned"], window=size["cache"] - size["pinned"], every=case.every)
    if "sinks" not in size:
        longest = size["cache"] if context is None else min(size["cache"], context - 1)
        return Recompute(sinks=0, window=longest, every=case.every)
    return kept_in(case, size)
