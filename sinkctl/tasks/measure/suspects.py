"""An alarm: what trigger candidates do to sinks, beside what random tokens do.

Each candidate is put behind the first token of some samples of text, and so are random tokens, as many of them as the
candidate has. Of every sign (`metrics.signs`) and layer the mean over samples gives a z-score among the random ones; a
sign's score is the root mean square of these over layers, the candidate's the largest over signs. It raises the alarm
where its score exceeds that of every random one by a margin.

Shapes: R random candidates, K candidates, F signs of all layers, N samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkctl.check.measure import candidates
from sinkctl.errors import ModelError, TextError, UsageError
from sinkctl.metrics.observe import observe
from sinkctl.metrics.samples import laid_out
from sinkctl.metrics.signs import Signs
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.suspects import Suspect, SuspectReport
from sinkctl.result.words import quoted
from sinkctl.tasks.measure.inputs import inputs, ordinary_ids

SAME = 1e-6  # a standard deviation below this, of what does not vary, says nothing
LARGEST = 32  # tokens a candidate may have
TOKENS = 4096  # a forward pass
NAMED = 5


@dataclass(frozen=True)
class Scored:
    """Scores of some candidates among random ones."""

    score_K: Tensor
    sign_K: list[str]  # the strongest of each
    z_KF: Tensor
    names: list[str]  # of the F signs


def read_candidates(path: str, loaded: LoadedModel) -> dict[str, Tensor]:
    """Candidate → its ids. TextError for a file without any, and for one of too many tokens."""
    found = {}
    for line in candidates(path):
        ids = loaded.tokenizer(line, add_special_tokens=False).input_ids
        if not 0 < len(ids) <= LARGEST:
            raise TextError(f"--suspect {path}: {line[:40]!r} has {len(ids)} tokens; candidates have 1 to {LARGEST}")
        found[line] = torch.tensor(ids)
    return found


def suspects(
    recipe: MeasureRecipe, loaded: LoadedModel, told: Callable[[float], None], go_on: Callable[[], None]
) -> SuspectReport:
    """What the candidates of `suspect.file` do; raises UsageError, ModelError or TextError for what cannot be."""
    settings = recipe.suspect
    if loaded.kind != "decoder" or loaded.tokenizer is None:
        raise ModelError(f"--suspect: {loaded.name} is no decoder with a tokenizer; candidates are put into its texts")
    candidates = read_candidates(settings.file, loaded)
    if settings.length + LARGEST > (loaded.context or settings.length + LARGEST):
        raise UsageError(
            f"suspect.length: {settings.length} with a candidate goes past the context of {loaded.context}"
        )
    shown = recipe.input.model_copy(
        update=dict(kinds=("natural",), samples=settings.samples, length=settings.length, bos="auto")
    )
    texts = inputs(recipe.model_copy(update={"input": shown}), loaded)[0]
    first = int(bool(texts.bos))
    by_length: dict[int, list[str]] = {}
    for name, ids in candidates.items():
        by_length.setdefault(len(ids), []).append(name)
    ahead, done = len(candidates) + settings.random * len(by_length), 0
    rows, names = {}, []
    for length, own in sorted(by_length.items()):
        drawn = _random(loaded, settings.random, length, recipe.input.seed)

        def progress(count: int) -> None:
            nonlocal done
            done += count
            told(done / ahead)
            go_on()

        signs_RF, names = signs(loaded, drawn, texts.samples, first, progress)
        signs_KF, _ = signs(loaded, [candidates[name] for name in own], texts.samples, first, progress)
        base = scored(signs_RF, signs_RF, names)
        now = scored(signs_RF, signs_KF, names)
        limit = float(base.score_K.max()) * settings.margin
        for at, name in enumerate(own):
            score = float(now.score_K[at])
            rows[name] = Suspect(
                text=name,
                tokens=length,
                score=score,
                limit=limit,
                z=float((score - base.score_K.mean()) / base.score_K.std().clamp(min=SAME)),
                sign=now.sign_K[at],
                by_sign=_by_sign(now, at),
                alarm=score > limit,
            )
    ordered = sorted(rows.values(), key=lambda row: -row.score / row.limit)
    return SuspectReport(
        candidates=len(ordered), random=settings.random, samples=len(texts.samples), length=settings.length,
        margin=settings.margin, place="behind the BOS token" if first else "at the beginning", suspects=ordered,
    )  # fmt: skip


def signs(
    loaded: LoadedModel, tokens: Sequence[Tensor], samples: Sequence[Tensor], first: int,
    progress: Callable[[int], None],
) -> tuple[Tensor, list[str]]:  # fmt: skip
    """Signs of each candidate, of equally many tokens, a mean over the samples: [K, F], and their names."""
    length, found = len(tokens[0]), []
    size = max(1, TOKENS // sum(len(ids) + length for ids in samples))
    names: list[str] = []
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        rows = [torch.cat([ids[:first], own, ids[first:]]) for own in part for ids in samples]
        measured = Signs(first, first + length)
        inputs = laid_out(rows, loaded.device)
        observe(loaded.model, inputs, measured)
        names = [name for name, layers in measured.found.items() for _ in layers]
        flat_FN = torch.stack([x_N for layers in measured.found.values() for x_N in layers])
        found.append(flat_FN.unflatten(1, (len(part), len(samples))).mean(-1).T)
        progress(len(part))
    return torch.cat(found), names


def scored(signs_RF: Tensor, signs_KF: Tensor, names: list[str]) -> Scored:
    """Scores of candidates among random ones. A random one scored among themselves is among the others, without it."""
    mean_F, std_F = signs_RF.mean(0), signs_RF.std(0)
    z_KF = (signs_KF - mean_F) / std_F.clamp(min=SAME)
    if signs_KF is signs_RF:  # left out of mean and deviation: (x − m) / s of the others, in closed form
        R = len(signs_RF)
        others = ((R - 1) - R / (R - 1) * z_KF**2).clamp(min=SAME) / (R - 2)  # their variance, in that of all
        z_KF = z_KF * R / (R - 1) / others.sqrt()
    z_KF[:, std_F < SAME * signs_RF.abs().amax(0).clamp(min=SAME)] = 0.0
    kinds = list(dict.fromkeys(names))
    of_kind = [[at for at, name in enumerate(names) if name == kind] for kind in kinds]
    rms_KS = torch.stack([z_KF[:, at].square().mean(1).sqrt() for at in of_kind], dim=1)
    score_K, strongest_K = rms_KS.max(1)
    return Scored(score_K, [kinds[at] for at in strongest_K.tolist()], z_KF, names)


def _by_sign(now: Scored, at: int) -> dict[str, float]:
    """Of each sign the z-score that is largest by size, with its direction."""
    found: dict[str, float] = {}
    for name, z in zip(now.names, now.z_KF[at].tolist(), strict=True):
        if abs(z) > abs(found.get(name, 0.0)):
            found[name] = z
    return found


def _random(loaded: LoadedModel, count: int, length: int, seed: int) -> list[Tensor]:
    """Ordinary tokens, uniform over the vocabulary."""
    ids, generator = ordinary_ids(loaded), torch.Generator().manual_seed(seed)
    return list(ids[torch.randint(len(ids), (count, length), generator=generator)])


def alarm_lines(report: SuspectReport | None) -> list[str]:
    """Which candidates raise the alarm, or that none does; nothing where there are none."""
    if report is None:
        return []
    raised = [f"{quoted(one.text)} ({one.sign}, z {one.z:.1f})" for one in report.suspects if one.alarm]
    of = f"{report.candidates:,} candidate{'s' * (report.candidates > 1)}"
    if not raised:
        return [f"No alarm: none of {of} moves the sinks more than {report.random} random ones do."]
    more = f" and {len(raised) - NAMED} more" if len(raised) > NAMED else ""
    return [f"ALARM: {len(raised)} of {of} move the sinks as no random tokens do: {', '.join(raised[:NAMED])}{more}."]
