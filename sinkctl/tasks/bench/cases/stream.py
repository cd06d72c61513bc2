"""Scoring: tokens a second in the steady state, the cache full."""

from collections.abc import Callable
from functools import partial
from math import inf

import numpy as np
from torch import Tensor

from sinkctl.cache.policies import Recompute, SinkWindow
from sinkctl.model.block_layers import worth_compiling_blocks
from sinkctl.model.memory import auto_chunk
from sinkctl.recipe.bench import StreamCase
from sinkctl.recipe.sizes import Size
from sinkctl.result.bench import OURS, Work
from sinkctl.tasks.bench.costs import in_sample, in_stream, token_flops
from sinkctl.tasks.bench.peers import attempted, fitting
from sinkctl.tasks.bench.peers.published import Published
from sinkctl.tasks.bench.peers.stock import piece_losses
from sinkctl.tasks.bench.subject import Subject
from sinkctl.tasks.bench.way import Group, Way
from sinkctl.tasks.stream.scorers import BlockScorer, RecomputeScorer, Scorer

# Tokens a call of a peer that takes them one by one.
FEW = 16


def group(case: StreamCase, subject: Subject, size: Size) -> Group:
    loaded, policy = subject.loaded, SinkWindow(sinks=size["sinks"], window=size["window"])
    chunk, choices = size["chunk"], {}
    if chunk == "auto":
        chunk, choices["chunk"] = auto_chunk(loaded)
    compiled = case.compile
    if compiled == "auto":
        compiled, why = worth_compiling_blocks(loaded.model, loaded.device, inf)
        choices["compile"] = "on: over a long text it pays" if compiled else f"off: {why}"
    scorer = _filled(BlockScorer(loaded, policy, chunk if compiled else None), subject, chunk)
    a_token = token_flops(loaded, in_stream(policy.reach), policy.reach)
    by_token = Work(count=FEW, flops=FEW * a_token)
    ways = {OURS: Way(partial(_score, scorer, subject, chunk), Work(count=chunk, flops=chunk * a_token))}
    peers = {
        "stock": lambda: _stock(subject, policy, chunk, choices),
        "tokens": lambda: Way(
            partial(_tokens, _filled(BlockScorer(loaded, policy), subject, chunk), subject), by_token, once=True
        ),
        "published": lambda: Way(_published(subject, policy), by_token, once=True),
        "recompute": lambda: _recompute(subject, policy, choices),
    }
    ways |= {peer: attempted(peers[peer]) for peer in case.peers}
    return Group("tokens_per_s", ways, "stock" if "stock" in ways else None, choices=choices | scorer.choices)


def _filled(scorer: Scorer, subject: Subject, chunk: int) -> Scorer:
    """The same scorer once its cache is full."""
    while scorer.seen <= scorer.policy.reach:
        _score(scorer, subject, chunk)
    return scorer


def _score(scorer: Scorer, subject: Subject, tokens: int) -> np.ndarray:
    """Go on by so many tokens."""
    ids_T = subject.ids(tokens + 1, scorer.seen)
    return scorer.step(ids_T[:-1], ids_T[1:])


def _tokens(scorer: Scorer, subject: Subject) -> list[np.ndarray]:
    return [_score(scorer, subject, 1) for _ in range(FEW)]


def _stock(subject: Subject, policy: SinkWindow, chunk: int, choices: dict[str, str]) -> Way:
    """Pieces of the text, each by itself, about as many tokens a call as a chunk."""
    loaded, length = subject.loaded, fitting(policy, subject.loaded)
    rows, place = max(1, round(chunk / length)), 0

    def run() -> Tensor:
        nonlocal place
        ids_T = subject.ids(rows * length + 1, place).to(loaded.device)
        place += rows * length
        return piece_losses(loaded.model, ids_T[:-1].view(rows, length), ids_T[1:].view(rows, length)).cpu()

    choices["stock"] = f"{rows} pieces of {length} tokens a call: as many tokens as a chunk"
    flops = token_flops(loaded, in_sample(length), policy.reach)
    return Way(run, Work(count=rows * length, flops=rows * length * flops))


def _published(subject: Subject, policy: SinkWindow) -> Callable[[], Tensor]:
    published = Published(subject.loaded, policy)
    published.fill(subject.ids(policy.reach + 1)[None].to(subject.loaded.device))

    def run() -> Tensor:
        ids_T = subject.ids(FEW + 1, published.seen)
        return published.score(ids_T[:-1], ids_T[1:]).cpu()

    return run


def _recompute(subject: Subject, policy: SinkWindow, choices: dict[str, str]) -> Way:
    loaded, length = subject.loaded, fitting(policy, subject.loaded)
    scorer = RecomputeScorer(loaded, Recompute(sinks=0, window=length - 1), bos=False)
    _score(scorer, subject, length)
    choices["recompute"] = f"windows of {length} tokens"
    token = token_flops(loaded, in_sample(length), policy.reach, head=False)
    head = 2 * loaded.model.get_output_embeddings().weight.numel()
    return Way(partial(_score, scorer, subject, FEW), Work(count=FEW, flops=FEW * (length * token + head)), once=True)
