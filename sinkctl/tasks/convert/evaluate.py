"""What a checkpoint does before and after, on held-out text.

Shapes: B samples, T tokens, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from sinkctl.cache.policies import SinkWindow
from sinkctl.metrics import ATTENTION, BLOCK
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import EvaluationSettings, MeasureRecipe
from sinkctl.result.convert import (
    CONTROL,
    CONVERTED,
    ORIGINAL,
    START,
    CheckpointLine,
    RoundedLine,
    StreamedLine,
)
from sinkctl.result.measure import InputScore
from sinkctl.sinks import Sink
from sinkctl.tasks.convert.rounded import ROUNDED, rounded_line, ways
from sinkctl.tasks.convert.streamed import Fed, losses, perplexity, streamed_line
from sinkctl.tasks.measure.input_set import InputSet
from sinkctl.tasks.measure.run import InputRun
from sinkctl.tasks.measure.settle import settle
from sinkctl.tasks.pace import INPUT, STREAMED
from sinkctl.tasks.stopping import go_on, stoppable

SINK_SAMPLES, SINK_LENGTH = 100, 64  # of the field's Sink_1
PREDICTED = 2.0  # what a token whose logits are compared costs beside one of a plain forward pass, roughly
LOGITS = 1 << 27  # at once, on a GPU
# Of the metrics of attention and of blocks; the others take seconds and are in no table here.
ATTENDED = ("alpha", "mass_split", "learned_mass", "learned_sinks", "entropy_share", "gate")
SHOWN = ("massive", "outliers")


@dataclass
class Evaluation:
    """Lines of the tables, and what could not be had."""

    streams: list[StreamedLine] = field(default_factory=list)
    checkpoints: list[CheckpointLine] = field(default_factory=list)
    rounded: list[RoundedLine] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    streamed: int = 0
    scored: int = 0

    def join(self, other: "Evaluation") -> None:
        """Add what another process found of other checkpoints."""
        for name in ("streams", "checkpoints", "rounded"):
            getattr(self, name).extend(getattr(other, name))
        self.notes += [note for note in other.notes if note not in self.notes]
        self.streamed = max(self.streamed, other.streamed)

    def ordered(self) -> "Evaluation":
        """The same, checkpoints in the order in which they came to be."""
        order = (ORIGINAL, START, CONVERTED, CONTROL).index
        tables = {name: getattr(self, name) for name in ("streams", "checkpoints", "rounded")}
        ordered = {name: sorted(lines, key=lambda line: order(line.checkpoint)) for name, lines in tables.items()}
        return replace(self, **ordered)


class Judge:
    """Holds checkpoints against the same held-out text, one after the other; `found` has the lines of all."""

    def __init__(
        self, sink: Sink, reference: LoadedModel | None, held_out_T: Tensor, window: int,
        settings: EvaluationSettings, stop: Callable[[], bool],
    ):  # fmt: skip
        self._sink, self._held_out_T, self._window, self._stop = sink, held_out_T, window, stop
        self._reference = None if reference is None else Fed.of(ORIGINAL, reference)
        self._bodies = _spread(held_out_T, settings.samples, settings.length - 1)
        self._half, self._bits = len(self._bodies[0]) // 2, settings.kv_bits
        self._short = _spread(held_out_T, SINK_SAMPLES, SINK_LENGTH)
        self.found = Evaluation(scored=sum(len(body) - self._half - 1 for body in self._bodies))

    def __call__(
        self, label: str, loaded: LoadedModel, told: Callable[[str, float], None], named: str | None = None
    ) -> None:
        """Stream the checkpoint with a cache of `window` tokens, and show it the samples."""
        fed = Fed.of(label, loaded, named)
        kept, four, none = (SinkWindow(sinks=s, window=self._window - s) for s in (1, min(4, self._window - 1), 0))
        streams = [(fed, kept)] if fed.front or label == ORIGINAL else []
        streams += [(fed, four)] if fed.front or label in (ORIGINAL, CONVERTED, CONTROL) else []
        streams += [(fed.bare, none)]
        shown = [fed, *([fed.bare] if fed.front and label == ORIGINAL else [])]
        samples = sum(map(len, self._bodies))
        bits = () if label == START else self._bits
        rounded = sum(len(bits) * (1 + policy.sinks) for _, policy in streams if policy != four)
        work = judged(len(streams), rounded, len(self._held_out_T), len(shown), samples)
        steps = _Steps(work, told, self._stop)
        with stoppable(loaded.model, self._stop):
            for each, policy in streams:
                steps(f"streaming {label}, {policy.label}")
                self._stream(each, policy, () if policy == four else bits, steps)
            for each in shown:
                self.found.checkpoints.append(self._sampled(each, steps))

    def _stream(self, fed: Fed, policy: SinkWindow, bits: Sequence[int | str], steps: "_Steps") -> None:
        """In full, and with keys and values in so many bits."""
        held_out_T, window, notes = self._held_out_T, self._window, self.found.notes
        full_T = losses(fed, policy, held_out_T, window, notes, lambda tokens: steps.ran(STREAMED * tokens))
        line = streamed_line(fed, policy, full_T)
        self.found.streams.append(line)
        if full_T is None:
            return
        self.found.streamed, each = len(full_T), ways(fed.loaded, policy, bits)
        if bits and not each:
            notes.append(f"Keys and values of the {fed.label} were not rounded: no group divides its heads.")
        for way in each:
            steps(f"streaming {fed.label}, {way.label}")
            nll_T = losses(fed, way, held_out_T, window, notes, lambda tokens: steps.ran(ROUNDED * tokens))
            self.found.rounded.append(rounded_line(line, full_T, way, nll_T))

    def _sampled(self, fed: Fed, steps: "_Steps") -> CheckpointLine:
        """What it makes of the samples."""
        steps(f"{fed.label} ({fed.first} in front): samples")
        loss, kl = _predicted(fed, self._reference, self._bodies, self._half, steps.ran)
        steps(f"{fed.label} ({fed.first} in front): sinks")
        score, _ = _shown(fed, self._short, self._stop)
        steps.ran(INPUT * SINK_SAMPLES * SINK_LENGTH)
        sinks = _sinks(fed, self._sink, score)
        return CheckpointLine(checkpoint=fed.label, first=fed.first, perplexity=perplexity(loss), kl=kl, **sinks)

    def glance(self, label: str, loaded: LoadedModel) -> dict[str, float | None]:
        """A `Probe` of a checkpoint that is being trained."""
        fed = Fed.of(label, loaded)
        loss, _ = _predicted(fed, None, self._bodies, self._half, lambda tokens: go_on(self._stop))
        score, arrays = _shown(fed, self._short, self._stop)
        sinks = _sinks(fed, self._sink, score)
        rate = arrays.get("learned_sinks")
        if rate is None and self._sink.kind == "sink_token" and label == CONVERTED:
            mechanism, sinks["sink_percent"] = sinks["sink_percent"], None  # the first token is the mechanism
        else:
            mechanism = None if rate is None or label != CONVERTED else 100 * float(rate.nanmean())
        names = ("sink_percent", "mechanism_mass", "massive", "massive_ratio", "kurtosis")
        mean = float(loss.astype(np.float64).mean())
        return {
            "loss": mean if math.isfinite(mean) else None,
            "mechanism_percent": mechanism,
            **{name: sinks[name] for name in names},
        }


def judged(streams: int, rounded: int, held_out: int, shown: int, samples: int) -> float:
    """Of so many streams, in full and rounded, and of what is shown samples of so many tokens, so many times."""
    streaming = (streams * STREAMED + rounded * ROUNDED) * held_out
    return streaming + shown * (PREDICTED * samples + INPUT * SINK_SAMPLES * SINK_LENGTH)


class _Steps:
    """Says what is under way and the share done, of `work` tokens of a plain forward pass; asks whether to stop."""

    def __init__(self, work: float, told: Callable[[str, float], None], stop: Callable[[], bool]):
        self._work, self._told, self._stop = work, told, stop
        self._done, self._what = 0.0, ""

    def __call__(self, what: str) -> None:
        self._what = what
        self.ran(0.0)

    def ran(self, work: float) -> None:
        go_on(self._stop)
        self._done += work
        self._told(self._what, min(1.0, self._done / self._work))


def _spread(ids_T: Tensor, count: int, length: int) -> list[Tensor]:
    """At most `count` pieces, evenly over the text; all of a shorter one."""
    length = min(length, len(ids_T))
    places = len(ids_T) // length
    count = min(count, places)
    return [ids_T[start : start + length] for start in (number * places // count * length for number in range(count))]


@torch.no_grad()
def _predicted(
    fed: Fed, reference: Fed | None, bodies: Sequence[Tensor], half: int, ran: Callable[[float], None]
) -> tuple[np.ndarray, float | None]:
    """(NLL of the second halves, mean KL from the reference in nats a token), by the stock models' own forward."""
    losses, divergences, rows = [], [], _rows_at_once(fed, bodies)
    for first in range(0, len(bodies), rows):
        body_BT = torch.stack(list(bodies[first : first + rows]))  # one length, `_spread` says
        log_BTV = _log_probabilities(fed, body_BT, half)
        target_BT1 = body_BT[:, half + 1 :, None].to(log_BTV.device)
        losses.append(-log_BTV.gather(2, target_BT1).flatten().double().cpu().numpy())
        if reference is not None and (fed.loaded is not reference.loaded or fed.front != reference.front):
            ours_BTV = _log_probabilities(reference, body_BT, half)
            vocabulary = min(ours_BTV.shape[2], log_BTV.shape[2])  # a sink token may have added a row
            ours_BTV, log_BTV = ours_BTV[..., :vocabulary], log_BTV[..., :vocabulary]
            divergences.append((ours_BTV.exp() * (ours_BTV - log_BTV)).sum(-1).flatten().double().cpu().numpy())
        ran(PREDICTED * body_BT.numel())
    kl = float(np.concatenate(divergences).mean()) if divergences else math.nan
    return np.concatenate(losses), max(0.0, kl) if math.isfinite(kl) else None  # rounding aside it is positive


def _rows_at_once(fed: Fed, bodies: Sequence[Tensor]) -> int:
    """How many bodies a forward pass takes: a GPU waits for launches with one; on a CPU it is as fast."""
    if fed.loaded.device.type == "cpu":
        return 1
    return max(1, LOGITS // (fed.loaded.rows * (len(fed.front) + len(bodies[0]))))


def _log_probabilities(fed: Fed, body_BT: Tensor, half: int) -> Tensor:
    """Of what follows tokens half … end−1 of each body, float32 or wider: [B, T, V]."""
    ids_BT = torch.stack([fed.ids(body_T) for body_T in body_BT]).to(fed.loaded.device)
    logits_BTV = fed.loaded.model(input_ids=ids_BT, use_cache=False).logits[:, len(fed.front) + half : -1]
    return logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32)).log_softmax(-1)


def _shown(fed: Fed, bodies: Sequence[Tensor], stop: Callable[[], bool]) -> tuple[InputScore, dict[str, Tensor]]:
    """What `sinkctl measure` finds on samples of its usual length: its score, its arrays."""
    samples = [fed.ids(body_T)[:SINK_LENGTH] for body_T in bodies]
    shown = InputSet("natural", "natural", bool(fed.front), samples, lambda sample, index: str(index))
    run = InputRun(settle(MeasureRecipe()), fed.loaded, shown)
    run.tally.attention_metrics = {name: ATTENTION[name] for name in ATTENDED}
    run.tally.block_metrics = {name: BLOCK[name] for name in SHOWN}
    return run(lambda share: None, stop)


def _sinks(fed: Fed, sink: Sink, score: InputScore) -> dict[str, float | int | None]:
    massive = [
        layer.massive for layer in score.layers if layer.massive is not None and layer.massive.top[0] is not None
    ]
    largest = max(massive, key=lambda one: one.top[0], default=None)
    ratios = [one.top[0] / one.median for one in massive if one.median]
    return {
        "sink_percent": score.sinks[0].percent,
        "alpha_max": score.alpha_max,
        "mechanism_mass": _taken(sink, score) if fed.label in (START, CONVERTED) else None,
        "massive": None if largest is None else largest.top[0],
        "massive_ratio": max(ratios, default=None),
        "massive_largest": max((one.largest for one in massive), default=None),
        "massive_layers": len(score.massive_layers),
        "kurtosis": max((layer.kurtosis for layer in score.layers if layer.kurtosis is not None), default=None),
    }


def _taken(sink: Sink, score: InputScore) -> float | None:
    """Attention the mechanism takes, a mean over the layers that have it."""
    if sink.kind == "gate" and sink.start == "exact":
        return None  # half of everything, which doubled projections make good
    if sink.kind == "gate":
        taken = [1 - layer.gate for layer in score.layers if layer.gate is not None]
    elif sink.whole_rows or hasattr(sink, "mix"):
        taken = [
            1 - layer.sinks_mass - layer.local_mass - layer.rest_mass
            for layer in score.layers
            if layer.rest_mass is not None
        ]
    else:
        taken = [layer.learned_mass for layer in score.layers if layer.learned_mass is not None]
    mean = sum(taken) / len(taken) if taken else None
    return mean if mean is None or mean >= 0 else None  # keys may receive more than 1 in all
