"""Second halves run alone against the same run whole, in every kind of attention."""

import pytest
import torch
from families import HYBRID, STREAMED, in_float64, tiny

from sinkctl.metrics.continued import Kept, continued, same
from sinkctl.metrics.masked_key import hide, hide_each, hide_nearest
from sinkctl.metrics.next_token import next_token
from sinkctl.metrics.samples import laid_out

T, FIRST = 24, 11
PATTERNS = {
    "nothing": None,
    "the first key": hide((0,), FIRST),
    "keys here and there": hide((3, 7, 15), FIRST),
    "the nearest 3": hide_nearest(3, FIRST),
}
EACH = ([5, 6], [9])  # keys hidden, a sample each
FAMILIES = ["llama", "mistral", "gemma2", "gpt_oss", "gpt_neox", "cohere2", "mpt", "bloom"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_later_part_run_alone_equals_the_whole(family, monkeypatch):
    model = tiny(*STREAMED[family])
    in_float64(monkeypatch)
    ids_NT = torch.randint(3, 64, (2, T), generator=torch.Generator().manual_seed(1))
    samples, kept = laid_out(list(ids_NT), model.device), Kept(FIRST)
    whole = next_token(model, samples, first=FIRST, keep=kept.keep)
    assert same(model, lambda: continued(model, ids_NT[:1], kept.of([0])), whole)[0]
    # A key is seen at its own place, so that what comes before the first hidden one, and it, are as they were.
    patterns = [(also, None) for also in PATTERNS.values()]
    patterns += [(hide((3, 7)), 4), (hide_each(EACH), 6), (hide_each(EACH, FIRST), None)]
    for also, first in patterns:
        alone = continued(model, ids_NT, kept, also, first)
        all_of_it = next_token(model, samples, also or hide(()), FIRST)
        assert alone.nll_NT.shape == (2, T - 1 - FIRST)
        torch.testing.assert_close(alone.nll_NT, all_of_it.nll_NT, rtol=0, atol=1e-10)
        torch.testing.assert_close(alone.last_NV, all_of_it.last_NV, rtol=0, atol=1e-10)
    own = continued(model, ids_NT[1:], kept.of([1]), hide(EACH[1], FIRST))
    torch.testing.assert_close(own.nll_NT, alone.nll_NT[1:], rtol=0, atol=1e-10)


def test_what_carries_more_than_keys_and_values_is_not_run_alone():
    model = tiny(*next(iter(HYBRID.values())), torch.float32)
    ids_NT = torch.randint(3, 64, (1, T), generator=torch.Generator().manual_seed(1))
    kept = Kept(FIRST)
    whole = next_token(model, laid_out(list(ids_NT), model.device), first=FIRST, keep=kept.keep)
    found = same(model, lambda: continued(model, ids_NT, kept), whole)
    assert found == (False, "its recurrent layers carry more than keys and values")


def test_a_later_part_that_differs_is_found_out():
    model = tiny(*STREAMED["llama"], torch.float32)
    ids_NT = torch.randint(3, 64, (1, T), generator=torch.Generator().manual_seed(1))
    kept = Kept(FIRST)
    whole = next_token(model, laid_out(list(ids_NT), model.device), first=FIRST, keep=kept.keep)
    k, v, pattern = kept.layers[0]
    kept.layers[0] = (k + 1.0, v * 3, pattern)
    assert not same(model, lambda: continued(model, ids_NT, kept), whole)[0]
