"""Sequences of a training step: drawn from a corpus, then laid out as a model is fed.

Shapes: B sequences, T tokens of the longest with what stands in front of documents, N without.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sinkctl.tasks.convert.training.corpus import Corpus

NO_TARGET = -100  # as torch's cross-entropy ignores it


class Body(NamedTuple):
    """A sequence without special tokens."""

    ids: NDArray[np.int64]
    starts: tuple[int, ...]  # where in it documents begin; the first is 0, for the sequence's beginning counts as one


class Packed(NamedTuple):
    """Sequences as a model is fed them, padded on the right with id 0."""

    ids_BT: Tensor  # int64
    target_BT: Tensor  # int64: the token to predict at each place, NO_TARGET where there is none
    place_BN: Tensor  # int64: the place at which each token of the body is predicted, -1 where it is not
    documents_N: Tensor | None  # int32: boundaries of documents over the B·T tokens, as flash's cu_seqlens


def drawn(corpus: Corpus, count: int, room: int, front: int, boundaries: str, seed: int, step: int) -> list[Body]:
    """`count` crops of the corpus from uniformly drawn places on, a pure function of the arguments.

    Each takes `room` tokens together with `front` (0 or 1) in front of each of its documents; with boundaries "none",
    in front of the sequence only. Where the last place could only hold the front of a document without any token of
    it, the crop begins a token earlier. It stays one short where none before it fits either (say, every document is
    one token, and room is odd). The corpus must hold `room` tokens.
    """
    assert front in (0, 1)
    assert front < room <= len(corpus.tokens)
    starts = corpus.starts[:0] if boundaries == "none" else corpus.starts
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step])))
    places = generator.integers(_last_place(corpus, starts, room, front) + 1, size=count)
    return [_crop(corpus, starts, int(place), room, front) for place in places]


def packed(bodies: Sequence[Body], front: tuple[int, ...], boundaries: str) -> Packed:
    """With `front` in front of each document (boundaries "bos" and "mask") or of each sequence ("none").

    Tokens of `front` are no targets. Where documents do not see each other ("mask"), neither is the first token of
    one without `front`. Padding counts as a document of its own.
    """
    begins = [np.array((0,) if boundaries == "none" else body.starts) for body in bodies]
    lengths = [len(body.ids) + len(front) * len(own) for body, own in zip(bodies, begins, strict=True)]
    rows, width, longest = len(bodies), max(lengths), max(len(body.ids) for body in bodies)
    ids_BT = np.zeros((rows, width), np.int64)
    target_BT = np.full((rows, width), NO_TARGET, np.int64)
    place_BN = np.full((rows, longest), -1, np.int64)
    edges = []
    for row, (body, own, length) in enumerate(zip(bodies, begins, lengths, strict=True)):
        index = np.arange(len(body.ids))
        column = index + len(front) * np.searchsorted(own, index, "right")
        first = own + len(front) * np.arange(len(own))
        ids_BT[row, column] = body.ids
        ids_BT[row, first[:, None] + np.arange(len(front))] = front
        place = column - 1  # -1 for a token that a row begins with
        if boundaries == "mask" and not front:
            place[own] = -1
        target_BT[row, place[place >= 0]] = body.ids[place >= 0]
        place_BN[row, : len(place)] = place
        edges.append(row * width + np.append(first, length))
    documents_N = None
    if boundaries == "mask":
        documents_N = torch.from_numpy(np.unique(np.concatenate([*edges, [rows * width]])).astype(np.int32))
    return Packed(torch.from_numpy(ids_BT), torch.from_numpy(target_BT), torch.from_numpy(place_BN), documents_N)


def after_prefix(pack: Packed, prefix: int | None) -> Packed:
    """The same with nothing to predict before place `prefix` of a row, which every query sees."""
    if prefix is None:
        return pack
    target_BT = pack.target_BT.clone()
    target_BT[:, : prefix - 1] = NO_TARGET
    return pack._replace(target_BT=target_BT)


def _last_place(corpus: Corpus, starts: NDArray[np.int64], room: int, front: int) -> int:
    """The last place from which the corpus fills `room`."""
    end = len(corpus.tokens)
    place = np.arange(end - room, end)
    taken = end - place + front * (1 + len(starts) - np.searchsorted(starts, place, "right"))
    return int(place[taken >= room][-1])


def _crop(corpus: Corpus, starts: NDArray[np.int64], place: int, room: int, front: int) -> Body:
    body = _from(corpus, starts, place, room, front)
    for earlier in range(place - 1, max(-1, place - room), -1):
        if _taken(body, front) == room:
            return body
        body = _from(corpus, starts, earlier, room, front)
    return body


def _taken(body: Body, front: int) -> int:
    return len(body.ids) + front * len(body.starts)


def _from(corpus: Corpus, starts: NDArray[np.int64], place: int, room: int, front: int) -> Body:
    """As many tokens from `place` on as fit, none of them a front without a token behind it."""
    after = np.searchsorted(starts, place, "right")
    inner = starts[after : after + room] - place
    fits = inner + 1 + front * np.arange(2, len(inner) + 2) <= room
    count = int(np.count_nonzero(fits))
    length = room - front * (1 + count)
    if count < len(inner):
        length = min(length, int(inner[count]))
    ids = corpus.tokens[place : place + length].astype(np.int64)
    return Body(ids, (0, *inner[:count].tolist()))
