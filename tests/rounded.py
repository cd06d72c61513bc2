"""Keys and values in few bits, token by token and number by number: the rule as `Precision` states it, written out."""

import numpy as np
import torch
from reference import TokenByToken

from sinkctl.cache.precision.settings import Precision
from sinkctl.tasks.stream.scorers import BlockScorer

TOKENS = 52
BLOCKS = ([TOKENS], [1] * TOKENS, [7, 20, *[1] * 9, 16])


def text(seed: int = 1) -> torch.Tensor:
    return torch.randint(3, 64, (TOKENS + 1,), generator=torch.Generator().manual_seed(seed))


def scored(loaded, policy, ids_T, chunk: int, resumed: bool = False) -> np.ndarray:
    """Losses of every token, [TOKENS], in blocks; `resumed`: each by another scorer, from the state of the last."""
    scorer, found = BlockScorer(loaded, policy), []
    for start in range(0, TOKENS, chunk):
        if resumed:
            data, tensors = scorer.state()
            scorer = BlockScorer(loaded, policy)
            scorer.restore(data, {name: x.clone() for name, x in tensors.items()})
        end = min(start + chunk, TOKENS)
        found.append(scorer.step(ids_T[start:end], ids_T[start + 1 : end + 1]))
    return np.concatenate(found)


def rounded(numbers: list[float], bits: int, of: list[float] | None = None) -> list[float]:
    """Each number as one of 2^bits evenly spaced ones from the least to the greatest of `of` (default: all of them)."""
    of = numbers if of is None else of
    low, high = (min(of), max(of)) if of else (0.0, 0.0)
    step = (high - low) / (2**bits - 1)
    codes = [0 if step == 0 else min(max(round((x - low) / step), 0), 2**bits - 1) for x in numbers]
    return [low + code * step for code in codes]


def by_token(x_GD: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Each head's channels, `group` neighbours at a time."""
    rows = [[y for i in range(0, len(row), group) for y in rounded(row[i : i + group], bits)] for row in x_GD.tolist()]
    return torch.tensor(rows, dtype=x_GD.dtype)


def by_channel(x_TGD: torch.Tensor, bits: int, counted: list[bool]) -> torch.Tensor:
    """Each head's channels, over the tokens; those not counted stretch no range."""
    out = x_TGD.clone()
    for head in range(x_TGD.shape[1]):
        for channel in range(x_TGD.shape[2]):
            column = x_TGD[:, head, channel].tolist()
            of = [x for x, counts in zip(column, counted, strict=True) if counts]
            out[:, head, channel] = torch.tensor(rounded(column, bits, of), dtype=x_TGD.dtype)
    return out


class RoundedTokenByToken(TokenByToken):
    """`TokenByToken`, where what it holds is looked up in the form that this query sees."""

    def __init__(self, layers, keeps, precision: Precision):
        super().__init__(layers, keeps)
        self.precision = precision
        self.stays_full = {
            id(facts.module): keep.window is not None and keep.window < precision.least_window
            for facts, keep in zip(layers, keeps, strict=True)
        }
        self.past = {id(facts.module): [] for facts in layers}  # every token that ever was, in full
        self.once = {}
        self.numbers = {id(facts.module): facts.number for facts in layers}
        self.told, self.admitted = [], {id(facts.module): [] for facts in layers}  # of each token; by layer, numbers

    def watched(self, model):
        if not self.precision.predicts:
            return []
        massive = self.precision.massive

        def look(module, given, output):
            h_C = (output[0] if isinstance(output, tuple) else output)[0, -1]
            self.told.append(any(abs(h) > massive.above for h in h_C[list(massive.channels)].tolist()))

        return [(model.model.layers[massive.layer], look)]

    def attend(self, call):
        layer = id(call.module)
        self.past[layer].append((call.k_BGTD[0, :, -1].clone(), call.v_BGTE[0, :, -1].clone()))
        query, (_, keep) = len(self.past[layer]) - 1, self.rules[layer]
        self.admit(layer, query, keep)
        numbers = range(query)
        if keep.window is not None:
            numbers = [j for j in numbers if j < keep.sinks or j >= query - keep.window]
        if not self.stays_full[layer]:
            self.kept[layer] = [self.form(layer, j, query) for j in numbers]
        return super().attend(call)

    def admit(self, layer: int, query: int, keep) -> None:
        p = self.precision
        if not p.predicts or self.numbers[layer] <= p.massive.layer or not self.told[query] or query < p.kept:
            return
        here = [j for j in self.admitted[layer] if keep.window is None or j < keep.sinks or query - j <= keep.window]
        if len(here) < p.most:
            self.admitted[layer].append(query)

    def in_full(self, layer: int, j: int) -> bool:
        return j < self.precision.kept or j in self.admitted[layer]

    def form(self, layer: int, j: int, query: int):
        p, past = self.precision, self.past[layer]
        k, v = past[j]
        if self.in_full(layer, j):
            return k, v
        if query - j > p.recent:
            v = self.cached((layer, "v", j), lambda: by_token(v, p.bits, p.group))
        if p.keys == "token":
            if query - j > p.recent:
                k = self.cached((layer, "k", j), lambda: by_token(k, p.bits, p.group))
            return k, v
        begun = j // p.group * p.group
        if query - (begun + p.group - 1) > p.recent:
            numbers = range(begun, begun + p.group)
            keys, counted = torch.stack([past[i][0] for i in numbers]), [not self.in_full(layer, i) for i in numbers]
            k = self.cached((layer, "group", begun), lambda: by_channel(keys, p.bits, counted))[j - begun]
        return k, v

    def cached(self, key, make):
        if key not in self.once:
            self.once[key] = make()
        return self.once[key]
