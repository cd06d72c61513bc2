"""Attention that the first token gives away, in blocks and steps: token by token, and keys hidden by other means."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from designed import ATTENDING, designed
from families import HYBRID, STREAMED, in_float64, tiny
from reference import TokenByToken, token_by_token_nll
from test_blocks import stream, text, wrap
from test_ring import losses

from sinkctl.cache.policies import Dense, PerLayer, SinkWindow
from sinkctl.cache.redistribution.settings import Redistribution
from sinkctl.cache.select import ring
from sinkctl.cache.streaming import streaming
from sinkctl.errors import ModelError, UsageError
from sinkctl.metrics.masked_key import hide
from sinkctl.metrics.next_token import next_token
from sinkctl.metrics.samples import laid_out
from sinkctl.model.recurrent import recurrent_cache

SHARE = 0.7
# Softcap and sliding layers, sink logits, ALiBi, partial rotary, interleaved, a hybrid.
MODELS = ["llama", "gemma2", "gpt_oss", "falcon_alibi"]  # grouped heads, a soft cap, learned logits, slopes


class GivingTokenByToken(TokenByToken):
    """From an attention's output o, what it gives the first token, a_0, and all it gives to keys of the stream, m:

        o' = (1 − s)·a_0·v_0 + (m − (1 − s)·a_0)·(o − a_0·v_0) / (m − a_0)

    a_0 and m are outputs of the same attention over other values: 1 for the first token alone, 1 for every token.
    """

    def __init__(self, layers, keeps, heads=None):
        super().__init__(layers, keeps)
        self.heads = {id(f.module): heads and [h for n, h in heads if n == f.number] for f in layers}
        self.beside = {name: TokenByToken(layers, keeps) for name in ("first", "all", "valueless")}
        self.v_0 = {}

    def attend(self, call):
        layer, v = id(call.module), call.v_BGTE
        begins = layer not in self.v_0
        keep = self.rules[layer][1]
        v_0 = self.v_0.setdefault(layer, v.repeat_interleave(call.q_BHTD.shape[1] // v.shape[1], 1))
        own = call.sink_key and call.sink_key._replace(v_GE=None)
        one = torch.ones_like(v[..., :1])
        values = {"first": one if begins else 0 * one, "all": one, "valueless": v}
        a_0, m, o = (
            self.beside[name].attend(replace(call, v_BGTE=values[name], sink_key=own))
            for name in ("first", "all", "valueless")
        )
        out = super().attend(call)
        if begins or (not keep.sinks and keep.window is not None):
            return out
        rest = 1 - SHARE
        given = rest * a_0 * v_0 + (m - rest * a_0) * (o - a_0 * v_0) / (m - a_0) - o
        heads = self.heads[layer]
        if heads is not None:
            given = given * torch.isin(torch.arange(given.shape[1]), torch.tensor(heads))[None, :, None, None]
        return out + given


def expected(loaded, policy, ids, heads=None):
    facts = loaded.layers(getattr(policy, "reach", 127))
    keeps = [policy.keep(f.window, f.number) for f in facts]
    return token_by_token_nll(loaded.model, facts, keeps, ids, GivingTokenByToken(facts, keeps, heads))


def assert_as_written_out(loaded, policy, ids, chunks, heads=None):
    truth = expected(loaded, policy, ids, heads)
    for chunk in chunks:
        np.testing.assert_allclose(stream(loaded, policy, ids, chunk), truth, rtol=0, atol=1e-10)
    tokens = len(ids) - 1
    steps = ring(loaded.layers(getattr(policy, "reach", 127)), policy, 1, tokens)
    found = losses(loaded, steps, ids[None], [9, *[1] * 12, tokens - 21], recurrent_cache(loaded.model))[0]
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-10)
    assert abs(truth.numpy() - stream(loaded, policy.model_copy(update={"redistribute": None}), ids, 9)).max() > 1e-3


@pytest.mark.parametrize("family", MODELS)
def test_blocks_and_steps_equal_the_rule_written_out(family, monkeypatch):
    if family in HYBRID:
        in_float64(monkeypatch)
    loaded, ids = wrap(tiny(*(STREAMED | HYBRID)[family])), text(36)
    whole = Redistribution(share=SHARE)
    assert_as_written_out(loaded, SinkWindow(sinks=2, window=7, redistribute=whole), ids, (5, 36))
    facts = loaded.layers(127)
    free = [f.number for f in facts if f.window is None]
    whole_layer = PerLayer(whole=(facts[-1].number,), sinks=1, window=5, redistribute=whole)
    assert_as_written_out(loaded, whole_layer, ids, (7,))
    heads = ((free[0], 1), (free[-1], 0), (free[-1], 3))
    some = Redistribution(share=SHARE, heads=heads)
    assert_as_written_out(loaded, Dense(redistribute=some), ids, (11,), heads)


@pytest.mark.parametrize("kind", ["sink_logit_bias", "key_bias", "kv_bias_bias"])
def test_what_a_designed_sink_takes_is_left_to_it(kind):
    loaded, ids = wrap(designed("llama", ATTENDING[kind], torch.float64)), text(30)
    assert_as_written_out(loaded, SinkWindow(sinks=2, window=6, redistribute=Redistribution(share=SHARE)), ids, (7,))


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere"])
def test_all_of_it_given_away_in_every_head_is_the_first_key_hidden(family):
    loaded, ids = wrap(tiny(*STREAMED[family])), text(40)
    given = stream(loaded, Dense(redistribute=Redistribution(share=1.0)), ids, 11)
    if family == "gemma2":  # its sliding layers see the first key for a while, and keep it
        expected_nll = expected_with_hidden_in(loaded, ids, [f for f in loaded.layers(127) if f.window is None])
    else:
        expected_nll = next_token(loaded.model, laid_out([ids], torch.device("cpu")), hide([0])).nll_NT[0]
    # The stock classes' own rotary tables are float32.
    np.testing.assert_allclose(given, expected_nll, rtol=0, atol=2e-5)


def expected_with_hidden_in(loaded, ids, layers):
    """The stock model, eager, with the first key masked in some layers from all queries but its own."""

    def hiding(module, args, kwargs):
        T = kwargs["hidden_states"].shape[1] if "hidden_states" in kwargs else args[0].shape[1]
        mask = torch.full((1, 1, T, T), -torch.inf, dtype=torch.float64).triu(1)
        mask[..., 1:, 0] = -torch.inf
        return args, {**kwargs, "attention_mask": mask}

    hooks = [f.module.register_forward_pre_hook(hiding, with_kwargs=True) for f in layers]
    loaded.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            logits = loaded.model(input_ids=ids[None, :-1]).logits[0]
    finally:
        for hook in hooks:
            hook.remove()
    return torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")


def test_rows_of_generation_give_away_as_each_would_alone():
    loaded = wrap(tiny(*STREAMED["llama"]))
    short, long = text(5)[None], text(20).flip(0)[None]
    how = dict(sinks=2, window=6, redistribute={"share": SHARE})
    options = dict(max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None)
    alone = []
    for ids in (short, long):
        with streaming(loaded.model, **how) as cache:
            alone.append(loaded.model.generate(ids, past_key_values=cache, **options)[0, ids.shape[1] :])
    padded = torch.zeros_like(long)
    padded[0, -short.shape[1] :] = short
    mask = torch.ones(2, long.shape[1], dtype=torch.int64)
    mask[0, : -short.shape[1]] = 0
    with streaming(loaded.model, **how) as cache:
        rows = loaded.model.generate(torch.cat([padded, long]), attention_mask=mask, past_key_values=cache, **options)[
            :, long.shape[1] :
        ]
    assert [row.tolist() for row in rows] == [row.tolist() for row in alone]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["llama", "gpt_oss", "falcon_alibi"])
def test_a_gpu_scores_what_a_cpu_scores(family, monkeypatch):
    in_float64(monkeypatch)  # stock norms too: two devices' square roots in float32 differ in the last digit
    model = tiny(*STREAMED[family])
    policy = SinkWindow(sinks=3, window=6, redistribute=Redistribution(share=SHARE, heads=((0, 1), (1, 2))))
    on_cpu = stream(wrap(model), policy, text(40), 7)
    np.testing.assert_allclose(stream(wrap(model.cuda()), policy, text(40), 7), on_cpu, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("family", "policy", "error", "said"),
    [
        ("mistral", dict(sinks=2, window=20), ModelError, "no layer of the model holds the first token"),
        ("llama", dict(sinks=2, window=7, heads=((0, 4),)), UsageError, "--redistribute-heads 0.4: no such head"),
        ("gemma2", dict(sinks=2, window=20, heads=((0, 1),)), UsageError, "those are heads 0 to 3 of layer 1"),
    ],
)
def test_what_no_head_could_do_is_refused(family, policy, error, said):
    loaded = wrap(tiny(*STREAMED[family]))
    settings = Redistribution(share=0.5, **({"heads": policy.pop("heads")} if "heads" in policy else {}))
    with pytest.raises(error, match=said):
        stream(loaded, SinkWindow(**policy, redistribute=settings), text(), 9)


def test_weights_that_are_no_softmax_have_no_share_to_give():
    loaded = wrap(designed("llama", ATTENDING["softpick"], torch.float64))
    with pytest.raises(ModelError, match=r"weights of softpick .* are no softmax"):
        stream(loaded, Dense(redistribute=Redistribution(share=0.5)), text(), 9)


@pytest.mark.parametrize("how", [dict(share=0), dict(share=1.5), dict(share=0.5, heads=())])
def test_shares_are_above_0_and_up_to_1_and_some_head_is_meant(how):
    loaded = wrap(tiny(*STREAMED["llama"]))
    with pytest.raises(UsageError, match="redistribute"), streaming(loaded.model, window=6, redistribute=how):
        pass


def test_heads_are_not_searched_amid_generation():
    loaded = wrap(tiny(*STREAMED["llama"]))
    how = {"share": 0.5, "heads": "calibrate"}
    with pytest.raises(UsageError, match="calibrate is for texts"), streaming(loaded.model, window=6, redistribute=how):
        pass
