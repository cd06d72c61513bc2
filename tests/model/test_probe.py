"""The position probe explains what it can, and refuses the rest by name."""

import pytest
import torch
from families import REFUSED, STREAMED, tiny
from transformers.masking_utils import sliding_window_causal_mask_function

from sinkctl.errors import ModelError
from sinkctl.model.masks import PART, past_keys
from sinkctl.model.probe import probe


@pytest.mark.parametrize("family", REFUSED)
def test_what_is_not_explained_is_refused_with_its_reason(family):
    model_type, settings, reason = REFUSED[family]
    with pytest.raises(ModelError, match=reason) as refusal:
        probe(tiny(model_type, settings, torch.float32), reach=40)
    assert model_type in str(refusal.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_and_float32_find_the_same_rotations(dtype):
    expected = {
        "gpt_neox": [("half", 0, 2)] * 2,  # rotary_pct 0.25 of 16
        "deepseek_v3": [("half", 8, 4)] * 2,  # the rotated part follows the un-rotated one
        "glm": [("interleaved", 0, 4)] * 2,
        "smollm3": [("half", 0, 4)] * 3 + [None],
        "falcon_new": [("half", 0, 4)] * 2,
        "gptj": [("interleaved", 0, 2)] * 2,
        "bloom": [None] * 2,
    }
    for family, rotations in expected.items():
        found = [f.rotation for f in probe(tiny(*STREAMED[family], dtype=dtype), reach=40)]
        assert [r and (r.layout, r.start, len(r.inv_freq_n)) for r in found] == rotations


def test_windows_learned_sinks_and_softcaps_are_measured():
    facts = probe(tiny(*STREAMED["gpt_oss"]), reach=40)
    assert [(f.window, f.sink_logit, f.kv_heads) for f in facts] == [(8, True, 2), (None, True, 2)]
    assert [f.softcap for f in probe(tiny(*STREAMED["gemma2"]), reach=40)] == [2.0, 2.0]


def test_gemma3_has_a_table_for_each_kind_of_layer():
    local, everywhere = (f.rotation.inv_freq_n for f in probe(tiny(*STREAMED["gemma3"]), reach=40))
    assert not torch.equal(local, everywhere)


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_scalings_that_change_with_length_are_pinned_and_put_back(rope_type):
    pairs = 4
    rope = dict(rope_type=rope_type, factor=4.0, rope_theta=10000.0)
    if rope_type == "longrope":
        rope |= dict(short_factor=[1.0] * pairs, long_factor=[3.0] * pairs, original_max_position_embeddings=32)
    settings = dict(rope_parameters=rope, max_position_embeddings=32 if rope_type == "dynamic" else 128)
    if rope_type == "longrope":
        settings |= dict(original_max_position_embeddings=32)
    model = tiny("phi3" if rope_type == "longrope" else "llama", settings, torch.float32)
    ids = torch.randint(3, 64, (1, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(ids[:, :20]).logits, model(ids).logits
        model(ids[:, :20])
        near, far = (probe(model, reach)[0] for reach in (20, 100))
        after = model(ids[:, :20]).logits, model(ids).logits
    assert not torch.equal(near.rotation.inv_freq_n, far.rotation.inv_freq_n)
    assert (near.pinned, far.pinned) == (False, True)
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


def test_a_query_scale_that_grows_with_position_is_refused_only_where_it_acts():
    rope = dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=32, rope_theta=10000.0, llama_4_scaling_beta=0.5,
        beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0,
    )  # fmt: skip
    model = tiny("ministral3", dict(head_dim=8, rope_parameters=rope), torch.float32)
    assert len(probe(model, reach=30)) == 2
    with pytest.raises(ModelError, match="scale by position"):
        probe(model, reach=100)


def test_masks_are_known_when_layers_are_handed_copies_of_them():
    """As accelerate does for layers on another device."""
    model = tiny(*STREAMED["gpt_oss"])

    def copied(module, args, kwargs):
        return args, {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}

    model.model.layers[1].register_forward_pre_hook(copied, with_kwargs=True)
    assert [f.window for f in probe(model, reach=40)] == [8, None]


def test_far_positions_are_explained_although_the_stock_angles_lose_digits():
    assert len(probe(tiny(*STREAMED["llama"], dtype=torch.float32), reach=1_000_000)) == 2


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ModelError, match=r"model\.eval"):
        probe(tiny(*STREAMED["phi3"]).train(), reach=10)


def test_the_model_is_left_as_it_was(demo):
    before = demo.model.config._attn_implementation
    probe(demo.model, reach=10)
    assert demo.model.config._attn_implementation == before


@pytest.mark.parametrize("keys", [9, PART, PART + 1, 3 * PART + 5])
def test_a_window_is_as_wide_as_the_mask_says_wherever_it_ends(keys):
    """A mask is asked a part at a time."""
    plain = sliding_window_causal_mask_function(keys + 1)  # the query's own key comes on top
    assert past_keys(plain) == keys
    hole = PART + 7
    with pytest.raises(ModelError, match="no plain window"):
        past_keys(lambda b, h, query, key: (query - key != hole) & (query - key < 2 * PART))
