"""Predicted tokens kept in full: found in a model, told as they come, and kept whichever way a stream goes through."""

import numpy as np
import pytest
import torch
from families import HYBRID, STREAMED, in_float64, tiny
from fed import losses, rows_of_streaming, wrap
from pydantic import ValidationError
from reference import token_by_token_nll
from rounded import BLOCKS, TOKENS, RoundedTokenByToken, scored, text

from sinkctl.cache.policies import Dense, PerHead, SinkWindow, SlidingWindow
from sinkctl.cache.precision.predicted import find, settled
from sinkctl.cache.precision.settings import Massive, Precision
from sinkctl.cache.select import ring
from sinkctl.cache.streaming import streaming
from sinkctl.check.stream import different
from sinkctl.errors import ModelError, UsageError
from sinkctl.model.attention import hidden_states
from sinkctl.model.recurrent import recurrent_cache

CHANNELS = (3, 17)


def telling(loaded, share: float = 0.3) -> Massive:
    """What tells about such a share of the tokens of a tiny model, whose activations are not massive."""
    seen = []
    layer = loaded.model.model.layers[0]
    with layer.register_forward_hook(lambda *call: seen.append(call[-1])):
        hidden_states(loaded.model, text()[None])
    h = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    above = float(h[0][:, list(CHANNELS)].abs().amax(-1).quantile(1 - share))
    return Massive(layer=0, channels=CHANNELS, above=above)


def policies(massive: Massive) -> list:
    """Fewer slots than are told; first ones too; slots freed as their tokens leave; keys by token; nothing leaves."""
    common = dict(group=8, massive=massive)
    return [
        SinkWindow(sinks=3, window=20, precision=Precision(bits=2, recent=4, keep="predicted", most=3, **common)),
        SinkWindow(
            sinks=10, window=11, precision=Precision(bits=3, recent=3, keep="first:2+predicted", most=5, **common)
        ),
        SlidingWindow(window=8, precision=Precision(bits=4, recent=0, keep="predicted", most=2, **common)),
        SinkWindow(
            sinks=3, window=9, precision=Precision(bits=2, recent=2, keys="token", keep="first:1+predicted", **common)
        ),
        Dense(precision=Precision(bits=2, recent=5, keep="predicted", most=4, **common)),
    ]


def expected(loaded, policy, ids_T) -> tuple[torch.Tensor, RoundedTokenByToken]:
    facts = loaded.layers(128)
    keeps = [policy.keep(f.window) for f in facts]
    rule = RoundedTokenByToken(facts, keeps, policy.precision)
    return token_by_token_nll(loaded.model, facts, keeps, ids_T, rule), rule


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_blocks_and_single_tokens_equal_token_by_token(family):
    loaded, ids = wrap(tiny(*STREAMED[family])), text()
    for policy in policies(telling(loaded)):
        truth, rule = expected(loaded, policy, ids)
        keeping = rule.admitted[id(loaded.layers(128)[1].module)]
        assert len(keeping) >= 4, "the text tells too few to show anything"
        assert not rule.admitted[id(loaded.layers(128)[0].module)], "the layer that tells keeps nothing"
        assert len(keeping) < sum(rule.told) or policy.precision.most > 5, "there is a slot for every one"
        for blocks in BLOCKS if family == "llama" else BLOCKS[2:]:
            held = ring(loaded.layers(128), policy, 1, None if isinstance(policy, Dense) else TOKENS)
            room = held.bytes_held()
            np.testing.assert_allclose(losses(loaded, held, ids[None], blocks)[0], truth, rtol=0, atol=1e-10)
            assert isinstance(policy, Dense) or held.bytes_held() == room, "a text takes no more room"
        np.testing.assert_allclose(scored(loaded, policy, ids, 13, resumed=True), truth, rtol=0, atol=1e-10)
        without = policy.precision.model_copy(update={"keep": "none"})
        other = scored(loaded, policy.model_copy(update={"precision": without}), ids, TOKENS)
        assert abs(other - truth.numpy()).max() > 1e-4


def test_a_layer_that_remembers_nothing_but_a_state_may_tell(monkeypatch):
    in_float64(monkeypatch)
    loaded, ids = wrap(tiny(*HYBRID["jamba"])), text()
    assert min(f.number for f in loaded.layers(128)) > 0
    policy = policies(telling(loaded))[0]
    truth, rule = expected(loaded, policy, ids)
    assert all(rule.admitted.values())
    held = ring(loaded.layers(128), policy, 1)
    found = losses(loaded, held, ids[None], BLOCKS[2], recurrent_cache(loaded.model))[0]
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-10)


def test_rows_that_keep_different_tokens_are_each_scored_as_alone():
    """`streaming()` takes prompts of several lengths, padded on the left, and then tokens."""
    model = tiny(*STREAMED["llama"])
    policy = policies(telling(wrap(model)))[0]
    ids, starts = torch.stack([text(1), text(2), text(1)]), (20, 6, 20)
    for row, found in enumerate(rows_of_streaming(model, policy, ids, starts)):
        alone = scored(wrap(model), policy, ids[row], 13)[starts[row] - 1 : starts[row] + 30]
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-10)


def test_the_score_of_a_beam_is_that_of_its_text_in_blocks():
    model, prompt = tiny(*STREAMED["llama"]), text()[None, :30]
    policy = policies(telling(wrap(model)))[0]
    options = dict(num_beams=3, do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=TOKENS - 29)
    options |= dict(return_dict_in_generate=True, output_scores=True)
    with streaming(model, 3, 20, policy.precision) as cache:
        found = model.generate(prompt, attention_mask=torch.ones_like(prompt), past_key_values=cache, **options)
    given = scored(wrap(model), policy, found.sequences[0], 13)[29:]
    np.testing.assert_allclose(-found.sequences_scores, given.mean(), rtol=0, atol=1e-6)  # kept in float32


def test_heads_that_keep_everything_keep_predicted_tokens_too():
    """Heads under two rules: those of a layer that keeps all, and the others."""
    loaded, ids = wrap(tiny(*STREAMED["llama"])), text()
    precision = policies(telling(loaded))[0].precision
    split = scored(loaded, PerHead(sinks=3, window=20, whole=[(1, 0)], precision=precision), ids, 13)
    again = scored(loaded, PerHead(sinks=3, window=20, whole=[(1, 0)], precision=precision), ids, 5)
    np.testing.assert_allclose(split, again, rtol=0, atol=1e-10)
    plain = precision.model_copy(update={"keep": "none"})
    assert (
        abs(scored(loaded, PerHead(sinks=3, window=20, whole=[(1, 0)], precision=plain), ids, 13) - split).max() > 1e-4
    )


def test_a_token_taken_back_is_kept_no_more():
    loaded, ids = wrap(tiny(*STREAMED["llama"])), text()
    policy = policies(telling(loaded))[0]
    held = ring(loaded.layers(128), policy, 1)
    truth, rule = expected(loaded, policy, ids)
    told = rule.admitted[id(loaded.layers(128)[1].module)][0]
    losses(loaded, held, ids[None, : told + 1], [told] if told else [])
    other = text(5)[None, :2]
    losses(loaded, held, torch.cat([ids[None, told : told + 1], other[:, :1]], 1), [1])
    held.rewind([told])
    assert told not in held.state()["1.admitted"]
    found = losses(loaded, held, ids[None, told:], [TOKENS - told])[0]
    np.testing.assert_allclose(found, truth[told:], rtol=0, atol=1e-10)


def test_what_tells_is_found_where_a_model_has_massive_activations():
    """One channel of one token of a tiny model made massive by its embedding; and none in the same model without."""
    model = tiny(*STREAMED["llama"], dtype=torch.float32)
    with pytest.raises(ModelError, match=r"--kv-keep predicted: no activation of tiny is massive.*or first:1"):
        settled([SinkWindow(precision=Precision(keep="predicted"))], wrap(model))
    bos = model.config.bos_token_id
    with torch.no_grad():
        model.model.embed_tokens.weight[bos, 5] = 1e6
    found = find(wrap(model))
    assert (found.layer, found.channels) == (0, (5,))
    ids = text()
    ids[0] = ids[20] = bos
    asked = SinkWindow(sinks=3, window=20, precision=Precision(group=8, recent=4, keep="predicted"))
    (policy,) = settled([asked], wrap(model))
    assert policy.precision.massive == found
    held = ring(wrap(model).layers(128), policy, 1)
    losses(wrap(model), held, ids[None], [TOKENS])
    assert held.state()["1.admitted"][0].tolist()[:3] == [0, 20, -1]


@pytest.mark.parametrize("family", ["gptj", "mpt"])
def test_what_tells_is_looked_for_within_a_short_context(family):
    """A table of positions, or of slopes, that ends after 128 tokens."""
    with pytest.raises(ModelError, match="no activation of tiny is massive"):
        find(wrap(tiny(*STREAMED[family], dtype=torch.float32)))


def test_policies_that_differ_in_what_tells_alone_are_not_called_the_same():
    told = [Massive(layer=0, channels=(3,), above=above) for above in (1.0, 2.0, 1.0)]
    first, other, same = (SinkWindow(window=252, precision=Precision(keep="predicted", massive=each)) for each in told)
    with pytest.raises(UsageError, match=r"two differ in precision\.massive alone; give each a run of its own"):
        different([first, other])
    with pytest.raises(UsageError, match="two policies are the same"):
        different([first, same])
    with pytest.raises(ValidationError, match="finite number"):
        Massive(layer=0, channels=(3,), above=float("inf"))


@pytest.mark.parametrize(
    ("massive", "said"),
    [
        (Massive(layer=1, channels=(0,), above=1.0), "precision.massive.layer: 1: .*give at most 0"),
        (Massive(layer=0, channels=(0, 32), above=1.0), "precision.massive.channels: 32: tiny has 32; give at most 31"),
    ],
)
def test_what_a_model_has_not_is_one_line(massive, said):
    with pytest.raises(UsageError, match=said):
        settled([SinkWindow(precision=Precision(keep="predicted", massive=massive))], wrap(tiny(*STREAMED["llama"])))
