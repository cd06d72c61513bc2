"""Eviction by attention, or by chance: against the rule written out head by head, and against the window it becomes."""

import numpy as np
import pytest
import torch
from families import HYBRID, STREAMED, in_float64, tiny
from reference import stock_cache, token_by_token_nll, turn
from test_blocks import stream, text, wrap
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention as attention

from sinkctl.cache.evicting import EvictingCache, _weights
from sinkctl.cache.evicting_ring import EvictingRing
from sinkctl.cache.policies import HeavyHitter, Keep, RandomKept, SinkWindow
from sinkctl.cache.select import ring
from sinkctl.model.attention import attached
from sinkctl.model.handler import AttentionCall, Handler
from sinkctl.recipe.schema import GREEDY, GenerateRecipe
from sinkctl.tasks.generate.generation import decoder_for
from sinkctl.tasks.stream.scorers import BlockScorer, scorer_for

# Grouped heads, a soft cap and short windows, learned sink logits, slopes for positions, recurrent layers between.
FAMILIES = ("llama", "gemma2", "gpt_oss", "bloom", "falcon_h1")


class HeadByHead(Handler):
    """H2O as published, one token a forward: after it every head drops keys that got least until enough are gone."""

    def __init__(self, layers, policy: HeavyHitter):
        self.policy, self.layers = policy, {f.module: f for f in layers}
        self.kept: dict = {f.module: [[] for _ in range(f.kv_heads)] for f in layers}  # of (k, v, got), by head
        self.seen = dict.fromkeys(self.kept, 0)

    def attend(self, call):
        facts, out = self.layers[call.module], []
        own = self.policy.keep(facts.window) == Keep(0, facts.window)
        self.seen[call.module] += 1
        for head, kept in enumerate(self.kept[call.module]):
            kept.append([call.k_BGTD[0, head, -1], call.v_BGTE[0, head, -1], torch.zeros((), dtype=torch.float64)])
            place = torch.arange(len(kept))
            k_SD = turn(torch.stack([k for k, _, _ in kept])[:, None], place, facts.rotation)[:, 0]
            v_SE = torch.stack([v for _, v, _ in kept])
            each = facts.heads // facts.kv_heads
            for query in range(head * each, head * each + each):
                q_D = turn(call.q_BHTD[0, query], place[-1:], facts.rotation)[0]
                score_S = k_SD @ q_D * call.scale
                if call.softcap is not None:
                    score_S = call.softcap * torch.tanh(score_S / call.softcap)
                if call.slope_H is not None:
                    score_S = score_S - call.slope_H[query].double() * (place[-1] - place)
                if own:
                    score_S[place < place[-1] - facts.window] = -torch.inf
                total = score_S.exp().sum()
                if call.sink_logit_H is not None:
                    total = total + call.sink_logit_H[query].exp()
                weight_S = score_S.exp() / total
                for entry, weight in zip(kept, weight_S, strict=True):
                    entry[2] = entry[2] + weight
                out.append(weight_S @ v_SE)
            if own:
                del kept[: max(0, len(kept) - facts.window)]
            else:
                self.evict(kept, self.seen[call.module])
        return torch.stack(out)[None, :, None]

    def evict(self, kept: list, seen: int) -> None:
        if seen % self.policy.every == 0:
            while len(kept) > self.policy.sinks + self.policy.window:
                middle = range(self.policy.sinks, len(kept) - self.policy.last)
                del kept[min(middle, key=lambda place: kept[place][2])]


def head_by_head(loaded, handler, ids_T) -> np.ndarray:
    found, one = [], torch.ones(1, 1, dtype=torch.long)
    carried, model = stock_cache(loaded.model), loaded.model
    with attached(model, handler), torch.no_grad():
        for token, target in zip(ids_T[:-1], ids_T[1:], strict=True):
            logits = model(input_ids=token[None, None], position_ids=0 * one, attention_mask=one, **carried).logits
            found.append(-logits[0, 0].log_softmax(-1)[target])
    return torch.stack(found).numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_heavy_hitters_are_those_of_the_rule_written_out(family, monkeypatch):
    if family in HYBRID:
        in_float64(monkeypatch)
    loaded, ids = wrap(tiny(*(STREAMED | HYBRID)[family])), text()
    cases = (dict(sinks=2, window=12), dict(sinks=0, window=11, recent=3), dict(sinks=1, window=12, every=5))
    for asked in cases if family == "llama" else cases[2:]:
        policy = HeavyHitter(**asked)
        expected = head_by_head(loaded, HeadByHead(loaded.layers(127), policy), ids)
        for chunk in (7, 100):
            found = stream(loaded, policy, ids, chunk)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10, err_msg=f"{asked} by {chunk}")


@pytest.mark.parametrize("policy", [HeavyHitter, RandomKept])
@pytest.mark.parametrize("family", ["llama", "gemma3", "mpt"])
def test_where_nothing_is_chosen_it_is_the_window_with_sinks(family, policy):
    loaded, ids = wrap(tiny(*STREAMED[family])), text()
    found = stream(loaded, policy(sinks=3, window=6, recent=6), ids, 13)
    facts, stock = loaded.layers(127), SinkWindow(sinks=3, window=6)
    expected = token_by_token_nll(loaded.model, facts, [stock.keep(f.window) for f in facts], ids)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_a_block_over_an_evicted_cache_is_masked_from_its_end():
    """`is_causal` lines a block's queries up with the first keys, so that the first of them would see one key."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, t, 8, generator=draw, dtype=torch.float64) for n, t in ((4, 5), (2, 20), (2, 20)))
    call = AttentionCall(None, q, k, v, None, scale=8**-0.5)
    found = _weights(call, q, k, None) @ v.repeat_interleave(2, dim=1)
    right = attention(q, k, v, attn_mask=causal_lower_right(5, 20), enable_gqa=True)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-12)
    wrong = attention(q, k, v, is_causal=True, enable_gqa=True)
    assert ((found - wrong).abs().amax((1, 3)) > 0.5).all(), "every query of the block sees other keys"


def test_chance_is_the_seeds_alone_and_takes_what_is_no_sink_and_not_recent():
    loaded, ids = wrap(tiny(*STREAMED["llama"])), text()
    runs = {seed: [stream(loaded, RandomKept(sinks=2, window=12, seed=seed), ids, chunk) for chunk in (1, 9)]
            for seed in (0, 1)}  # fmt: skip
    np.testing.assert_allclose(runs[0][0], runs[0][1], rtol=0, atol=1e-10)
    assert np.abs(runs[0][0] - runs[1][0]).max() > 1e-3
    facts = loaded.layers(127)
    cache = EvictingCache(facts, RandomKept(sinks=2, window=12))
    marked = torch.arange(49.0, dtype=torch.float64)
    held = []
    for index, layer in enumerate(facts):
        kept = cache._held[index][0]
        kept.k = marked[None, None, :, None].expand(1, layer.kv_heads, 49, layer.width)
        kept.v, kept.got = kept.k[..., : layer.value_width], kept.k[..., 0]
        held.append(cache._kept(kept, index, 0, 49).k[0, :, :, 0].tolist())
    for places in (row for layer in held for row in layer):
        assert places[:2] == [0, 1]
        assert places[-6:] == list(range(43, 49))
        assert places == sorted(places)
        assert len(places) == 14
    assert len({tuple(row) for layer in held for row in layer}) > 1, "each head its own"


def test_it_goes_on_from_its_state_and_holds_what_it_says():
    loaded, ids, policy = wrap(tiny(*STREAMED["gemma2"])), text(), HeavyHitter(sinks=2, window=12, every=4)
    whole = stream(loaded, policy, ids, 11)
    first, second = scorer_for(loaded, policy, bos=False), scorer_for(loaded, policy, bos=False)
    assert isinstance(first, BlockScorer)
    first.step(ids[:22], ids[1:23])
    data, tensors = first.state()
    second.restore(data, {name: tensor.clone() for name, tensor in tensors.items()})
    np.testing.assert_array_equal(np.concatenate([second.step(ids[22:33], ids[23:34])]), whole[22:33])
    sizes = [tensor.shape[2] for name, tensor in second.state()[1].items() if name.endswith(".k")]
    assert max(sizes) <= policy.reach
    assert "keeps 2 sinks, the last 6 and, in each head, 6 that got most attention" in second.layers[-1]


def test_rows_of_a_decoder_write_what_each_alone_would_and_choose_what_scoring_does(demo, book):
    policy = HeavyHitter(sinks=2, window=9)
    settings = GenerateRecipe(sampling=GREEDY, graph=False, compile=False)
    ids = torch.tensor(demo.tokenizer(book[:400], add_special_tokens=False).input_ids)
    prompts = [ids[:31], ids[40:53]]
    both = decoder_for(demo, policy, settings, 2)
    written = torch.stack([both.feed(prompts, 8).clone(), *(both.step().clone() for _ in range(9))])
    for row, prompt in enumerate(prompts):
        alone = decoder_for(demo, policy, settings, 1)
        again = torch.stack([alone.feed([prompt], 5).clone(), *(alone.step().clone() for _ in range(9))])
        assert torch.equal(again[:, 0], written[:, row])
    scorer, whole_T = scorer_for(demo, policy, bos=False), torch.cat([prompts[1], written[:, 1]])
    scorer.step(whole_T[:-1], whole_T[1:])
    found = {name: tensor for name, tensor in both.cache.state().items() if name.split(".")[1] == "1"}
    for name, tensor in scorer.state()[1].items():
        theirs = found[name.replace(".0.", ".1.")]
        torch.testing.assert_close(tensor, theirs, rtol=0, atol=1e-4)
    both.cache.select(torch.tensor([1, 1]))
    assert both.cache.seen == [both.cache.seen[1]] * 2


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_oss", "bloom"])
def test_steps_of_a_decoder_go_by_the_rule_written_out(family, captured, monkeypatch):
    if (
        captured
    ):  # as in a CUDA graph: all slots are looked at, and evicted in every step, where that changes nothing too
        monkeypatch.setattr(EvictingRing, "_reach", lambda self, index, piece, device: (self._most(index), True))
    loaded, ids = wrap(tiny(*STREAMED[family])), text()[:60]
    policy = HeavyHitter(sinks=1, window=12, every=5)
    expected = head_by_head(loaded, HeadByHead(loaded.layers(127), policy), ids)
    cache, found, one = ring(loaded.layers(127), policy, 2), [], torch.ones(2, 1, dtype=torch.long)
    with attached(loaded.model, cache), torch.no_grad():
        for token, target in zip(ids[:-1], ids[1:], strict=True):
            logits = loaded.model(
                input_ids=token * one, position_ids=0 * one, attention_mask=one, use_cache=False
            ).logits
            cache.advance(1)
            found.append(-logits[:, 0].log_softmax(-1)[:, target])
    np.testing.assert_allclose(torch.stack(found).numpy(), np.stack([expected, expected], 1), rtol=0, atol=1e-10)
    assert max(tensor.shape[2] for tensor in cache.state().values()) <= policy.reach


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_oss", "bloom"])
@pytest.mark.parametrize("policy", [HeavyHitter, RandomKept])
@pytest.mark.parametrize("every", [1, 5, 19])
def test_rows_of_other_lengths_go_through_blocks_side_by_side_as_one_after_the_other(family, policy, every):
    loaded, ids = wrap(tiny(*STREAMED[family])), text()
    policy, facts = policy(sinks=1, window=12, every=every), loaded.layers(127)
    caches = EvictingRing(facts, policy, 3), EvictingCache(facts, policy, 3)
    ids_BT, real_BT = torch.zeros(2, 3, 40, dtype=torch.long)
    for row, length in enumerate((40, 33, 6)):  # of the last, no token is in the first blocks
        ids_BT[row, 40 - length :], real_BT[row, 40 - length :] = ids[row : row + length], 1
    for cache in caches:
        with attached(loaded.model, cache), torch.no_grad():
            for part in (slice(0, 17), slice(17, 30), slice(30, 40)):
                cache.expect(real_BT[:, part].bool())
                own = dict(
                    position_ids=torch.zeros_like(ids_BT[:, part]), attention_mask=torch.ones_like(ids_BT[:, part])
                )
                loaded.model(input_ids=ids_BT[:, part], use_cache=False, **own)
                cache.advance(ids_BT[:, part].shape[1])
    found, expected = (cache.state() for cache in caches)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-10, msg=name)


def test_a_block_that_was_stopped_midway_leaves_nothing_of_its_plan(demo):
    policy, settings = (
        HeavyHitter(sinks=1, window=12, every=5),
        GenerateRecipe(sampling=GREEDY, graph=False, compile=False),
    )
    ids = torch.arange(100, 160)
    stopped, whole = (decoder_for(demo, policy, settings, 2) for _ in range(2))
    begun, own, calls = stopped.state(), stopped.cache.attend, []

    def attend(call):
        calls.append(call)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return own(call)

    stopped.cache.attend = attend
    with pytest.raises(KeyboardInterrupt):
        stopped.feed([ids[:9], ids[3:9]], 64)
    stopped.restore(*begun)
    for decoder in (stopped, whole):
        decoder.feed([ids[20:41], ids[22:41]], 64)
    for name, tensor in whole.cache.state().items():
        torch.testing.assert_close(stopped.cache.state()[name], tensor, msg=name)


def test_a_rehearsed_step_leaves_what_is_held_as_it_was(demo):
    settings = GenerateRecipe(sampling=GREEDY, graph=False, compile=False)
    decoder = decoder_for(demo, HeavyHitter(sinks=1, window=12, every=5), settings, 2)
    decoder.feed([torch.arange(100, 160), torch.arange(100, 130)], 64)
    before = {name: tensor.clone() for name, tensor in decoder.cache.state().items()}
    decoder.cache.rehearse(True)
    decoder._forward()
    decoder.cache.rehearse(False)
    for name, tensor in decoder.cache.state().items():
        assert torch.equal(tensor, before[name]), name
