"""Run a checkpoint over a few samples under the published rule with one sink, and keep what its layers do with it.

Shapes: B samples, H query heads, G key/value heads, T tokens, D key width, E value width, C hidden width.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sinkctl.cache.layers import kept_by
from sinkctl.cache.policies import SinkWindow
from sinkctl.kernels.stream_attention.reference import scores
from sinkctl.kernels.stream_attention.tiled import partial_for, with_lse
from sinkctl.metrics.first_token import FirstToken, Folded, ScoreRows
from sinkctl.model.attention import attached, hidden_states
from sinkctl.model.handler import AttentionCall, Handler
from sinkctl.model.load import LoadedModel
from sinkctl.model.memory import auto_chunk
from sinkctl.model.positions import Rotation, rotate
from sinkctl.tasks.stopping import stoppable

# Rows of scores kept of a sample, where a mechanism asks for whole rows.
ROWS = 32


@dataclass
class _Kept:
    """What one layer showed of each sample."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    lses: list[Tensor] = field(default_factory=list)
    outs: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    rows: list[ScoreRows] = field(default_factory=list)
    folded: list[Folded] = field(default_factory=list)


class _FirstKeys(Handler):
    """Answers first tokens, which see themselves alone, and keeps the mean of their un-rotated keys by layer."""

    def __init__(self):
        self.key_GD: dict[int, Tensor] = {}

    def attend(self, call: AttentionCall) -> Tensor:
        self.key_GD[id(call.module)] = call.k_BGTD[:, :, 0].float().mean(0)
        return call.v_BGTE.repeat_interleave(call.q_BHTD.shape[1] // call.v_BGTE.shape[1], dim=1)


class _Calibrating(Handler):
    """Answers with the published rule, every token of some samples at once, and keeps the queries of a full cache.

    `told` is called after each layer, with how many samples it was.
    """

    def __init__(
        self, loaded: LoadedModel, window: int, whole_rows: bool, first_keys: dict[int, Tensor] | None,
        told: Callable[[int], None],
    ):  # fmt: skip
        policy = SinkWindow(sinks=1, window=window)
        facts = loaded.layers(policy.reach)
        self._index = {id(layer.module): index for index, layer in enumerate(facts)}
        self._keeps = kept_by(policy, facts)
        self._rotations: list[Rotation | None] = [layer.rotation for layer in facts]
        self.kept = [_Kept() for _ in facts]
        self._whole_rows, self._told = whole_rows, told
        read = max(loaded.context or 0, sample_length(window))
        self._first_keys = first_keys
        self._tables: dict[tuple, tuple[Tensor, Tensor]] = {}
        self._read = [read if layer.window is None else min(read, layer.window) for layer in facts]

    def attend(self, call: AttentionCall) -> Tensor:
        index, asked = self._index[id(call.module)], call.q_BHTD.dtype
        precise = torch.promote_types(asked, torch.float32)
        keep, rotation = self._keeps[index], self._rotations[index]
        raw_BHTD, k, v = (x.to(precise) for x in (call.q_BHTD, call.k_BGTD, call.v_BGTE))
        call = replace(call, q_BHTD=raw_BHTD, k_BGTD=k, v_BGTE=v)
        table = self._table(rotation, k)
        q, k = (rotate(x, rotation, table) for x in (raw_BHTD, k))
        attention = _Attention(call)
        if keep.sinks:
            full = keep.sinks + keep.window + 1  # until then all before a query is seen, at its true distance
            early, _ = attention(q[:, :, :full], k[:, :, :full], v[:, :, :full])
            later = self._later(index, call, attention, q[:, :, full:], k, table)
            out = torch.cat([early, later], dim=2)
        else:
            out, _ = attention(q, k, v, keep.window)
        self._told(len(out))
        return out.to(asked)

    def _table(self, rotation: Rotation | None, k_BGTD: Tensor) -> tuple[Tensor, Tensor] | None:
        """Of all positions; layers share it, and samples."""
        if rotation is None:
            return None
        key = id(rotation), k_BGTD.shape[2], k_BGTD.device
        if key not in self._tables:
            self._tables[key] = rotation.table(range(k_BGTD.shape[2]), k_BGTD)
        return self._tables[key]

    def _later(self, index: int, call: AttentionCall, attention: "_Attention", q, k, table) -> Tensor:
        """Of the queries q of a full cache, kept: what they give, [B, H, n, E]."""
        keep, rotation, kept = self._keeps[index], self._rotations[index], self.kept[index]
        reach, queries = keep.sinks + keep.window, q.shape[2]
        out, lse = attention(q, k, call.v_BGTE, keep.window)
        facing_BG1D = call.k_BGTD[:, :, :1]
        if rotation is not None:
            facing_BG1D = rotate(facing_BG1D, rotation, rotation.table([-reach], q))
        first = attention.scores(call.q_BHTD[:, :, -queries:], facing_BG1D, reach)[..., 0]
        if self._whole_rows:
            place_n1 = reach + 1 + torch.arange(min(ROWS, queries), device=q.device)[:, None]
            distance_nS = place_n1 - torch.arange(k.shape[2], device=q.device)
            hidden_nS = (distance_nS < 0) | (distance_nS > keep.window)
            rows = attention.scores(q[:, :, :ROWS], k, distance_nS).masked_fill(hidden_nS, -torch.inf)
            before = sum(score_HN.shape[1] for score_HN in kept.scores)
            for number, (rows_HnS, v_GSE) in enumerate(zip(_plain(rows), _plain(call.v_BGTE), strict=True)):
                kept.rows.append(ScoreRows(before + number * queries, rows_HnS, v_GSE))
        if self._first_keys is not None:
            key_GD = slow_part(self._first_keys[id(call.module)].to(k), rotation, reach, self._read[index])
            lost = rotate(key_GD[None, :, None].expand_as(k).contiguous(), rotation, table)
            less_out, less_lse = attention(q, k - lost, call.v_BGTE, keep.window)
            parts = zip(_plain(less_lse), _plain(less_out), strict=True)
            kept.folded += [Folded(_plain(key_GD), *part) for part in parts]
        kept.keys += _plain(facing_BG1D[:, :, 0])
        kept.values += _plain(call.v_BGTE[:, :, 0])
        kept.scores += _plain(first)
        kept.lses += _plain(lse)
        kept.outs += _plain(out)
        share = torch.sigmoid(first - lse)[..., None]
        value = call.v_BGTE[:, :, :1].repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        return (1 - share) * out + share * value

    def hidden(self, index: int, x_BTC: Tensor) -> None:
        """What the projections of a layer take."""
        keep = self._keeps[index]
        if keep.sinks:
            self.kept[index].hidden += x_BTC[:, keep.sinks + keep.window + 1 :].float().cpu()


class _Attention:
    """Attention as a layer asks for it, among rotated keys, and scores."""

    def __init__(self, call: AttentionCall):
        self._scale, self._softcap, self._slope_H = call.scale, call.softcap, call.slope_H
        self._partial = partial_for(call.q_BHTD, call.v_BGTE, call.softcap)

    def __call__(self, q, k, v, window: int | None = None) -> tuple[Tensor, Tensor]:
        """(output [B, H, T, E], log-sum-exp [B, H, T]) of the last tokens, that see `window` before them, or all."""
        options = dict(scale=self._scale, window=window, softcap=self._softcap, slope_H=self._slope_H)
        return with_lse(self._partial, q, k, v, **options)

    def scores(self, q: Tensor, k: Tensor, distance: Tensor | int) -> Tensor:
        """[B, H, T, S]"""
        return scores(q, k, self._scale, self._softcap, self._slope_H, distance)


def slow_part(key_GD: Tensor, rotation: Rotation | None, reach: int, read: int) -> Tensor:
    """Of an un-rotated key at a distance of `reach` tokens, what turns by less than a radian over `read` tokens.

    `read`: how far apart queries and keys can be.
    """
    if rotation is None:
        return key_GD
    facing_GD = rotate(key_GD[None, :, None], rotation, rotation.table([-reach], key_GD))[0, :, 0]
    slow_n = rotation.inv_freq_n * read < 1
    turned = slow_n.repeat(2) if rotation.layout == "half" else slow_n.repeat_interleave(2)
    slow_D = torch.ones(key_GD.shape[-1])
    slow_D[rotation.start : rotation.start + len(turned)] = turned.float()
    return facing_GD * slow_D.to(facing_GD)


def sample_length(window: int) -> int:
    """Tokens of a sample, the first included: a full cache, and W queries on it."""
    return 2 * window + 2


@torch.no_grad()
def calibrate(
    loaded: LoadedModel,
    samples: Sequence[Tensor],
    window: int,
    *,
    whole_rows: bool = False,
    hidden: bool = False,
    folded: bool = False,
    progress: Callable[[float], None] = lambda share: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[FirstToken | None]:
    """What every softmax layer takes from the first token of `samples` (ids [T], of `sample_length`).

    `folded` asks for what queries see where keys lack a part of the first token's, too. None for a layer that a stream
    of 1+`window` gives no first token: its own window is as short. Raises ModelError for models that cannot be
    streamed, Interrupted where `stop` says so, which every block asks.
    """
    layers, done = loaded.layers(window + 1), 0
    rows = max(1, auto_chunk(loaded)[0] // len(samples[0]))  # a forward pass: a GPU waits for the launches of one

    def told(samples_seen: int) -> None:
        nonlocal done
        done += samples_seen
        progress(done / (len(samples) * len(layers)))

    first_keys = _first_keys(loaded, samples) if folded else None
    handler = _Calibrating(loaded, window, whole_rows, first_keys, told)
    with ExitStack() as stack:
        stack.enter_context(stoppable(loaded.model, stop))
        if hidden:
            for index, facts in enumerate(layers):

                def seen(_, args, kwargs, index=index) -> None:
                    handler.hidden(index, kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

                stack.enter_context(facts.module.register_forward_pre_hook(seen, with_kwargs=True))
        for first in range(0, len(samples), rows):
            with attached(loaded.model, handler):
                hidden_states(loaded.model, torch.stack(list(samples[first : first + rows])).to(loaded.device))
    return [_record(kept) if kept.keys else None for kept in handler.kept]


def _first_keys(loaded: LoadedModel, samples: Sequence[Tensor]) -> dict[int, Tensor]:
    """The first tokens' mean key [G, D], by attention module."""
    handler = _FirstKeys()
    with attached(loaded.model, handler):
        hidden_states(loaded.model, torch.stack([ids_T[:1] for ids_T in samples]).to(loaded.device))
    return handler.key_GD


def _record(kept: _Kept) -> FirstToken:
    (key_GD, key_spread), (value_GE, value_spread) = (_mean(parts) for parts in (kept.keys, kept.values))
    return FirstToken(
        key_GD, value_GE, key_spread, value_spread, torch.cat(kept.scores, 1), torch.cat(kept.lses, 1),
        torch.cat(kept.outs, 1), torch.cat(kept.hidden) if kept.hidden else None, kept.rows,
        Folded(kept.folded[0].key_GD, *(torch.cat(parts, 1) for parts in list(zip(*kept.folded, strict=True))[1:]))
        if kept.folded else None,
    )  # fmt: skip


def _mean(parts: list[Tensor]) -> tuple[Tensor, float]:
    """(mean over samples, root mean square distance from it, relative to its length)"""
    stacked = torch.stack(parts)
    mean = stacked.mean(0)
    away = (stacked - mean).square().flatten(1).sum(1).mean().sqrt()
    return mean, float(away / mean.norm().clamp_min(1e-30))


def _plain(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float32)
