"""Streaming in blocks equals streaming token by token, on every family, to the last digits of float64."""

import copy

import numpy as np
import pytest
import torch
from families import HYBRID, STREAMED, in_float64, tiny
from fed import wrap
from reference import TokenByToken, stock_cache, token_by_token_nll
from torch.nn.functional import cross_entropy

from sinkctl.cache.layers import kept_by
from sinkctl.cache.policies import Dense, Keep, PerHead, PerLayer, SinkWindow, SlidingWindow
from sinkctl.errors import UsageError
from sinkctl.model.attention import attached
from sinkctl.model.handler import Handler
from sinkctl.model.load import LoadedModel
from sinkctl.tasks.stream.scorers import BlockScorer

TOKENS = 48
# S, W and chunks: < S, = S + W and > text; W = 1; S = 0 and chunk = 1; W > text; across the filling of the cache.
CASES = {(4, 3): (2, 7, 100), (4, 1): (9,), (0, 7): (5, 1), (1, 100): (13,), (1, 16): (17,)}
# What blocks do to each case does not depend on the family: all of them where keys are rotated, windows a layer's own,
# heads have sink logits, or scores fall with the distance; of the others enough to see each family's own parts.
OF_MOST = {(4, 3): (2, 100), (0, 7): (5,), (1, 16): (17,)}
ALL_CASES = ("llama", "gemma3", "gpt_oss", "falcon_alibi")
# This family's router computes in float32 whatever the model's dtype, so float64 agreement ends there.
ROUTED_IN_FLOAT32 = {"deepseek_v3": 1e-5}
FAMILIES = STREAMED | HYBRID


def stream(loaded: LoadedModel, policy, ids_T: torch.Tensor, chunk: int, seen: int | None = None) -> np.ndarray:
    """Score a text in blocks; `seen` claims that many tokens went by before the second block."""
    scorer, losses = BlockScorer(loaded, policy), []
    for start in range(0, len(ids_T) - 1, chunk):
        if start and seen is not None:
            data, tensors = scorer.state()
            scorer.restore(data | {"seen": data["seen"] + seen}, tensors)
            seen = None
        end = min(start + chunk, len(ids_T) - 1)
        losses.append(scorer.step(ids_T[start:end], ids_T[start + 1 : end + 1]))
    return np.concatenate(losses)


def text(tokens: int = TOKENS) -> torch.Tensor:
    return torch.randint(3, 64, (tokens + 1,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def family(request, monkeypatch):
    """A name of FAMILIES; a hybrid's recurrent layers compute in float64 throughout."""
    if request.param in HYBRID:
        in_float64(monkeypatch)
    return request.param


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_blocks_equal_token_by_token_on_every_family(family):
    loaded, ids = wrap(tiny(*FAMILIES[family])), text(TOKENS if family in ALL_CASES else 32)
    facts = loaded.layers(128)
    tolerance = ROUTED_IN_FLOAT32.get(family, 1e-10)
    for (sinks, window), chunks in (CASES if family in ALL_CASES else OF_MOST).items():
        policy = SinkWindow(sinks=sinks, window=window)
        expected = token_by_token_nll(loaded.model, facts, [policy.keep(f.window) for f in facts], ids)
        for chunk in chunks:
            found = stream(loaded, policy, ids, chunk)
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=f"{sinks}+{window} by {chunk}")


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_dense_blocks_equal_the_stock_model(family):
    """The stock model rotates by its own tables (float32 angles), so this also checks what the probe found."""
    model, ids = tiny(*FAMILIES[family]), text()
    with torch.no_grad():
        logits = model(input_ids=ids[None, :-1]).logits[0]
    expected = cross_entropy(logits, ids[1:], reduction="none")
    np.testing.assert_allclose(stream(wrap(model), Dense(), ids, 11), expected, rtol=0, atol=2e-5)


def test_whole_layers_among_others_equal_token_by_token():
    loaded, ids, policy = wrap(tiny(*FAMILIES["llama"])), text(), PerLayer(whole=(1,), sinks=2, window=7)
    facts = loaded.layers(127)
    assert kept_by(policy, facts) == [Keep(2, 7), Keep(0, None)]
    expected = token_by_token_nll(loaded.model, facts, kept_by(policy, facts), ids)
    scorer = BlockScorer(loaded, policy)
    found = [scorer.step(ids[start : start + 16], ids[start + 1 : start + 17]) for start in range(0, TOKENS, 16)]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=1e-10)
    assert sorted(x.shape[2] for name, x in scorer.state()[1].items() if name.endswith(".k")) == [7, TOKENS]
    with pytest.raises(UsageError, match=r"whole: layer 5 is none with attention; the model's are 0-1$"):
        kept_by(PerLayer(whole=(0, 5), window=7), facts)


class _ByHead(Handler):
    """Whole heads and others: each token-by-token handler sees the heads of its rule alone."""

    def __init__(self, facts, whole, policy):
        self.whole, kept = whole, ([Keep(0, f.window) for f in facts], kept_by(policy, facts))
        self.handlers = [TokenByToken(facts, keeps) for keeps in kept]
        self.number = {f.module: f.number for f in facts}

    def attend(self, call):
        out, groups = [], call.k_BGTD.shape[1]
        each = call.q_BHTD.shape[1] // groups
        answers = [handler.attend(call) for handler in self.handlers]
        for head in range(groups):
            answer = answers[0 if (self.number[call.module], head) in self.whole else 1]
            out.append(answer[:, head * each : head * each + each])
        return torch.cat(out, dim=1)


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "bloom"])
def test_whole_heads_among_others_equal_token_by_token(family):
    loaded, ids = wrap(tiny(*FAMILIES[family])), text()
    facts, whole = loaded.layers(127), ((0, 1), (1, 0))
    policy, others = PerHead(whole=whole, sinks=2, window=7), SinkWindow(sinks=2, window=7)
    one, expected = torch.ones(1, 1, dtype=torch.long), []
    with attached(loaded.model, _ByHead(facts, whole, others)), torch.no_grad():
        for token, target in zip(ids[:-1], ids[1:], strict=True):
            logits = loaded.model(input_ids=token[None, None], position_ids=0 * one, attention_mask=one).logits
            expected.append(-logits[0, 0].log_softmax(-1)[target])
    for chunk in (5, 48):
        np.testing.assert_allclose(stream(loaded, policy, ids, chunk), expected, rtol=0, atol=1e-10)
    half = BlockScorer(loaded, policy)
    half.step(ids[:20], ids[1:21])
    data, tensors = half.state()
    again = BlockScorer(loaded, policy)
    again.restore(data, tensors)
    np.testing.assert_allclose(again.step(ids[20:48], ids[21:49]), expected[20:48], rtol=0, atol=1e-10)
    held = {x.shape[2] for name, x in again.state()[1].items() if name.endswith(".k")}
    assert held == ({7, 8, TOKENS} if family == "gpt_oss" else {7, TOKENS}), "memory of the others does not grow"
    for wrong in (((0, 9),), tuple((f.number, g) for f in facts for g in range(f.kv_heads))):
        with pytest.raises(UsageError, match=r"head 9 of layer 0 is none|all heads are whole"):
            BlockScorer(loaded, PerHead(whole=wrong, window=7))


class _StockRotations(Handler):
    """Feeds each token in every slot of the cache at once, so that the stock class itself rotates keys and queries."""

    def __init__(self, keeps):
        self.keeps, self.kept = keeps, {}

    def attend(self, call):
        keep, kept = self.keeps[call.module], self.kept.setdefault(call.module, [])
        kept.append((call.k_BGTD[:, :, -1], call.v_BGTE[0, :, -1]))  # k: one row a slot
        repeat = call.q_BHTD.shape[1] // call.k_BGTD.shape[1]
        k_SHD = torch.stack([k[slot] for slot, (k, _) in enumerate(kept)]).repeat_interleave(repeat, 1)
        v_SHE = torch.stack([v for _, v in kept]).repeat_interleave(repeat, 1)
        score_HS = torch.einsum("shd,hd->hs", k_SHD, call.q_BHTD[len(kept) - 1, :, 0]) * call.scale
        if call.softcap is not None:
            score_HS = call.softcap * torch.tanh(score_HS / call.softcap)
        if call.slope_H is not None:  # ALiBi takes no `position_ids`: the same slots, as a bias
            score_HS = score_HS - call.slope_H[:, None] * torch.arange(len(kept) - 1, -1, -1)
        if call.sink_logit_H is not None:
            score_HS = torch.cat([score_HS, call.sink_logit_H[:, None].to(score_HS)], 1)
        weight_HS = score_HS.softmax(-1)[:, : len(kept)]
        if keep.window is not None and len(kept) > keep.sinks + keep.window:
            del kept[keep.sinks]
        out = torch.einsum("hs,she->he", weight_HS, v_SHE)
        return out[None, :, None].expand(call.q_BHTD.shape[0], -1, -1, -1)


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_streaming_equals_keys_rotated_by_the_stock_class_at_their_slots(family):
    """No arithmetic of ours turns a key here: positions in the cache are the stock model's own `position_ids`."""
    loaded, ids = wrap(tiny(*FAMILIES[family], dtype=torch.float32)), text()
    policy = SinkWindow(sinks=3, window=12)
    facts = loaded.layers(policy.reach)
    handler = _StockRotations({f.module: policy.keep(f.window) for f in facts})
    slots = torch.arange(TOKENS + 1 if any(k.sinks == 0 for k in handler.keeps.values()) else policy.reach + 1)[:, None]
    losses, carried = [], stock_cache(loaded.model)
    with attached(loaded.model, handler), torch.no_grad():
        for token, target in zip(ids[:-1], ids[1:], strict=True):
            rows = torch.full_like(slots, int(token))
            logits = loaded.model(
                input_ids=rows, position_ids=slots, attention_mask=torch.ones_like(rows), **carried
            ).logits[0, 0]
            losses.append(-logits.float().log_softmax(-1)[target])
    np.testing.assert_allclose(stream(loaded, policy, ids, 7), torch.stack(losses), rtol=0, atol=2e-5)


@pytest.mark.parametrize("hybrid", ["qwen3_next", "jamba"])
def test_float32_blocks_of_hybrids_are_as_close_to_float64_as_the_stock_model(hybrid, monkeypatch):
    model, exact, ids = tiny(*HYBRID[hybrid], dtype=torch.float32), tiny(*HYBRID[hybrid]), text()
    found = stream(wrap(model), Dense(), ids, 11)
    with torch.no_grad():
        stock = cross_entropy(model(input_ids=ids[None, :-1]).logits[0], ids[1:], reduction="none").numpy()
    in_float64(monkeypatch)
    truth = stream(wrap(exact), Dense(), ids, TOKENS)
    assert abs(found - truth).max() <= 3 * abs(stock - truth).max()


@pytest.mark.parametrize("position", [5_000_000, 10**9])
def test_nothing_changes_with_position(demo, book, position):
    ids = torch.tensor(demo.tokenizer(book[:4000]).input_ids)[:601]
    policy = SinkWindow(sinks=4, window=60)
    near, far = stream(demo, policy, ids, 100), stream(demo, policy, ids, 100, seen=position)
    assert (near == far).all()


def test_float32_on_real_weights_stays_at_float64_whatever_the_chunk(demo, book):
    ids = torch.tensor(demo.tokenizer(book[:12000]).input_ids)[:1501]
    policy = SinkWindow(sinks=4, window=60)
    truth = stream(wrap(copy.deepcopy(demo.model).double()), policy, ids, 250)
    for chunk in (64, 999, 1500):
        error = abs(stream(demo, policy, ids, chunk) - truth)
        assert error.max() <= 2e-5


def test_float32_on_real_weights_is_as_close_to_float64_as_the_stock_model(demo, book):
    exact = wrap(copy.deepcopy(demo.model).double())
    ids = torch.tensor(demo.tokenizer(book[:3000]).input_ids)[:501]
    truth, found = stream(exact, Dense(), ids, 128), stream(demo, Dense(), ids, 128)
    with torch.no_grad():
        stock = cross_entropy(demo.model(input_ids=ids[None, :-1]).logits[0], ids[1:], reduction="none").numpy()
    assert abs(found - truth).max() <= 2 * abs(stock - truth).max()


def test_token_by_token_equals_blocks_on_real_weights_in_float64(demo, book):
    exact = wrap(copy.deepcopy(demo.model).double())
    ids = torch.tensor(demo.tokenizer(book[:1500]).input_ids)[:121]
    for policy in (SinkWindow(sinks=4, window=28), SlidingWindow(window=32)):
        facts = exact.layers(policy.reach)
        expected = token_by_token_nll(exact.model, facts, [policy.keep(f.window) for f in facts], ids)
        np.testing.assert_allclose(stream(exact, policy, ids, 50), expected, rtol=0, atol=1e-10)
