"""Weights that the first key gives away: closed forms, and attention from which it is hidden."""

from functools import partial

import pytest
import torch
from test_stream_attention import SHAPES, inputs

from sinkctl.kernels.stream_attention import Strip, stream_attention
from sinkctl.kernels.stream_attention.redistributed import moved, redistributed

# Those in which the first key is in view of every query.
WITH_FIRST = [shape for shape in SHAPES if shape[5] or shape[4] is None]


def over(shape, heads, share, alibi=False, sink=True):
    arguments, options = inputs(shape, torch.float64, alibi=alibi)
    options["sink_logit_H"] = options["sink_logit_H"] if sink else None
    return redistributed(stream_attention, heads, share, 0, *arguments, **options), arguments, options


def test_equal_scores_give_the_first_key_its_rest_and_the_others_one_share_each():
    T, share = 6, 0.25
    seen_TS = torch.ones(T, T, dtype=torch.bool).tril()
    found = moved(torch.zeros(1, 1, T, T, dtype=torch.float64), seen_TS, share=share)[0, 0]
    assert found[0].tolist() == [1, 0, 0, 0, 0, 0]  # sees no other key
    for t in range(1, T):
        first, other = (1 - share) / (t + 1), (1 + share / t) / (t + 1)
        assert found[t, : t + 1].tolist() == pytest.approx([first, *[other] * t], rel=1e-14)
        assert found[t].sum() == pytest.approx(1, rel=1e-14)


def test_a_sink_logit_and_keys_before_the_first_keep_what_they_take():
    draw = torch.Generator().manual_seed(0)
    score, logit_H = torch.randn(2, 3, 5, 7, generator=draw).double(), torch.randn(3, generator=draw).double()
    seen_TS = torch.ones(5, 7, dtype=torch.bool)
    before = torch.cat([score, logit_H[:, None, None].expand(2, 3, 5, 1)], dim=-1).softmax(-1)[..., :-1]
    after = moved(score, seen_TS, share=0.7, before=1, sink_logit_H=logit_H)
    torch.testing.assert_close(after[..., 0], before[..., 0], rtol=0, atol=1e-15)
    torch.testing.assert_close(after[..., 1], 0.3 * before[..., 1], rtol=0, atol=1e-15)
    torch.testing.assert_close(after.sum(-1), before.sum(-1), rtol=0, atol=1e-15)
    ratio = after[..., 2:] / before[..., 2:]
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio), rtol=1e-13, atol=0)


@pytest.mark.parametrize("alibi", [False, True], ids=["", "alibi"])
@pytest.mark.parametrize("shape", WITH_FIRST)
def test_all_of_it_given_away_is_attention_from_which_the_first_key_is_hidden(shape, alibi):
    found, (q, k, v), options = over(shape, range(shape[0]), 1.0, alibi, sink=False)
    strip, skipped = options["strip"], 0
    if strip is not None:
        rest = None if strip.distance_N is None else strip.distance_N[1:]
        options["strip"] = Strip(strip.q_BHTD, strip.k_BGND[:, :, 1:], strip.v_BGNE[:, :, 1:], rest)
        expected = stream_attention(q, k, v, **options)
    else:
        skipped = 0 if shape[3] else 1  # a query that sees the first key alone
        expected = stream_attention(q[:, :, skipped:], k[:, :, 1:], v[:, :, 1:], **options)
    torch.testing.assert_close(found[:, :, skipped:], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("alibi", [False, True], ids=["", "alibi"])
@pytest.mark.parametrize("shape", WITH_FIRST)
def test_a_share_of_0_is_plain_attention_and_other_heads_stay_to_the_last_bit(shape, alibi):
    H = shape[0]
    plain = stream_attention(*inputs(shape, torch.float64, alibi=alibi)[0], **over(shape, [0], 0.0, alibi)[2])
    torch.testing.assert_close(over(shape, range(H), 0.0, alibi)[0], plain, rtol=0, atol=1e-13)
    found, _, _ = over(shape, [H - 1], 0.8, alibi)
    assert torch.equal(found[:, : H - 1], plain[:, : H - 1])
    if not alibi:  # where slopes leave the first key next to nothing
        assert (found[:, H - 1] - plain[:, H - 1]).abs().max() > 1e-3
    whole, _, _ = over(shape, [*range(1, H), 0], 0.8, alibi)  # in any order
    torch.testing.assert_close(whole[:, H - 1], found[:, H - 1], rtol=0, atol=1e-15)


def test_a_first_key_that_takes_nearly_everything_costs_no_digits():
    """A quotient of what others get would be 0/0 in float32."""
    score = torch.tensor([200.0, 1.0, 2.0, 3.0])[None, None, None]
    found = moved(score, torch.ones(1, 4, dtype=torch.bool), share=0.5)[0, 0, 0]
    expected = torch.cat([torch.tensor([0.5]), 0.5 * torch.tensor([1.0, 2.0, 3.0]).softmax(-1)])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_as_close_to_float64_as_plain_attention_is(dtype):
    arguments, options = inputs(SHAPES[0], dtype)
    wide, exact = [x.double() for x in arguments], dict(options)
    exact["strip"] = Strip(*(x.double() for x in options["strip"][:3]))
    exact["sink_logit_H"] = options["sink_logit_H"].double()
    ours = partial(redistributed, stream_attention, range(3), 0.5, 0)
    error, allowed = (
        (run(*arguments, **options) - run(*wide, **exact)).norm() / run(*wide, **exact).norm()
        for run in (ours, stream_attention)
    )
    assert error <= 2 * allowed
