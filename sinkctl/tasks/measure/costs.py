"""What the sink buys: keys hidden, massive activations replaced, sinks left out of a stream, and what each costs.

N samples of T tokens, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sinkctl.cache.policies import SinkWindow
from sinkctl.errors import Interrupted, ModelError, TextError
from sinkctl.metrics.masked_key import agreement, hide, hide_nearest
from sinkctl.metrics.massive_cost import Activations, Elements, chosen, intervened, watched
from sinkctl.metrics.mixing import mixing, spread, swapped
from sinkctl.metrics.next_token import NextToken, NoInterface, Seen, next_token
from sinkctl.metrics.observe import blocks_of
from sinkctl.metrics.samples import laid_out
from sinkctl.model.kinds import WORDS
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import MeasureRecipe, StreamRecipe, TextSettings
from sinkctl.result.measure import CostLine, MixingLine
from sinkctl.tasks import stream
from sinkctl.tasks.measure.inputs import inputs
from sinkctl.tasks.measure.run import TOKENS

SINKS, WINDOW = 4, 1020  # of the published stream
LENGTH, SHORTEST = 256, 8


@dataclass(frozen=True)
class Costs:
    """What was taken away and what it cost, how a swapped token spreads, and what could not be measured."""

    lines: list[CostLine] = field(default_factory=list)
    mixing: list[MixingLine] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def costs(
    recipe: MeasureRecipe, loaded: LoadedModel, progress: Callable[[str], None], stop: Callable[[], bool]
) -> Costs:
    """Nothing for a model without a next-token loss; raises Interrupted where `stop` says so between two steps."""
    if not recipe.cost.run:
        return Costs()
    if loaded.kind != "decoder":
        said = f"costs need a next-token loss, which {WORDS[loaded.kind]} has not"
        if recipe.cost.run == "auto":
            return Costs(notes=[said[0].upper() + said[1:] + "."])
        raise ModelError(f"{loaded.name}: {said}")
    found = Costs()
    if "-" in recipe.input.files:
        found.notes.append("Costs were not measured: they read the text again, and standard input cannot be.")
        return found

    def go_on() -> None:
        if stop():
            raise Interrupted("stopped")

    try:
        ablations = _Ablations(recipe, loaded, found, progress, go_on)
        ablations.leave_out_bos()
        ablations.hide_keys()
        ablations.replace_massive()
        ablations.swap_a_token()
    except (ModelError, TextError) as error:
        found.notes.append(f"Not all costs were measured: {error}.")
    except torch.OutOfMemoryError:
        found.notes.append(
            f"Not all costs were measured: {loaded.device} is out of memory; --batch takes fewer samples."
        )
    go_on()
    progress("streaming without sinks")
    _stream(recipe, loaded, found, stop)
    return found


class _Ablations:
    """Samples, what the model makes of them as it is, and what it makes of them with something taken away.

    All lines score the same tokens: the second half of each sample, which every hidden key comes before.
    """

    def __init__(
        self, recipe: MeasureRecipe, loaded: LoadedModel, found: Costs, progress: Callable[[str], None],
        go_on: Callable[[], None],
    ):  # fmt: skip
        self.recipe, self.loaded, self.model, self.found = recipe, loaded, loaded.model, found
        self.progress, self.go_on = progress, go_on
        self.ids_NT, self.bos = _samples(recipe, loaded, found.notes)
        self.half = self.ids_NT.shape[1] // 2
        self.targets = self.ids_NT[:, self.half + 1 :].numel()
        self.scored = f"{self.targets:,} next tokens, the second halves of {len(self.ids_NT)} samples"
        progress("nothing taken away")
        self.plain: Seen | None = hide(range(0))
        try:
            self.baseline, self.blocks = self._watched()
        except NoInterface as error:
            found.notes.append(f"Keys were not hidden: {error}.")
            self.plain = None
            self.baseline, self.blocks = self._watched()
        self.perplexity = self._perplexity(self.baseline)
        if self.perplexity is None:
            raise ModelError(
                f"{loaded.name}: the loss is no finite number in {_named(loaded.dtype)}; try --dtype float32"
            )

    def hide_keys(self) -> None:
        """Lines for the first key, the first few, as many further on, and the nearest."""
        if self.plain is None:
            return
        T, keys = self.ids_NT.shape[1], min(self.recipe.sinks, self.ids_NT.shape[1] // SHORTEST)
        s, number = ("", "") if keys == 1 else ("s", f"{keys} ")
        middle = T // 4 - keys // 2  # of what all scored tokens come after
        self._line("first key hidden", "key 0 hidden from every later query", hide(range(1)))
        if keys > 1:
            self._line(f"first {keys} keys hidden", f"keys 0 to {keys - 1} hidden", hide(range(keys)))
        what = f"{_span('key', middle, keys)} of {T} hidden"
        self._line(f"{keys} middle key{s} hidden", what, hide(range(middle, middle + keys)))
        what = f"the {number}key{s} before each query hidden from it, the query's own key kept"
        self._line(f"{keys} nearest key{s} hidden", what, hide_nearest(keys))
        asked, blocks = self.baseline.attentions, len(blocks_of(self.model))
        if asked < blocks:
            note = f"Keys were hidden in the {asked} softmax attention layers, of {blocks} layers."
            self.found.notes.append(note)

    def replace_massive(self) -> None:
        """Lines for massive activations at zero and at their means."""
        elements = chosen(self.blocks)
        if elements is None:
            self.found.notes.append("Massive activations were not replaced: text goes through one block alone.")
            return
        what = _described(elements)
        name = "massive" if elements.massive else "largest"
        with intervened(self.model, elements, torch.zeros(len(elements.places))) as before_NK:
            self._line(f"{name} activations zeroed", f"{what}, set to 0")
        before_NK = torch.cat(before_NK)
        if torch.equal(before_NK, before_NK[:1].expand_as(before_NK)):  # a first token that sees only itself
            self.found.notes.append(f"The {name} activations are the same in every sample: their mean changes nothing.")
            return
        with intervened(self.model, elements, before_NK.mean(0)):
            self._line(f"{name} activations at their mean", f"{what}, set to their mean over the samples")

    def swap_a_token(self) -> None:
        """How far one token spreads, with the first key and without it: without BOS, or with the key hidden."""
        place = max(2, self.ids_NT.shape[1] // 4)
        other_NT = swapped(self.ids_NT, place, self.recipe.input.seed)
        self._mixing("with BOS" if self.bos else "no BOS", place, self.ids_NT, other_NT, self.plain)
        if self.bos:
            self._mixing("without BOS", place - 1, self.ids_NT[:, 1:], other_NT[:, 1:], self.plain)
        elif self.plain is not None:
            self._mixing("no BOS, first key hidden", place, self.ids_NT, other_NT, hide(range(1)))

    def leave_out_bos(self) -> None:
        """A line for the same tokens without the BOS before them."""
        if self.bos:
            self._line("BOS left out", "samples without the BOS token", ids_NT=self.ids_NT[:, 1:])

    def _watched(self) -> tuple[NextToken, list[Activations]]:
        massive = self.recipe.massive
        with watched(self.model, massive.size, massive.ratio) as blocks:
            return self._run(self.plain), blocks

    def _run(self, also: Seen | None, ids_NT: Tensor | None = None) -> NextToken:
        ids_NT = self.ids_NT if ids_NT is None else ids_NT
        runs = [next_token(self.model, laid_out(ids, self.loaded.device), also) for ids in self._batches(ids_NT)]
        nll, last, attentions = zip(*runs, strict=True)
        return NextToken(torch.cat([x.cpu() for x in nll]), torch.cat([x.cpu() for x in last]), attentions[0])

    def _batches(self, ids_NT: Tensor, copies: int = 1) -> Iterator[Tensor]:
        size, tokens = self.recipe.batch, TOKENS.get(self.loaded.device.type, TOKENS["cpu"])
        rows = tokens // ids_NT.shape[1] if size == "auto" else size
        for batch in ids_NT.split(max(1, rows // copies)):
            self.go_on()
            yield batch

    def _line(self, name: str, what: str, also: Seen | None = None, ids_NT: Tensor | None = None) -> None:
        self.progress(name)
        changed = self._run(self.plain if also is None else also, ids_NT)
        perplexity, kl, top5 = self._perplexity(changed), None, None
        if perplexity is None:
            self.found.notes.append(f"{name}: the loss is no finite number in {_named(self.loaded.dtype)}.")
        else:
            kl, top5 = (float(x_N.mean()) for x_N in agreement(self.baseline.last_NV, changed.last_NV))
        line = CostLine(
            name=name, what=f"{what}; {self.scored}", tokens=self.targets, perplexity=perplexity,
            baseline=self.perplexity, kl=kl, top5=top5,
        )  # fmt: skip
        self.found.lines.append(line)

    def _perplexity(self, run: NextToken) -> float | None:
        scored = self.ids_NT.shape[1] - 1 - self.half  # the last of each sample, whatever stands before them
        perplexity = float(run.nll_NT[:, -scored:].double().mean().exp())
        return perplexity if math.isfinite(perplexity) else None

    def _mixing(self, name: str, place: int, ids_NT: Tensor, other_NT: Tensor, also: Seen | None) -> None:
        self.progress(f"one token swapped, {name}")
        pairs = zip(self._batches(ids_NT, 2), self._batches(other_NT, 2), strict=True)
        change_LNT = torch.cat([spread(self.model, ids, other, also) for ids, other in pairs], dim=1)
        self.found.mixing.append(MixingLine(name=name, change=mixing(change_LNT, place)))


def _samples(recipe: MeasureRecipe, loaded: LoadedModel, notes: list[str]) -> tuple[Tensor, bool]:
    """(natural samples of one length, whether BOS begins them)."""
    cost, context = recipe.cost, loaded.context
    length = LENGTH if cost.length == "auto" else cost.length
    if context is not None and length > context:
        if cost.length != "auto":
            notes.append(f"Costs: samples of {context} tokens, the model's context.")
        length = context
    bos = recipe.input.bos if recipe.input.bos in ("on", "off") else "auto"
    shown = recipe.input.model_copy(update=dict(kinds=("natural",), samples=cost.samples, length=length, bos=bos))
    found = inputs(recipe.model_copy(update={"input": shown}), loaded)[0]
    if found.note is not None:
        notes.append(f"Costs: {found.note.rstrip('.')}.")
    # As long as half of the samples at least, where a text has shorter ones.
    lengths = sorted((len(ids) for ids in found.samples), reverse=True)
    length = lengths[(len(lengths) - 1) // 2]
    if length < SHORTEST:
        raise TextError(f"samples of {length} tokens are too short, {SHORTEST} or more are needed")
    return torch.stack([ids[:length] for ids in found.samples if len(ids) >= length]), bool(found.bos)


def _described(elements: Elements) -> str:
    """3 elements of token 0 after layer 5 (channels 7, 28 and 67), and whether they are massive."""
    tokens, channels = (sorted(set(x)) for x in zip(*elements.places, strict=True))
    count = len(elements.places)
    said = f"{count} element{'s' * (count > 1)} after layer {elements.layer}: {_list('token', tokens)}, "
    said += _list("channel", channels)
    return said if elements.massive else f"{said} (the largest of the first token, not massive by the definition)"


def _list(word: str, numbers: list[int], most: int = 6) -> str:
    """token 0; channels 7, 28, 67, …"""
    shown = ", ".join(map(str, numbers[:most])) + (", …" if len(numbers) > most else "")
    return f"{word}{'s' * (len(numbers) > 1)} {shown}"


def _span(word: str, first: int, count: int) -> str:
    return f"{word} {first}" if count == 1 else f"{word}s {first} to {first + count - 1}"


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _stream(recipe: MeasureRecipe, loaded: LoadedModel, found: Costs, stop: Callable[[], bool]) -> None:
    """The line for a cache of 0+(W+4) against 4+W, or a note of why there is none."""
    cost, text, context = recipe.cost, recipe.input, loaded.context
    window = cost.window
    if window == "auto":
        window = WINDOW if context is None else max(1, min(WINDOW, context // 2, context - SINKS - 1))
    kept, bare = SinkWindow(sinks=SINKS, window=window), SinkWindow(sinks=0, window=SINKS + window)
    asked = StreamRecipe(
        model=recipe.model,
        text=TextSettings(
            files=text.files,
            field=text.field,
            errors=text.errors,
            bos={"on": "always", "off": "never"}.get(text.bos, "auto"),
        ),
        policies=(kept, bare),
        limit=16 * window if cost.tokens == "auto" else cost.tokens,
    )
    try:
        scores = {p.label: p for p in stream.run(asked, loaded, stop=stop).result.stream.policies}
    except Interrupted:
        raise Interrupted("stopped") from None
    except (ModelError, TextError) as error:
        found.notes.append(f"Nothing was streamed: {error}.")
        return
    tokens = scores[kept.label].common_tokens
    if tokens <= SINKS + window:
        found.notes.append(f"Nothing was streamed: the text's {tokens:,} tokens do not fill a cache of {kept.label}.")
        return
    line = CostLine(
        name=f"0+W instead of {SINKS}+W",
        what=f"{tokens:,} tokens streamed with a cache of {bare.label} instead of {kept.label}",
        tokens=tokens,
        perplexity=scores[bare.label].common_perplexity,
        baseline=scores[kept.label].common_perplexity,
    )
    found.lines.append(line)
