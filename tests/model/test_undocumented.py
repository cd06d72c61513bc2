"""What is taken from transformers without its word for it is there, in the versions at both ends of the range."""

import pytest
import torch
from transformers import DynamicCache

from sinkctl.model.attention import decoder_of
from sinkctl.model.undocumented import TAKEN, cache_given, cached


@pytest.mark.parametrize("taken", TAKEN, ids=lambda taken: taken.what)
def test_it_is_there(taken):
    assert taken.there()


def test_a_cache_is_found_under_whatever_name_it_is_handed_on(stories):
    decoder, cache = decoder_of(stories.model), DynamicCache(config=stories.model.config)
    seen = []
    hook = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(cache_given(module, args, kwargs)), with_kwargs=True
    )
    ids = torch.tensor([[1, 2, 3]])
    try:
        stories.model(input_ids=ids)
        stories.model(input_ids=ids, past_key_values=cache)
        stories.model(input_ids=ids, **cached(stories.model, cache))
        stories.model.generate(ids, past_key_values=DynamicCache(config=stories.model.config), max_new_tokens=1)
        decoder(ids, None, None, cache)
    finally:
        hook.remove()
    assert seen[0] is None
    assert seen[1] is seen[2] is seen[4] is cache
    assert isinstance(seen[3], DynamicCache)
    assert cache.get_seq_length() == 9
