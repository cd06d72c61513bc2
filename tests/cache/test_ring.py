"""The ring of generation equals streaming token by token, whatever of a stream goes through it in blocks or steps."""

import numpy as np
import pytest
import torch
from families import HYBRID, STREAMED, in_float64, tiny
from fed import losses, wrap
from reference import token_by_token_nll
from test_blocks import ROUTED_IN_FLOAT32, text

from sinkctl.cache.policies import Dense, SinkWindow
from sinkctl.cache.ring import RingCache
from sinkctl.errors import ModelError
from sinkctl.model.attention import attached, hidden_states
from sinkctl.model.head import token_nll
from sinkctl.model.positions import rotate
from sinkctl.model.recurrent import recurrent_cache

# S, W and the blocks a text of 48 tokens goes through in.
CASES = [
    (4, 3, [1] * 48),
    (4, 12, [6, *[1] * 20, 22]),
    (0, 7, [30, *[1] * 18]),
    (2, 1, [1, 1, 1, 9, *[1] * 30, 6]),
    (1, 100, [20, *[1] * 28]),
]


def ring_of(loaded, policy, rows=1, capacity=None) -> RingCache:
    facts = loaded.layers(getattr(policy, "reach", 127))
    return RingCache(facts, [policy.keep(f.window) for f in facts], rows, capacity)


@pytest.mark.parametrize("family", [*STREAMED, "qwen3_next", "jamba", "falcon_h1", "zamba2"])
def test_steps_and_blocks_equal_token_by_token_on_every_family(family, monkeypatch):
    if family in HYBRID:
        in_float64(monkeypatch)
    loaded, ids = wrap(tiny(*(STREAMED | HYBRID)[family])), text()
    # Every case where layers differ most; a block in the middle, and the smallest window, everywhere.
    for sinks, window, blocks in CASES if family in ("llama", "gemma3", "falcon_alibi") else (CASES[1], CASES[3]):
        policy = SinkWindow(sinks=sinks, window=window)
        facts = loaded.layers(policy.reach)
        expected = token_by_token_nll(loaded.model, facts, [policy.keep(f.window) for f in facts], ids)
        found = losses(loaded, ring_of(loaded, policy), ids[None], blocks, recurrent_cache(loaded.model))[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=ROUTED_IN_FLOAT32.get(family, 1e-10))


@pytest.mark.parametrize("place", ["left", "after the first token"])
def test_rows_at_different_places_with_padding_between_equal_single_rows(place):
    loaded, policy = wrap(tiny(*STREAMED["gemma3"])), SinkWindow(sinks=3, window=6)
    ids = [text(40), text(40).flip(0), text(40).roll(7)]
    ring = ring_of(loaded, policy, rows=3)
    at, found = [0, 0, 0], [[], [], []]
    for lengths in ([5, 12, 1], [1, 1, 1], [1, 1, 1], [2, 0, 9], [1, 1, 1], [7, 3, 1], [1, 1, 1]):
        most = max(lengths)
        part, after = torch.full((2, 3, most), 60)
        real = torch.zeros(3, most, dtype=torch.bool)
        for row, length in enumerate(lengths):
            real[row, most - length :] = True
            if place != "left" and 1 < length < most:  # as a last token followed by a padded turn
                real[row, [0, most - length]] = real[row, [most - length, 0]]
            here = slice(at[row], at[row] + length)
            part[row, real[row]], after[row, real[row]] = ids[row][here], ids[row][1:][here]
        ring.expect(real)
        with attached(loaded.model, ring):
            output = hidden_states(loaded.model, part)
        ring.advance(most)
        nll = token_nll(loaded.model, output, part, after)
        for row, length in enumerate(lengths):
            found[row].append(nll[row, real[row]])
            at[row] += length
    assert ring.seen == at
    for row in range(3):
        alone = losses(loaded, ring_of(loaded, policy), ids[row][None], [at[row]])[0]
        np.testing.assert_allclose(torch.cat(found[row]).numpy(), alone, rtol=0, atol=1e-10)


def test_dense_steps_equal_dense_blocks_and_stop_at_their_capacity():
    loaded, ids = wrap(tiny(*STREAMED["olmo3"])), text()
    ring = ring_of(loaded, Dense(), capacity=48)
    stepped = losses(loaded, ring, ids[None], [4, *[1] * 44])
    whole = losses(loaded, ring_of(loaded, Dense(), capacity=48), ids[None], [48])
    np.testing.assert_allclose(stepped, whole, rtol=0, atol=1e-10)
    with pytest.raises(ModelError, match="48 tokens"):
        losses(loaded, ring, ids[None], [1])


def test_rows_can_be_reordered_and_the_latest_token_taken_back():
    loaded, policy = wrap(tiny(*STREAMED["llama"])), SinkWindow(sinks=2, window=5)
    ids = torch.stack([text(30), text(30).flip(0)])
    ring = ring_of(loaded, policy, rows=2)
    before = losses(loaded, ring, ids, [20])
    ring.select(torch.tensor([1, 0]))
    swapped = losses(loaded, ring, ids.flip(0)[:, 20:], [1] * 8)
    ring.rewind([27, 27])
    again = losses(loaded, ring, ids.flip(0)[:, 27:], [1])
    np.testing.assert_array_equal(again, swapped[:, 7:])
    whole = losses(loaded, ring_of(loaded, policy, rows=2), ids, [28])
    np.testing.assert_allclose(np.concatenate([before, swapped[::-1]], 1), whole, rtol=0, atol=1e-10)


def test_a_restored_ring_goes_on_to_the_same_bits(demo, book):
    ids = torch.tensor(demo.tokenizer(book[:2000]).input_ids)[None, :300]
    policy = SinkWindow(sinks=4, window=60)
    ring = ring_of(demo, policy)
    losses(demo, ring, ids, [200])
    other = ring_of(demo, policy)
    other.restore({name: x.clone() for name, x in ring.state().items()}, ring.seen)
    np.testing.assert_array_equal(
        losses(demo, ring, ids[:, 200:], [1] * 20), losses(demo, other, ids[:, 200:], [1] * 20)
    )


def test_steps_far_out_lose_nothing(demo, book):
    position = 1_000_000_000
    ids = torch.tensor(demo.tokenizer(book[:4000]).input_ids)[None, :401]
    policy = SinkWindow(sinks=4, window=60)
    near, far = ring_of(demo, policy), ring_of(demo, policy)
    losses(demo, near, ids, [200])
    losses(demo, far, ids, [200])
    # The ring as it would stand had the same tokens come `position` tokens later.
    shifted = position // 61 * 61
    with torch.no_grad():
        for layer, rotation in zip(far._layers, far.rotations[0], strict=True):
            angle = rotation.angles([shifted])
            table = (angle.cos().float(), angle.sin().float())
            layer.ring.k_BGRD.copy_(rotate(layer.ring.k_BGRD, rotation, table))
    far._set([200 + shifted])
    expected, found = (losses(demo, ring, ids[:, 200:], [1] * 150) for ring in (near, far))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
