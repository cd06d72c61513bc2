"""Generation settings of a checkpoint: what stock `generate()` does with them, in a stream."""

import copy
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_chat import TEMPLATE
from test_generate import recipe
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import GenerationConfig

from sinkctl.errors import Interrupted, ModelError, UsageError
from sinkctl.model import generation_fields as tables
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import GREEDY
from sinkctl.tasks.generate import history, run
from sinkctl.tasks.generate.chat import Conversation
from sinkctl.tasks.generate.sampling import sampler_for
from sinkctl.tasks.generate.settle_sampling import outside_of_graph

START, COUNT, SIZE = "Once upon a time", 30, (4, 300)  # within the window a stream is the stock model


def saying(loaded: LoadedModel, **fields) -> LoadedModel:
    """The model with this in its generation config."""
    model = copy.copy(loaded.model)
    model.generation_config = GenerationConfig(**{"bos_token_id": 1, "eos_token_id": 2, "do_sample": False} | fields)
    return LoadedModel(model, loaded.tokenizer, loaded.name, "in memory", _probed=loaded._probed)


def stock(loaded: LoadedModel, prompt: str = START, count: int = COUNT, **options) -> list[int]:
    ids = torch.tensor([loaded.tokenizer(prompt).input_ids])
    with torch.no_grad():
        out = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, **options)
    return out[0, ids.shape[1] :].tolist()


def streamed(loaded: LoadedModel, prompt: str = START, count: int = COUNT, **settings) -> list[int]:
    ids = run(recipe([prompt], tokens=count, size=SIZE, **settings), loaded).ids[:, 0]
    return ids[ids >= 0].tolist()


COMMA, THERE, GIRL, PERIOD = 432, 383, 403, 426  # the greedy story: ", there was a little girl … ."
FIELDS = {
    "repetition_penalty": {"repetition_penalty": 1.3},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "suppress_tokens": {"suppress_tokens": [403, 261]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [COMMA]},
    "bad_words_ids": {"bad_words_ids": [[COMMA, THERE], [261]]},
    "sequence_bias": {"sequence_bias": [[[261], -1.0], [[COMMA, THERE], -9.0]]},
    "forced_eos_token_id": {"forced_eos_token_id": 2},
    "min_new_tokens": {"min_new_tokens": 25, "eos_token_id": [2, PERIOD]},
    "min_length": {"min_length": 30, "eos_token_id": [2, PERIOD]},
    "exponential_decay": {"exponential_decay_length_penalty": (4, 1.7), "eos_token_id": PERIOD},
    "watermarking_config": {"watermarking_config": {"bias": 4.0, "seeding_scheme": "lefthash"}},
    "stop_strings": {"stop_strings": ["She lov", "nowhere"]},
    "several": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_new_tokens": 20, "eos_token_id": PERIOD,
                "suppress_tokens": [261], "renormalize_logits": True, "remove_invalid_values": True},
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_a_greedy_text_is_that_of_generate_with_the_same_settings(stories, field):
    loaded = saying(stories, **FIELDS[field])
    options = {"tokenizer": loaded.tokenizer} if field == "stop_strings" else {}
    expected = stock(loaded, **options)
    assert streamed(loaded) == expected
    bare = {"eos_token_id": FIELDS[field].get("eos_token_id", 2)}
    assert stock(saying(stories, **bare)) != expected  # else the setting does nothing here


def test_a_forced_first_token_is_that_of_generate(demo):
    loaded = saying(demo, forced_bos_token_id=300, begin_suppress_tokens=[5], eos_token_id=None)
    expected = loaded.model.generate(torch.tensor([[demo.bos_id]]), max_new_tokens=12)[0, 1:].tolist()
    assert run(recipe([], tokens=12, size=SIZE), loaded).ids[:, 0].tolist() == expected
    assert expected[0] == 300


def test_what_is_drawn_from_is_what_generate_draws_from(stories):
    """Every processor and warper at once, on `generate()`'s own logits: the same scores, to the bit."""
    drawing = {"temperature": 1.3, "top_k": 60, "top_p": 0.97, "min_p": 0.001, "typical_p": 0.98, "eta_cutoff": 1e-4,
               "epsilon_cutoff": 1e-5, "top_h": 0.9, "do_sample": True}  # fmt: skip
    loaded = saying(stories, **FIELDS["several"] | drawing | {"bad_words_ids": [[COMMA, THERE]]})
    ids = torch.tensor([loaded.tokenizer(START).input_ids])
    torch.manual_seed(0)
    out = loaded.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=COUNT, output_scores=True, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    settled = run(recipe([START], tokens=COUNT, size=SIZE), loaded).result.recipe
    sampler = sampler_for(recipe([START], tokens=COUNT, sampling=settled["sampling"]), 1, loaded)
    fed = [ids[0]]
    for logits_BV, score_BV, new_B in zip(out.logits, out.scores, out.sequences[:, ids.shape[1] :].T, strict=True):
        assert torch.equal(sampler.scores(logits_BV, fed), score_BV)
        fed = new_B


def test_drawing_takes_what_the_checkpoint_says_of_draws_whoever_wants_it(stories):
    loaded = saying(stories, do_sample=True, top_k=1)
    assert streamed(loaded) == stock(loaded)  # the likeliest each
    said = saying(stories, do_sample=True, top_k=0, min_p=0.2, typical_p=0.9)
    found = run(recipe([START], tokens=3), said).result
    sampling = found.recipe["sampling"]
    assert (sampling["temperature"], sampling["top_k"], sampling["min_p"]) == (1.0, None, 0.2)
    assert sampling["config"] == {"typical_p": 0.9}
    assert found.choices["min_p"] == "0.2: the checkpoint's generation config"
    greedy = saying(stories, top_k=1, typical_p=0.9)
    assert streamed(greedy) == stock(greedy)
    assert streamed(greedy, sampling={"temperature": 2.0}) == stock(greedy, do_sample=True, temperature=2.0)


def test_what_is_asked_for_goes_before_what_the_checkpoint_says(stories):
    loaded = saying(stories, repetition_penalty=1.3, suppress_tokens=[261], no_repeat_ngram_size=2)
    asked = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "config": {"suppress_tokens": None}}
    assert streamed(loaded, sampling=asked) == streamed(stories)
    asked = {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "config": {"suppress_tokens": [GIRL]}}
    expected = stock(loaded, repetition_penalty=1.1, no_repeat_ngram_size=3, suppress_tokens=[GIRL])
    assert streamed(loaded, sampling=asked) == expected


ROWS = [
    {"repetition_penalty": 1.3},
    {**FIELDS["several"], "begin_suppress_tokens": [COMMA], "min_length": 25, "bad_words_ids": [[COMMA, THERE]]},
]


@pytest.mark.parametrize("fields", ROWS, ids=["all rows at once", "row by row"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_rows_with_processors_are_what_they_are_alone_and_go_on_when_resumed(stories, fields, temperature, tmp_path):
    loaded, prompts = saying(stories, **fields), [START, "Lily", "One day a big dog went to the park and"]
    settings = dict(tokens=26, size=(4, 12))
    together = run(recipe(prompts, sampling={"temperature": temperature, "seed": 3}, **settings), loaded).ids
    for row, prompt in enumerate(prompts):
        alone = run(recipe([prompt], sampling={"temperature": temperature, "seed": 3 + row}, **settings), loaded).ids
        kept = min(len(alone), len(together))
        np.testing.assert_array_equal(together[:kept, row], alone[:kept, 0])
        assert (together[kept:, row] == -1).all()
    built, steps = recipe(prompts, sampling={"temperature": temperature, "seed": 3}, **settings), []
    with pytest.raises(Interrupted):
        run(built, loaded, output=tmp_path / "run", progress=lambda t, r: steps.append(r.steps),
            stop=lambda: steps[-1] > 9)  # fmt: skip
    np.testing.assert_array_equal(run(built, loaded, output=tmp_path / "run", resume=True).ids, together)


def test_a_reply_counts_the_whole_conversation(demo):
    fields = {"repetition_penalty": 1.4, "no_repeat_ngram_size": 3, "begin_suppress_tokens": [11], "eos_token_id": None}
    loaded = saying(demo, **fields)
    loaded.tokenizer = copy.deepcopy(demo.tokenizer)
    loaded.tokenizer.chat_template = TEMPLATE
    talk, fed = Conversation(recipe([], chat=True, tokens=12, size=SIZE), loaded), []
    feed, step = talk.decoder.feed, talk.decoder.step
    talk.decoder.feed = lambda texts, chunk: (fed.extend(texts[0].tolist()), feed(texts, chunk))[1]
    talk.decoder.step = lambda: (fed.append(int(talk.decoder.ids_B)), step())[1]
    for text in ("Good evening, sir.", "And your wife?"):
        list(talk.say(text))
    transcript = torch.tensor([[*fed[:-11]]])  # all but what the last reply fed
    expected = loaded.model.generate(transcript, attention_mask=torch.ones_like(transcript), max_new_tokens=12)
    assert expected[0, transcript.shape[1] :].tolist() == [*fed[-11:], *talk._unfed]


def test_a_stop_string_ends_its_row_and_a_reply(stories):
    loaded = saying(stories, stop_strings=["lov"])
    found = run(recipe([START, "Tim had a dog"], tokens=COUNT, size=SIZE), loaded).result.generate.rows
    assert [row.ended for row in found] == ["end of sequence"] * 2
    assert all("lov" in row.text[-8:] and "lov" not in row.text[:-8] for row in found)
    assert len(streamed(loaded, stop_at_eos=False)) == COUNT
    loaded.tokenizer = copy.deepcopy(stories.tokenizer)
    loaded.tokenizer.chat_template = TEMPLATE
    talk = Conversation(
        recipe([], chat=True, tokens=200, size=SIZE, sampling={"config": {"stop_strings": "."}}), loaded
    )
    assert "".join(talk.say("Once upon a time")).count(".") == 1


def test_what_is_not_done_is_named(stories):
    loaded = saying(stories, num_beams=3, length_penalty=2.0, guidance_scale=1.5, max_length=77, num_return_sequences=2)
    notes = run(recipe([START], tokens=3), loaded).result.notes
    assert [note.split()[0] for note in notes[1:]] == ["num_beams", "guidance_scale", "num_return_sequences"]
    assert "greedy instead" in notes[1]
    given = recipe([START])
    assert any(note.startswith("max_length 77") for note in run(given, loaded).result.notes)
    bare = run(recipe([START], tokens=3), saying(stories, num_beams=1, guidance_scale=1.0)).result.notes
    assert len(bare) == 1


def test_every_field_of_a_generation_config_is_in_one_table():
    known = [*tables.WARPERS, *tables.PROCESSORS, *tables.MORE, *tables.NOT_USED, *tables.NO_MATTER]
    assert len(known) == len(set(known))
    assert {name for name in vars(GenerationConfig()) if not name.startswith("_")} <= set(known)


def test_n_grams_are_remembered_so_far_and_no_further(stories, monkeypatch):
    loaded = saying(stories, no_repeat_ngram_size=2, eos_token_id=None)
    far = streamed(loaded, count=80)
    assert far == stock(loaded, count=80)
    assert len(set(pairwise(far))) == 79
    monkeypatch.setattr(history, "KEPT", 20)
    near = streamed(loaded, count=80)
    assert len(set(pairwise(near))) < 79
    monkeypatch.setattr("sinkctl.tasks.generate.settle_sampling.KEPT", 20)
    assert "looks back 20 tokens" in run(recipe([START], tokens=20), loaded).result.notes[-1]


def test_a_choice_that_is_part_of_a_captured_step_asks_nothing_of_the_host(stories):
    """Told without a GPU: fake tensors have no values to ask for."""
    inside = {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.3,
              "config": {"renormalize_logits": True}}  # fmt: skip
    after = {"no_repeat_ngram_size": 2, "config": {"watermarking_config": {"bias": 2.0}}}
    assert outside_of_graph(GREEDY.model_copy(update=inside)) is None
    assert "no_repeat_ngram_size, watermarking_config" in outside_of_graph(GREEDY.model_copy(update=after))
    for settings, asks in ((inside, nullcontext()), (after, pytest.raises(DataDependentOutputException))):
        sampler = sampler_for(recipe([START], sampling=GREEDY.model_copy(update=settings).model_dump()), 2, stories)
        assert sampler.static == (settings is inside)
        sampler.prepare(2)
        logits_BV, texts = torch.randn(2, 512), [torch.arange(5), torch.arange(9)]
        sampler.choose(logits_BV, texts)
        with asks, FakeTensorMode(allow_non_fake_inputs=True):
            sampler.choose(torch.randn(2, 512), torch.tensor([3, 4]))


def test_values_that_transformers_does_not_take_are_refused_before_a_text_is_read(stories):
    with pytest.raises(ModelError, match=r"does not take bad_words_ids.*null"):
        streamed(saying(stories, bad_words_ids=[[5000]]))
    with pytest.raises(ModelError, match=r"repetition_penalty 0.0 of its generation config.*--repetition-penalty"):
        streamed(saying(stories, repetition_penalty=0.0))
    with pytest.raises(UsageError, match=r"sampling.config.num_beams.*one place"):
        streamed(stories, sampling={"config": {"num_beams": 2}})
    with pytest.raises(UsageError, match=r"supress_tokens.*did you mean 'suppress_tokens'"):
        streamed(stories, sampling={"config": {"supress_tokens": [2]}})
    with pytest.raises(UsageError, match=r"it is sampling.top_k"):
        streamed(stories, sampling={"config": {"top_k": 2}})


def test_greedy_settings_have_nothing_left_to_settle():
    assert "auto" not in GREEDY.model_dump().values()
