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
from sinkctl.metrics.continued import Kept
from sinkctl.metrics.masked_key import agreement, hide, hide_each
from sinkctl.metrics.massive_cost import Activations, Elements, Output, chosen, intervened, watched
from sinkctl.metrics.next_token import NextToken, NoInterface, Seen, next_token
from sinkctl.metrics.observe import blocks_of
from sinkctl.metrics.samples import laid_out
from sinkctl.metrics.takeover import SinkHeads, takeover
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.measure import LATER, CostLine, MixingLine, TakenOver
from sinkctl.tasks.measure.input_set import token_reader
from sinkctl.tasks.measure.passes import Passes
from sinkctl.tasks.measure.run import TOKENS
from sinkctl.tasks.measure.standard_error import ratio_error
from sinkctl.tasks.measure.swaps import Swaps
from sinkctl.tasks.measure.variants import SHORTEST, Variant, hidden_keys, hidden_token, joined, perplexity


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
        self.lines: list[CostLine] = []
        self.mixing: list[MixingLine] = []
        self.notes: list[str] = []
        self.half = ids_NT.shape[1] // 2
        self.targets = ids_NT[:, self.half + 1 :].numel()
        self.scored = f"{self.targets:,} next tokens, the second halves of {len(ids_NT)} samples"
        self._text = token_reader(loaded.tokenizer)
        self._passes = Passes(loaded, ids_NT.shape[1] - self.half, progress, go_on)
        self.choices = self._passes.choices
        self._plain: list[NextToken] = []
        self._sinks: tuple[list[SinkHeads], list[SinkHeads]] = ([], [])  # as it is, and with the first key hidden
        self._blocks = [Activations() for _ in blocks_of(self.model)]
        self._outputs: list[Output] = []  # of one of the blocks, by batch
        self._bare = Variant("BOS left out", "samples without the BOS token")
        self._variants = hidden_keys(ids_NT.shape[1], recipe.sinks)
        self._others = {token: hidden_token(token) for token in others}
        self._swaps = Swaps(self._passes, ids_NT, recipe.input.seed)
        self._exact: Seen | None = None  # attention of our own, with nothing hidden; None: keys cannot be hidden

    def run(self) -> None:
        """Fills `lines`, `mixing`, `notes` and `choices`; raises ModelError where the loss is no number."""
        self._exact = hide(()) if self._asks() else None
        for ids_BT in self._batches():
            self._batch(ids_BT)
        self.baseline = joined(self._plain)
        self.perplexity = perplexity(self.baseline)
        if self.perplexity is None:
            raise ModelError(
                f"{self.loaded.name}: the loss is no finite number in {_named(self.loaded.dtype)}; try --dtype float32"
            )
        if self.bos:
            self._line(self._bare)
        if self._exact is not None:
            for variant in [*self._variants, *(each for pair in self._others.values() for each in pair)]:
                self._line(variant)
            asked, blocks = self.baseline.attentions, len(self._blocks)
            if asked < blocks:
                self.notes.append(f"Keys were hidden in the {asked} softmax attention layers, of {blocks} layers.")
        self._replace_massive()
        self.mixing += self._swaps.lines
        self.notes += self._swaps.notes

    def _asks(self) -> bool:
        """Whether keys can be hidden at all, tried on a few tokens."""
        few = laid_out([self.ids_NT[0, :SHORTEST]], self.loaded.device)
        try:
            next_token(self.model, few, hide(()))
        except NoInterface as error:
            self.notes.append(f"Keys were not hidden: {error}.")
            return False
        return True

    def _batches(self) -> Iterator[Tensor]:
        size, tokens = self.recipe.batch, TOKENS.get(self.loaded.device.type, TOKENS["cpu"])
        yield from self.ids_NT.split(max(1, tokens // self.ids_NT.shape[1]) if size == "auto" else size)

    def _batch(self, ids_BT: Tensor) -> None:
        """One batch as it is, without BOS, and with keys hidden."""
        kept, plain, exact = Kept(self.half), SinkHeads(self.recipe.epsilon[0]), self._exact
        asked = {} if exact is None else dict(told=plain.add, keep=kept.keep)
        massive = self.recipe.massive
        with watched(self.model, massive.size, massive.ratio, self._blocks) as output, self._swaps.kept() as before:
            seen = self._passes.whole("nothing taken away", ids_BT, exact, **asked)
        self._plain.append(seen)
        self._outputs.append(output)
        self._passes.try_out(ids_BT, None if exact is None else kept, output, exact, seen)
        self._swaps.run("with BOS" if self.bos else "no BOS", before, kept, exact)
        if self.bos:
            self._without_bos(ids_BT)
        if exact is not None:
            self._sinks[0].append(plain)
            self._hide_first(ids_BT)
            for variant in self._variants[1:]:
                variant.runs.append(self._passes.after(variant.name, ids_BT, kept, variant.also))
            self._hide_others(ids_BT, seen, kept, plain.heads_NT)
        self._swaps.end(len(ids_BT))

    def _without_bos(self, ids_BT: Tensor) -> None:
        kept, exact = Kept(self.half - 1), self._exact
        with self._swaps.kept() as before:
            run = self._passes.whole(self._bare.name, ids_BT[:, 1:], exact, keep=exact and kept.keep)
        self._bare.runs.append(run)
        self._swaps.run("without BOS", before, kept, exact, bos=1)

    def _hide_first(self, ids_BT: Tensor) -> None:
        """From every later query."""
        variant, kept, hidden = self._variants[0], Kept(self.half), SinkHeads(self.recipe.epsilon[0])
        with self._swaps.kept() as before:
            run = self._passes.whole(variant.name, ids_BT, variant.also, hidden.add, kept.keep)
        variant.runs.append(run)
        self._sinks[1].append(hidden)
        if not self.bos:
            self._swaps.run("no BOS, first key hidden", before, kept, variant.also)

    def _hide_others(self, ids_BT: Tensor, seen: NextToken, kept: Kept, heads_BT: Tensor) -> None:
        """Each in the samples where heads sink on it; the others are as they are."""
        for token, (later, scored) in self._others.items():
            sinks = [heads_T.nonzero().flatten().tolist() for heads_T in heads_BT]
            places = [
                [key for key in keys if key and self._text(int(ids_T[key])) == token]
                for ids_T, keys in zip(ids_BT, sinks, strict=True)
            ]
            rows = [n for n, keys in enumerate(places) if keys]
            places = [places[n] for n in rows]
            first = min(map(min, places), default=0) + 1  # a key is seen at its own place
            for variant, also, begin in (
                (later, hide_each(places), first), (scored, hide_each(places, self.half), None)
            ):  # fmt: skip
                found = seen
                if rows:
                    own = self._passes.after(variant.name, ids_BT[rows], kept.of(rows), also, begin)
                    found = NextToken(seen.nll_NT.clone(), seen.last_NV.clone(), seen.attentions)
                    found.nll_NT[rows], found.last_NV[rows] = own.nll_NT, own.last_NV
                variant.runs.append(found)

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
            for ids_BT, output in zip(self._batches(), self._outputs, strict=True):
                variant.runs.append(self._passes.above(variant.name, ids_BT, output, elements.layer, self._exact))
        yield before_NK

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
