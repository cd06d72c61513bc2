"""Rotary frequencies that change with the length of a text (longrope, dynamic NTK): which of them a stream turns by.

The stock classes turn a whole forward pass by what its last position asks for: longrope by its short factors up to the
original length and by its long ones after it, dynamic NTK by a base that grows with every token past the context. A
token is predicted here as the stock class predicts it from a text that ends with it:

- up to the original length by the frequencies of short texts, whatever the cache could hold, and whatever comes later;
- where a text grows past it, all that the cache holds is taken in again by the new frequencies, before the first token
  that needs them. The deeper layers' keys and values then are those of the new frequencies as well; this is what stock
  Phi-3 does in `generate()`, and what `recompute` does with every window. (Other stock classes keep in their cache what
  was turned by the old ones, so that their logits depend on how a text was cut into calls.) No cache has dropped a
  token by then: it drops the first at S+W+1 tokens, and a stream that never holds so many as the original length
  never changes its frequencies.
- Dynamic NTK would be taken in again with every token. Past the context a stream turns by the frequencies of a text
  twice as long as the context, then four times, …, and never of one longer than the S+W+1 tokens it comes to see; so
  it equals the stock class at those lengths, and between them stretches up to twice as far.

This depends on the number of tokens alone: not on blocks, on what a pipe still holds, nor on where a run was resumed.
Rows side by side are each as they would be alone, where the stock classes go by the longest of them.
"""

from dataclasses import dataclass

from transformers import PreTrainedConfig

from sinkctl.model.load import LoadedModel
from sinkctl.model.probe import LayerFacts


@dataclass(frozen=True)
class Change:
    """A way in which frequencies change with length."""

    kind: str  # in words
    original: int  # tokens of the longest text that nothing is changed for
    once: bool  # one other set of frequencies past it; otherwise one for every length


@dataclass(frozen=True, eq=False)
class Stage:
    """How the layers turn while a stream has up to `end` tokens (None: from there on)."""

    end: int | None
    layers: list[LayerFacts]


class Lengths:
    """The stages of a stream that comes to see at most `most` tokens at once (None: any number)."""

    def __init__(self, loaded: LoadedModel, most: int | None):
        """Raises ModelError where the position probe does not explain one of them."""
        self._loaded, self._most = loaded, most
        self._changes = changes(loaded.model.config)
        farthest = most or max(loaded.context or 4096, 1 + max((c.original for c in self._changes), default=0))
        self.last = Stage(None, loaded.layers(farthest - 1))
        if not any(facts.pinned for facts in self.last.layers):
            self._changes = []
        self._stages: dict[int, Stage] = {}
        stage = self.of(1)
        while most is not None and stage.end is not None:  # found now: the probe cannot run amid a forward pass
            stage = self.of(stage.end + 1)

    def of(self, tokens: int) -> Stage:
        """The stage of a stream of so many tokens."""
        ends = [end for change in self._changes if (end := _end(change, tokens)) is not None]
        end = min(ends, default=None)
        if end is None or (self._most is not None and end >= self._most):
            return self.last
        if end not in self._stages:
            self._stages[end] = Stage(end, self._loaded.layers(end - 1))
        return self._stages[end]

    def choice(self, label: str, tokens: int) -> dict[str, str]:
        """Which frequencies a stream of so many tokens was turned by, and why; nothing where no length changes them."""
        if not self._changes:
            return {}
        short, kinds = self.of(1).end, " and ".join(dict.fromkeys(change.kind for change in self._changes))
        why = f"of up to {short:,} tokens: it never held more ({kinds})"
        if self._grew(tokens):
            why = f"of up to {short:,} tokens, then {self._after(short)}: as the stock class turns texts ({kinds})"
        return {f"rotary frequencies of {label}": f"those {why}"}

    def notes(self, label: str, tokens: int) -> list[str]:
        """The same for a reader of the figures, where frequencies changed on the way."""
        if not self._changes or not self._grew(tokens):
            return []
        short = self.of(1).end
        return [
            f"{label} turned its first {short:,} tokens by the rotary frequencies of texts up to that length; to go on "
            f"it took all of them in again by {self._after(short)}."
        ]

    def _grew(self, tokens: int) -> bool:
        return self.of(max(tokens, 1)) is not self.of(1)

    def _after(self, short: int) -> str:
        if all(change.once for change in self._changes):
            return f"those of more than {short:,}"
        most = "" if self._most is None else f", at most those of {self._most:,}"
        return f"those of {2 * short:,}, {4 * short:,} and so on{most}"


def changes(config: PreTrainedConfig) -> list[Change]:
    """Every way in which the rotary frequencies of a model change with length, as its config says."""
    config = config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    by_kind = [each for each in parameters.values() if isinstance(each, dict)] or [parameters]
    found = []
    for each in by_kind:
        kind = each.get("rope_type") or ""
        if "dynamic" in kind:
            found.append(Change("dynamic NTK", config.max_position_embeddings, once=False))
        elif kind == "longrope":
            original = each.get("original_max_position_embeddings") or config.original_max_position_embeddings
            found.append(Change("longrope", original, once=True))
    return list(dict.fromkeys(found))


def alike_up_to(config: PreTrainedConfig, tokens: int) -> int | None:
    """The longest text that stock classes turn as they turn one of so many tokens; None: any longer one."""
    ends = [
        c.original if tokens <= c.original else None if c.once else tokens
        for c in changes(config)
    ]  # fmt: skip
    return min((end for end in ends if end is not None), default=None)


def _end(change: Change, tokens: int) -> int | None:
    """The longest stream that turns as one of so many tokens does."""
    if tokens > change.original and change.once:
        return None
    end = change.original
    while end < tokens:
        end *= 2
    return end
