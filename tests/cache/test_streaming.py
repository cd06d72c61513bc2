"""The Cache for `generate()`: where SinkCache went wrong, and where it must not be used."""

import copy
import threading

import pytest
import torch
from families import HYBRID, STREAMED, in_float64, tiny

from sinkctl.cache.streaming import streaming
from sinkctl.errors import ModelError, UsageError


def model_of(family="llama"):
    return tiny(*(STREAMED | HYBRID)[family])


def ids_of(*lengths, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 64, (length,), generator=draw) for length in lengths]


def said(model, cache, ids_BT, mask_BT=None, count=12):
    mask_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT
    return model.generate(
        ids_BT, attention_mask=mask_BT, max_new_tokens=count, do_sample=False, eos_token_id=-1, pad_token_id=0,
        past_key_values=cache,
    )  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "gemma3", "falcon", "mpt", "jamba"])
def test_turns_are_one_stream(family, monkeypatch):
    in_float64(monkeypatch)
    model, (first, second) = model_of(family), ids_of(30, 9)
    with streaming(model, sinks=2, window=7) as cache:
        whole = said(model, cache, first[None])
        whole = said(model, cache, torch.cat([whole[0], second])[None])
        assert cache.get_seq_length() == whole.shape[1] - 1
    with streaming(model, sinks=2, window=7) as cache:
        again = said(model, cache, whole[:, : 30 + 12 + 9])
    assert again.tolist() == whole.tolist()


def test_rows_of_padded_turns_are_what_they_are_alone():
    model, prompts, turns = model_of(), ids_of(20, 4, 11), ids_of(3, 8, 1, seed=1)
    alone = []
    for prompt, turn in zip(prompts, turns, strict=True):
        with streaming(model, sinks=2, window=7) as cache:
            whole = said(model, cache, prompt[None])
            whole = said(model, cache, torch.cat([whole[0], turn])[None])
        alone.append(whole[0, -12:].tolist())

    def padded(rows, most):
        return torch.stack([torch.cat([torch.zeros(most - len(row), dtype=torch.int64), row]) for row in rows])

    with streaming(model, sinks=2, window=7) as cache:
        ids = padded(prompts, 20)
        whole = said(model, cache, ids, (ids > 0).long())
        mask = torch.cat([(ids > 0).long(), torch.ones(3, 12, dtype=torch.int64)], 1)
        ids = padded(turns, 8)
        whole = said(model, cache, torch.cat([whole, ids], 1), torch.cat([mask, (ids > 0).long()], 1))
    assert whole[:, -12:].tolist() == alone


@pytest.mark.parametrize("family", ["llama", "qwen3_next"])
def test_beams_before_the_window_is_full_are_the_stock_models(family):
    model, (prompt,) = model_of(family), ids_of(9)
    options = dict(max_new_tokens=8, num_beams=3, do_sample=False, eos_token_id=-1, pad_token_id=0)
    mask = torch.ones(1, 9, dtype=torch.int64)
    expected = model.generate(prompt[None], attention_mask=mask, **options)
    with streaming(model, sinks=2, window=40) as cache:
        found = model.generate(prompt[None], attention_mask=mask, past_key_values=cache, **options)
    assert found.tolist() == expected.tolist()


def test_a_thread_may_generate():
    model, (prompt,) = model_of(), ids_of(30)
    with streaming(model, sinks=2, window=7) as cache:
        expected = said(model, cache, prompt[None]).tolist()
        cache.reset()
        found = []
        thread = threading.Thread(target=lambda: found.append(said(model, cache, prompt[None]).tolist()))
        thread.start()
        thread.join()
    assert found == [expected]


def test_the_cache_is_refused_where_it_would_be_wrong():
    model, (prompt,) = model_of(), ids_of(20)
    other = copy.deepcopy(model)
    with streaming(model, sinks=2, window=7) as cache:
        said(model, cache, prompt[None])
        with pytest.raises(ModelError, match="that model alone"):
            other(input_ids=prompt[None], past_key_values=cache)
        with pytest.raises(ModelError, match="past_key_values=cache"):
            model(input_ids=prompt[None])
        with pytest.raises(ModelError, match="holds 1 rows, not 2"):
            model(input_ids=prompt[None].repeat(2, 1), past_key_values=cache)
        with pytest.raises(ModelError, match="use_cache=False"):
            model.generate(prompt[None], max_new_tokens=2, use_cache=False, past_key_values=cache)
        with pytest.raises(ModelError, match="gives no tokens back"):
            cache.crop(-1)
        with pytest.raises(ModelError, match=r"has all of these tokens; .* cache.reset\(\)"):
            model(input_ids=prompt[None, :0], past_key_values=cache)
        cache.reset()
        with pytest.raises(ModelError, match="cannot assist"):
            model.generate(prompt[None], max_new_tokens=2, assistant_model=model, past_key_values=cache)
    cache.reset()
    with pytest.raises(ModelError, match="lives inside"):
        said(model, cache, prompt[None])
    with pytest.raises(UsageError, match="sinks"), streaming(model, sinks=-1):
        pass


def test_a_pass_that_failed_must_be_reset_and_leaves_the_model_as_it_was():
    model, (prompt,) = model_of(), ids_of(20)
    with torch.no_grad():
        before = model(input_ids=prompt[None]).logits
    with streaming(model, sinks=2, window=7) as cache:
        expected = said(model, cache, prompt[None])
        cache.reset()
        broken = model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            said(model, cache, prompt[None])
        broken.remove()
        with pytest.raises(ModelError, match="did not finish"):
            said(model, cache, prompt[None])
        cache.reset()
        assert said(model, cache, prompt[None]).tolist() == expected.tolist()
    assert not model.model._forward_pre_hooks
    with torch.no_grad():
        assert torch.equal(model(input_ids=prompt[None]).logits, before)


def test_a_cache_may_start_anew_with_other_rows():
    model, (prompt,) = model_of("qwen3_next"), ids_of(20)
    with streaming(model, sinks=2, window=7) as cache:
        expected = said(model, cache, prompt[None])
        cache.reset()
        found = said(model, cache, prompt[None].repeat(2, 1))
    assert found.tolist() == expected.repeat(2, 1).tolist()
