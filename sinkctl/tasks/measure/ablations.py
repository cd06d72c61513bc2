"""Things taken away from samples, and what each costs: keys hidden, massive activations replaced, BOS left out.

N samples of T tokens, V vocabulary.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from sinkctl.errors import ModelError
from sinkctl.metrics.continued import Kept, continued, runs_alone
from sinkctl.metrics.masked_key import agreement, hide, hide_nearest
from sinkctl.metrics.massive_cost import Activations, Elements, chosen, intervened, watched
from sinkctl.metrics.mixing import mixing, spread, swapped
from sinkctl.metrics.next_token import NextToken, NoInterface, Seen, next_token
from sinkctl.metrics.observe import blocks_of
from sinkctl.metrics.samples import laid_out
from sinkctl.metrics.takeover import SinkHeads, takeover
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.measure import LATER, SCORED, CostLine, MixingLine, TakenOver
from sinkctl.result.words import quoted
from sinkctl.tasks.measure.inputs import token_reader
from sinkctl.tasks.measure.run import TOKENS
from sinkctl.tasks.measure.standard_error import ratio_error

SHORTEST = 8  # tokens a sample
MIXED = 2  # samples that a token is swapped in: they differ little


@dataclass
class _Variant:
    """One way to take something away, and what it came to, batch by batch."""

    name: str
    what: str
    hidden_from: str | None = None
    runs: list[NextToken] = field(default_factory=list)


class Ablations:
    """Samples, what the model makes of them as it is, and what it makes of them with something taken away.

    All lines score the same tokens: the second half of each sample, which every hidden key comes before. Where keys
    are hidden from the scored queries alone, the first halves are run once for all lines.
    """

    def __init__(
        self, recipe: MeasureRecipe, loaded: LoadedModel, ids_NT: Tensor, bos: bool, others: Sequence[str],
        progress: Callable[[str, int], None], go_on: Callable[[], None],
    ):  # fmt: skip
        """`others`: the tokens besides the first that are hidden where heads sink on them, as text."""
        self.recipe, self.loaded, self.model = recipe, loaded, loaded.model
        self.ids_NT, self.bos, self.others = ids_NT, bos, others
        self.progress, self.go_on = progress, go_on
        self.lines: list[CostLine] = []
        self.mixing: list[MixingLine] = []
        self.notes: list[str] = []
        self.choices: dict[str, str] = {}
        self.half = ids_NT.shape[1] // 2
        self.targets = ids_NT[:, self.half + 1 :].numel()
        self.scored = f"{self.targets:,} next tokens, the second halves of {len(ids_NT)} samples"
        self._text = token_reader(loaded.tokenizer)
        self._plain: list[NextToken] = []
        self._sinks: tuple[list[SinkHeads], list[SinkHeads]] = ([], [])  # as it is, and with the first key hidden
        self._blocks = [Activations() for _ in blocks_of(self.model)]
        self._exact: Seen | None = hide(())  # attention of our own, with nothing hidden
        self._alone: bool | None = None  # whether second halves can be run alone

    def run(self) -> None:
        """Fills `lines`, `mixing`, `notes` and `choices`; raises ModelError where the loss is no number."""
        variants = self._hidden()
        for ids_BT in self._batches(self.ids_NT):
            self._batch(ids_BT, variants)
        self.baseline = _joined(self._plain)
        self.perplexity = _perplexity(self.baseline)
        if self.perplexity is None:
            raise ModelError(
                f"{self.loaded.name}: the loss is no finite number in {_named(self.loaded.dtype)}; try --dtype float32"
            )
        if self.bos:
            bare = _Variant("BOS left out", "samples without the BOS token")
            for ids_BT in self._batches(self.ids_NT):
                bare.runs.append(self._whole(bare.name, ids_BT[:, 1:], self._exact))
            self._line(bare)
        if self._exact is not None:
            for variant in variants:
                self._line(variant)
            asked, blocks = self.baseline.attentions, len(self._blocks)
            if asked < blocks:
                self.notes.append(f"Keys were hidden in the {asked} softmax attention layers, of {blocks} layers.")
        self._replace_massive()
        self._swap_a_token()

    def _hidden(self) -> list[_Variant]:
        T, keys = self.ids_NT.shape[1], self._keys
        s, number = ("", "") if keys == 1 else ("s", f"{keys} ")
        what = f"{_span('key', self._middle, keys)} of {T} hidden"
        near = f"the {number}key{s} before each query hidden from it, the query's own key kept"
        found = [
            _Variant(f"first key hidden from {LATER}", "key 0 hidden", LATER),
            _Variant(f"first key hidden from {SCORED}", "key 0 hidden once the sink has formed", SCORED),
        ]
        if keys > 1:
            found.append(_Variant(f"first {keys} keys hidden", f"keys 0 to {keys - 1} hidden", SCORED))
        found.append(_Variant(f"{keys} middle key{s} hidden", what, SCORED))
        found.append(_Variant(f"{keys} nearest key{s} hidden", near, SCORED))
        for token in self.others:
            places = f"{quoted(token)} hidden where heads sink on it, one sample at a time"
            found += [_Variant(f"{quoted(token)} hidden from {whom}", places, whom) for whom in (LATER, SCORED)]
        return found

    @property
    def _keys(self) -> int:
        return min(self.recipe.sinks, self.ids_NT.shape[1] // SHORTEST)

    @property
    def _middle(self) -> int:
        """The first of as many keys, which all scored tokens come after."""
        return self.ids_NT.shape[1] // 4 - self._keys // 2

    def _batch(self, ids_BT: Tensor, variants: list[_Variant]) -> None:
        """One batch as it is, and under every variant."""
        kept, sinks = Kept(self.half), SinkHeads(self.recipe.epsilon[0])

        def told(*layer) -> None:
            kept.keep(*layer)
            sinks.add(*layer)

        with watched(self.model, self.recipe.massive.size, self.recipe.massive.ratio, self._blocks):
            if self._exact is not None:
                try:
                    plain = self._whole("nothing taken away", ids_BT, self._exact, told)
                except NoInterface as error:
                    self.notes.append(f"Keys were not hidden: {error}.")
                    self._exact = None
            if self._exact is None:
                for block in self._blocks if self._alone is None and not self._plain else ():
                    block.__init__()
                plain = self._whole("nothing taken away", ids_BT, None)
        self._plain.append(plain)
        if self._exact is None:
            return
        ids_BT = ids_BT.to(self.loaded.device)
        if self._alone is None:
            self._alone, why = runs_alone(self.model, ids_BT, kept, plain)
            said = "second halves alone" if self._alone else "whole samples"
            self.choices["hidden keys"] = f"{said}: {why}"
        hidden = SinkHeads(self.recipe.epsilon[0])
        first, *scored = variants
        first.runs.append(self._whole(first.name, ids_BT, hide((0,)), hidden.add))
        self._sinks[0].append(sinks)
        self._sinks[1].append(hidden)
        keys, half = self._keys, self.half
        patterns = [hide((0,), half), *([hide(range(keys), half)] if keys > 1 else [])]
        patterns += [hide(range(self._middle, self._middle + keys), half), hide_nearest(keys, half)]
        for variant, also in zip(scored, patterns, strict=False):
            variant.runs.append(self._second(variant.name, ids_BT, kept, also))
        self._hide_others(scored[len(patterns) :], ids_BT, plain, kept, sinks.heads_NT)

    def _hide_others(
        self, variants: list[_Variant], ids_BT: Tensor, plain: NextToken, kept: Kept, heads_BT: Tensor
    ) -> None:
        """Each token in the places where heads sink on it, which every sample has of its own."""
        for token, later, scored in zip(self.others, variants[::2], variants[1::2], strict=True):
            for n, ids_T in enumerate(ids_BT):
                places = [key for key in heads_BT[n].nonzero().flatten().tolist() if key > 0]
                places = [key for key in places if self._text(int(ids_T[key])) == token]
                same = NextToken(plain.nll_NT[n : n + 1], plain.last_NV[n : n + 1], plain.attentions)
                one = ids_T[None]
                later.runs.append(self._whole(later.name, one, hide(places)) if places else same)
                scored.runs.append(
                    self._second(scored.name, one, kept.row(n), hide(places, self.half)) if places else same
                )

    def _whole(self, name: str, ids_BT: Tensor, also: Seen | None, told: Callable | None = None) -> NextToken:
        self.go_on()
        first = ids_BT.shape[1] - (self.ids_NT.shape[1] - self.half)
        found = next_token(self.model, laid_out(list(ids_BT.cpu()), self.loaded.device), also, first, told)
        self.progress(name, ids_BT.numel())
        return found

    def _second(self, name: str, ids_BT: Tensor, kept: Kept, also: Seen) -> NextToken:
        """Hidden from second halves only."""
        if not self._alone:
            return self._whole(name, ids_BT, also)
        self.go_on()
        found = continued(self.model, ids_BT, kept, also)
        self.progress(name, ids_BT[:, self.half :].numel())
        return found

    def _batches(self, ids_NT: Tensor, copies: int = 1) -> Iterator[Tensor]:
        size, tokens = self.recipe.batch, TOKENS.get(self.loaded.device.type, TOKENS["cpu"])
        rows = tokens // ids_NT.shape[1] if size == "auto" else size
        yield from ids_NT.split(max(1, rows // copies))

    def _replace_massive(self) -> None:
        """Lines for massive activations at zero and at their means."""
        elements = chosen(self._blocks)
        if elements is None:
            self.notes.append("Massive activations were not replaced: text goes through one block alone.")
            return
        what, name = _described(elements), "massive" if elements.massive else "largest"
        zeroed = _Variant(f"{name} activations zeroed", f"{what}, set to 0")
        with self._changed(zeroed, elements, torch.zeros(len(elements.places))) as before_NK:
            self._line(zeroed)
        before_NK = torch.cat(before_NK)
        if torch.equal(before_NK, before_NK[:1].expand_as(before_NK)):  # a first token that sees only itself
            self.notes.append(f"The {name} activations are the same in every sample: their mean changes nothing.")
            return
        mean = _Variant(f"{name} activations at their mean", f"{what}, set to their mean over the samples")
        with self._changed(mean, elements, before_NK.mean(0)):
            self._line(mean)

    @contextmanager
    def _changed(self, variant: _Variant, elements: Elements, value_K: Tensor) -> Iterator[list[Tensor]]:
        with intervened(self.model, elements, value_K) as before_NK:
            for ids_BT in self._batches(self.ids_NT):
                variant.runs.append(self._whole(variant.name, ids_BT, self._exact))
        yield before_NK

    def _swap_a_token(self) -> None:
        """How far one token spreads, with the first key and without it: without BOS, or with the key hidden."""
        place, ids_NT = max(2, self.ids_NT.shape[1] // 4), self.ids_NT[:MIXED]
        other_NT = swapped(self.ids_NT, place, self.recipe.input.seed)[:MIXED]
        self._mixing("with BOS" if self.bos else "no BOS", place, ids_NT, other_NT, self._exact)
        if self.bos:
            self._mixing("without BOS", place - 1, ids_NT[:, 1:], other_NT[:, 1:], self._exact)
        elif self._exact is not None:
            self._mixing("no BOS, first key hidden", place, ids_NT, other_NT, hide((0,)))

    def _mixing(self, name: str, place: int, ids_NT: Tensor, other_NT: Tensor, also: Seen | None) -> None:
        parts = []
        for ids, other in zip(self._batches(ids_NT, 2), self._batches(other_NT, 2), strict=True):
            self.go_on()
            parts.append(spread(self.model, ids, other, also))
            self.progress(f"one token swapped, {name}", 2 * ids.numel())
        self.mixing.append(MixingLine(name=name, change=mixing(torch.cat(parts, dim=1), place)))

    def _line(self, variant: _Variant) -> None:
        changed = _joined(variant.runs)
        perplexity, kl, top5, error = _perplexity(changed), None, None, None
        if perplexity is None:
            self.notes.append(f"{variant.name}: the loss is no finite number in {_named(self.loaded.dtype)}.")
        else:
            kl, top5 = (float(x_N.mean()) for x_N in agreement(self.baseline.last_NV, changed.last_NV))
            error = ratio_error(changed.nll_NT - self.baseline.nll_NT)
        hidden_first = variant.hidden_from == LATER and variant.name.startswith("first key")
        self.lines.append(
            CostLine(
                name=variant.name,
                what=f"{variant.what}; {self.scored}",
                tokens=self.targets,
                perplexity=perplexity,
                baseline=self.perplexity,
                error=error,
                hidden_from=variant.hidden_from,
                taken_over=self._taken_over() if hidden_first else None,
                kl=kl,
                top5=top5,
            )  # fmt: skip
        )

    def _taken_over(self) -> TakenOver | None:
        found = takeover(*self._sinks)
        if found is None:
            return None
        texts = Counter(self._text(int(ids_T[key])) for ids_T, key in zip(self.ids_NT, found.key_N, strict=True))
        token, times = texts.most_common(1)[0]
        return TakenOver(
            token=token if 2 * times >= len(found.key_N) else None, place=median(found.key_N),
            percent=100 * found.after, before=100 * found.before, layer=found.layer,
        )  # fmt: skip


def _joined(runs: list[NextToken]) -> NextToken:
    nll, last, attentions = zip(*runs, strict=True)
    return NextToken(torch.cat([x.cpu() for x in nll]), torch.cat([x.cpu() for x in last]), attentions[0])


def _perplexity(run: NextToken) -> float | None:
    perplexity = float(run.nll_NT.double().mean().exp())
    return perplexity if math.isfinite(perplexity) else None


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
