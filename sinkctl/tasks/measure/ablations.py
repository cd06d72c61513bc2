"""Things taken away from samples, and what each costs: keys hidden, massive activations replaced, BOS left out.

N samples of T tokens, V vocabulary.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import torch
from torch import Tensor

from sinkctl.errors import ModelError
from sinkctl.metrics.continued import Kept, continued, runs_alone
from sinkctl.metrics.masked_key import agreement, hide
from sinkctl.metrics.massive_cost import Activations, Elements, chosen, intervened, watched
from sinkctl.metrics.mixing import mixing, spread, swapped
from sinkctl.metrics.next_token import NextToken, NoInterface, Seen, next_token
from sinkctl.metrics.observe import blocks_of
from sinkctl.metrics.samples import laid_out
from sinkctl.metrics.takeover import SinkHeads, takeover
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.measure import LATER, CostLine, MixingLine, TakenOver
from sinkctl.tasks.measure.inputs import token_reader
from sinkctl.tasks.measure.run import TOKENS
from sinkctl.tasks.measure.standard_error import ratio_error
from sinkctl.tasks.measure.variants import SHORTEST, Variant, hidden_keys, hidden_token, joined, perplexity

MIXED = 2  # samples that a token is swapped in: they differ little


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
        self.ids_NT, self.bos = ids_NT, bos
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
        self._variants = hidden_keys(ids_NT.shape[1], recipe.sinks)
        self._others = {token: hidden_token(token) for token in others}
        self._exact: Seen | None = None  # attention of our own, with nothing hidden; None: keys cannot be hidden
        self._alone: bool | None = None  # whether second halves can be run alone

    def run(self) -> None:
        """Fills `lines`, `mixing`, `notes` and `choices`; raises ModelError where the loss is no number."""
        self._exact = hide(()) if self._asks() else None
        for ids_BT in self._batches(self.ids_NT):
            self._batch(ids_BT)
        self.baseline = joined(self._plain)
        self.perplexity = perplexity(self.baseline)
        if self.perplexity is None:
            raise ModelError(
                f"{self.loaded.name}: the loss is no finite number in {_named(self.loaded.dtype)}; try --dtype float32"
            )
        if self.bos:
            bare = Variant("BOS left out", "samples without the BOS token")
            for ids_BT in self._batches(self.ids_NT):
                bare.runs.append(self._whole(bare.name, ids_BT[:, 1:], self._exact))
            self._line(bare)
        if self._exact is not None:
            for variant in [*self._variants, *(each for pair in self._others.values() for each in pair)]:
                self._line(variant)
            asked, blocks = self.baseline.attentions, len(self._blocks)
            if asked < blocks:
                self.notes.append(f"Keys were hidden in the {asked} softmax attention layers, of {blocks} layers.")
        self._replace_massive()
        self._swap_a_token()

    def _asks(self) -> bool:
        """Whether keys can be hidden at all, tried on a few tokens."""
        few = laid_out([self.ids_NT[0, :SHORTEST]], self.loaded.device)
        try:
            next_token(self.model, few, hide(()))
        except NoInterface as error:
            self.notes.append(f"Keys were not hidden: {error}.")
            return False
        return True

    def _batch(self, ids_BT: Tensor) -> None:
        """One batch as it is, and with keys hidden."""
        kept, plain, hidden = Kept(self.half), SinkHeads(self.recipe.epsilon[0]), SinkHeads(self.recipe.epsilon[0])

        def told(*layer) -> None:
            kept.keep(*layer)
            plain.add(*layer)

        with watched(self.model, self.recipe.massive.size, self.recipe.massive.ratio, self._blocks):
            seen = self._whole("nothing taken away", ids_BT, self._exact, None if self._exact is None else told)
        self._plain.append(seen)
        if self._exact is None:
            return
        ids_BT = ids_BT.to(self.loaded.device)
        if self._alone is None:
            self._alone, why = runs_alone(self.model, ids_BT, kept, seen)
            self.choices["hidden keys"] = f"{'second halves alone' if self._alone else 'whole samples'}: {why}"
        first, *scored = self._variants
        first.runs.append(self._whole(first.name, ids_BT, first.also, hidden.add))
        self._sinks[0].append(plain)
        self._sinks[1].append(hidden)
        for variant in scored:
            variant.runs.append(self._second(variant.name, ids_BT, kept, variant.also))
        self._hide_others(ids_BT, seen, kept, plain.heads_NT)

    def _hide_others(self, ids_BT: Tensor, seen: NextToken, kept: Kept, heads_BT: Tensor) -> None:
        for token, (later, scored) in self._others.items():
            for n, ids_T in enumerate(ids_BT):
                keys = heads_BT[n].nonzero().flatten().tolist()
                places = [key for key in keys if key and self._text(int(ids_T[key])) == token]
                same = NextToken(seen.nll_NT[n : n + 1], seen.last_NV[n : n + 1], seen.attentions)
                one, from_scored = ids_T[None], hide(places, self.half)
                later.runs.append(self._whole(later.name, one, hide(places)) if places else same)
                scored.runs.append(self._second(scored.name, one, kept.row(n), from_scored) if places else same)

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
        zeroed = Variant(f"{name} activations zeroed", f"{what}, set to 0")
        with self._changed(zeroed, elements, torch.zeros(len(elements.places))) as before_NK:
            self._line(zeroed)
        before_NK = torch.cat(before_NK)
        if torch.equal(before_NK, before_NK[:1].expand_as(before_NK)):  # a first token that sees only itself
            self.notes.append(f"The {name} activations are the same in every sample: their mean changes nothing.")
            return
        mean = Variant(f"{name} activations at their mean", f"{what}, set to their mean over the samples")
        with self._changed(mean, elements, before_NK.mean(0)):
            self._line(mean)

    @contextmanager
    def _changed(self, variant: Variant, elements: Elements, value_K: Tensor) -> Iterator[list[Tensor]]:
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

    def _line(self, variant: Variant) -> None:
        changed = variant.joined
        found, kl, top5, error = perplexity(changed), None, None, None
        if found is None:
            self.notes.append(f"{variant.name}: the loss is no finite number in {_named(self.loaded.dtype)}.")
        else:
            kl, top5 = (float(x_N.mean()) for x_N in agreement(self.baseline.last_NV, changed.last_NV))
            error = ratio_error(changed.nll_NT - self.baseline.nll_NT)
        hidden_first = variant.hidden_from == LATER and variant.name.startswith("first key")
        line = CostLine(
            name=variant.name,
            what=f"{variant.what}; {self.scored}",
            tokens=self.targets,
            perplexity=found,
            baseline=self.perplexity,
            error=error,
            hidden_from=variant.hidden_from,
            taken_over=self._taken_over() if hidden_first else None,
            kl=kl,
            top5=top5,
        )
        self.lines.append(line)

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


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
