"""A prompt cut at its end by what its last queries attend to: against the rule written out head by head."""

import numpy as np
import pytest
import torch
from families import HYBRID, STREAMED, in_float64, tiny
from fed import losses, wrap
from test_blocks import text
from test_evicting import HeadByHead, head_by_head

from sinkctl.cache.policies import Snap
from sinkctl.cache.snap import SnapCache
from sinkctl.errors import UsageError
from sinkctl.model.recurrent import recurrent_cache
from sinkctl.recipe.load import validate
from sinkctl.recipe.schema import GREEDY, GenerateRecipe
from sinkctl.recipe.shorthand import policy as written
from sinkctl.tasks.generate.decoder import Decoder
from sinkctl.tasks.generate.generation import decoder_for
from sinkctl.tasks.generate.sampling import Sampler
from sinkctl.tasks.questions import QuestionsRun
from sinkctl.tasks.stream.scorers import BlockScorer

FAMILIES = ("llama", "gemma2", "gpt_oss", "bloom", "falcon_h1")
SETTINGS = GenerateRecipe(sampling=GREEDY, graph=False, compile=False)


class _Watched(HeadByHead):
    """SnapKV as published, and again at the end of a second prompt that follows what was generated."""

    def __init__(self, layers, policy: Snap, prompts: list[tuple[int, int]]):
        super().__init__(layers, policy)
        self.prompts = prompts  # first token and end of each

    def evict(self, kept: list, seen: int) -> None:
        sinks, window, last, pool = self.policy.sinks, self.policy.window, self.policy.last, self.policy.pool
        watched = any(max(first, end - last) < seen <= end for first, end in self.prompts)
        if not watched:
            for entry in kept:
                entry[2] = torch.zeros((), dtype=torch.float64)
        if seen not in [end for _, end in self.prompts] or len(kept) <= sinks + window:
            return
        middle = kept[sinks : len(kept) - last]
        near = [middle[max(0, place - pool // 2) : place + pool // 2 + 1] for place in range(len(middle))]
        best = [max(float(entry[2]) for entry in entries) for entries in near]
        order = sorted(range(len(middle)), key=lambda place: (-best[place], -middle[place][2], place))
        kept[sinks : len(kept) - last] = [middle[place] for place in sorted(order[: window - last])]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_kept_of_a_prompt_is_that_of_the_rule_written_out(family, monkeypatch):
    """Two prompts, of 29 and 5 tokens, 9 tokens between them: the second is shorter than what is watched."""
    if family in HYBRID:
        in_float64(monkeypatch)
    loaded, ids = wrap(tiny(*(STREAMED | HYBRID)[family])), text()
    facts = loaded.layers(127)
    for policy in (Snap(sinks=2, window=12, pool=3), Snap(sinks=0, window=15, observe=11)):
        expected = head_by_head(loaded, _Watched(facts, policy, [(0, 29), (38, 43)]), ids)
        for cuts in ((29, 9, 5, 5), (7, 7, 7, 8, 1, 8, 3, 2, 5)):
            cache, found, start, carried = SnapCache(facts, policy), [], 0, recurrent_cache(loaded.model)
            for tokens in cuts:
                if start in (0, 38):
                    cache.prompt([29 if start == 0 else 5], ends=True)
                found.append(losses(loaded, cache, ids[None, start:], [tokens], carried))
                start += tokens
            np.testing.assert_allclose(np.concatenate(found, 1)[0], expected, rtol=0, atol=1e-10, err_msg=str(cuts))


def test_rows_of_a_decoder_write_what_each_alone_would_and_go_on_from_their_state(demo, book):
    policy = Snap(sinks=2, window=14, pool=3)
    ids = torch.tensor(demo.tokenizer(book[:600], add_special_tokens=False).input_ids)
    prompts = [ids[40:53], ids[60:110]]
    rows = decoder_for(demo, policy, SETTINGS, 2)
    written = torch.stack([rows.feed(prompts, 8).clone(), *(rows.step().clone() for _ in range(3))])
    saved = rows.state()
    later = torch.stack([rows.step().clone() for _ in range(2)])
    for row, prompt in enumerate(prompts):
        alone = decoder_for(demo, policy, SETTINGS, 1)
        again = torch.stack([alone.feed([prompt], 5).clone(), *(alone.step().clone() for _ in range(3))])
        assert torch.equal(again[:, 0], written[:, row])
        sizes = {own.k.shape[2] for held in alone.cache._held for own in held}
        assert sizes == {min(len(prompt), 16) + 3}
    rows.restore(*saved)
    assert torch.equal(torch.stack([rows.step().clone() for _ in range(2)]), later)
    assert rows.cache.bytes_held() == sum(x.nbytes for name, x in rows.cache.state().items() if "prompts" not in name)


def test_a_stream_that_outgrows_its_frequencies_holds_what_the_long_ones_alone_would_have_kept():
    factors = dict(short_factor=[1.0] * 4, long_factor=[1.0, 2.0, 3.0, 4.0])
    rope = dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=26, **factors)
    loaded = wrap(tiny("phi3", dict(rope_parameters=rope, original_max_position_embeddings=26)))
    ids = text()
    policy = Snap(sinks=2, window=12)
    decoder = Decoder(loaded, policy, Sampler(1, torch.device("cpu"), lambda prompt: [], greedy=True, seed=0))
    decoder.feed([ids[:20]], 7)
    fed = [ids[:20]]
    while decoder.cache.seen[0] < 40:
        fed.append(decoder.ids_B.clone())
        decoder.step()
    cache, whole_T = SnapCache(loaded.layers(127), policy), torch.cat(fed)
    cache.prompt([20], ends=True)
    losses(loaded, cache, torch.cat([whole_T, whole_T[:1]])[None], [len(whole_T)])
    for name, tensor in cache.state().items():
        torch.testing.assert_close(decoder.cache.state()[name], tensor, rtol=0, atol=1e-10)


def test_a_question_asked_aside_is_the_end_of_the_text_before_it(demo, book):
    ids = np.array(demo.tokenizer(book[:600], add_special_tokens=False).input_ids)
    asked = validate({"task": "questions", "policies": [written("snap:2+14")], "chunk": 16, "bos": "never"})
    (lane,) = QuestionsRun(asked, demo).lanes.values()
    lane.take(ids[:50])
    lane.take(ids[50:90])
    states, restore = [], lane.decoder.restore
    lane.decoder.restore = lambda *saved: (states.append(lane.decoder.cache.state()), restore(*saved))
    for _ in range(2):
        lane.ask(ids[90:93], 1, lambda given: True)
    whole = decoder_for(demo, lane.policy, SETTINGS, 1)
    whole.feed([torch.from_numpy(ids[:93])], 100)
    for name, tensor in whole.cache.state().items():
        for state in states:
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-4)
    assert lane.decoder.cache.seen == [90 - 7], "what a question may watch waits for it"


def test_a_text_that_is_scored_has_no_prompt():
    with pytest.raises(UsageError, match=r"^--policy snap 4\+20: goes by where a prompt ends"):
        BlockScorer(wrap(tiny(*STREAMED["llama"])), Snap(window=20))
