"""Layers whose windows hold for prompts alone: against the rule token by token, in any blocks."""

import numpy as np
import pytest
import torch
from families import STREAMED, tiny
from fed import losses, wrap
from reference import TokenByToken, token_by_token_nll
from test_blocks import text

from sinkctl.cache.layers import kept_by
from sinkctl.cache.policies import PerLayer
from sinkctl.cache.prompts import PrefillWindows
from sinkctl.errors import UsageError
from sinkctl.recipe.schema import GREEDY, GenerateRecipe
from sinkctl.tasks.generate.generation import decoder_for

PROMPTS = [(0, 21), (28, 40)]


class _Prompts(TokenByToken):
    """What each token sees is put together anew: of a prompt's tokens sinks and window, else all that went by."""

    def __init__(self, layers, keeps):
        super().__init__(layers, keeps)
        self.all = {key: [] for key in self.kept}
        self.as_trained = {id(f.module) for f, keep in zip(layers, keeps, strict=True) if keep == (0, f.window)}

    def attend(self, call):
        key = id(call.module)
        (_, (sinks, window)), past = self.rules[key], self.all[key]
        within = any(first <= len(past) < end for first, end in PROMPTS)
        cut = (within or key in self.as_trained) and window is not None and len(past) > sinks + window
        self.kept[key] = past[:sinks] + past[-window:] if cut else list(past)
        out = super().attend(call)
        past.append((call.k_BGTD[0, :, -1], call.v_BGTE[0, :, -1]))
        return out


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "bloom"])
def test_windows_hold_for_the_tokens_of_prompts_and_later_ones_see_all_of_it(family):
    loaded, ids = wrap(tiny(*STREAMED[family])), text()
    facts = loaded.layers(127)
    for sinks, window in ((2, 7), (0, 5)):
        policy = PerLayer(whole=(0,), sinks=sinks, window=window, prompts_only=True)
        expected = token_by_token_nll(loaded.model, facts, [], ids, _Prompts(facts, kept_by(policy, facts)))
        for cuts in ((21, 7, 12, 8), (5, 9, 7, 1, 6, 4, 8, 8)):
            cache, found, start = PrefillWindows(facts, policy), [], 0
            for tokens in cuts:
                if any(first <= start < end for first, end in PROMPTS):
                    cache.prompt([tokens], ends=False)
                found.append(losses(loaded, cache, ids[None, start:], [tokens]))
                start += tokens
            np.testing.assert_allclose(np.concatenate(found, 1)[0], expected, rtol=0, atol=1e-10, err_msg=str(cuts))


def test_a_decoder_tells_prompts_from_what_it_generates(demo, book):
    policy = PerLayer(whole=(3,), sinks=2, window=9, prompts_only=True)
    settings = GenerateRecipe(sampling=GREEDY, graph=False, compile=False)
    ids = torch.tensor(demo.tokenizer(book[:300], add_special_tokens=False).input_ids)
    decoder = decoder_for(demo, policy, settings, 1, 100)
    decoder.feed([ids[:30]], 8, prompt=False)
    decoder.feed([ids[30:41]], 8)
    decoder.step()
    decoder.step()
    cache = PrefillWindows(demo.layers(127), policy)
    cache.prompt([41], ends=True)
    losses(demo, cache, torch.cat([ids[:42]])[None], [41])
    for name, tensor in decoder.cache.state().items():
        if name.endswith((".k", ".v")):
            assert tensor.shape[2] == 43
            torch.testing.assert_close(tensor[:, :, :41], cache.state()[name], rtol=0, atol=1e-4)
    assert decoder.layers[0].startswith("layers 0-2, 4-11: keeps everything; in a prompt sees 2 sinks and the last 9")
    with pytest.raises(UsageError, match=r"layers 3 whole: goes by where a prompt ends.*layers without prompts_only"):
        policy.check_scores()
