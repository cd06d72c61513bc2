"""A conversation: each turn costs its own tokens, and the whole is one stream."""

import copy

import pytest
import torch
from test_generate import recipe, sampler

from sinkctl.cli.stream_flags import template_args
from sinkctl.errors import ModelError, RecipeError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.tasks.generate.chat import Conversation
from sinkctl.tasks.generate.decoder import Decoder
from sinkctl.tasks.generate.template import Template

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}> {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_conversation_is_the_whole_transcript_streamed(demo):
    """What has gone through the model after three turns is the rendered conversation, each token once."""
    loaded = LoadedModel(copy.deepcopy(demo.model), copy.deepcopy(demo.tokenizer), "demo", "in memory")
    loaded.tokenizer.chat_template = TEMPLATE
    talk = Conversation(recipe([], chat=True, tokens=9, system="Be brief.", size=(4, 30)), loaded)
    fed, feed, step = [], talk.decoder.feed, talk.decoder.step

    def feeding(texts, chunk):
        fed.extend(texts[0].tolist())
        return feed(texts, chunk)

    def stepping():
        fed.extend(talk.decoder.ids_B.tolist())
        return step()

    talk.decoder.feed, talk.decoder.step = feeding, stepping
    replies = ["".join(talk.say(text)) for text in ("Good evening, sir.", "And your wife?", "I see.")]
    messages = ["<system> Be brief.\n"]
    for text, reply in zip(("Good evening, sir.", "And your wife?", "I see."), replies, strict=True):
        messages += [f"<user> {text}\n<assistant>", reply, "\n"]
    expected = loaded.tokenizer.bos_token + "".join(messages[:-1])
    assert len(fed) == talk.decoder.cache.seen[0]
    said = loaded.tokenizer.decode([*fed, *talk._unfed])
    assert said == expected
    assert all(replies)
    assert talk.decoder.cache.seen[0] > 2 * 35  # well past the cache


def test_a_conversation_goes_on_as_one_stream_of_its_tokens(demo):
    loaded = LoadedModel(copy.deepcopy(demo.model), copy.deepcopy(demo.tokenizer), "demo", "in memory")
    loaded.tokenizer.chat_template = TEMPLATE
    talk = Conversation(recipe([], chat=True, tokens=15, size=(4, 30)), loaded)
    list(talk.say("Good evening, sir."))
    fed, feed = [], talk.decoder.feed
    before = talk.decoder.cache.seen[0]
    talk.decoder.feed = lambda texts, chunk: (fed.extend(texts[0].tolist()), feed(texts, chunk))[1]
    reply = "".join(talk.say("And your wife?"))
    first = loaded.tokenizer(f"{loaded.tokenizer.bos_token}<user> Good evening, sir.\n<assistant>",
                             add_special_tokens=False).input_ids  # fmt: skip
    alone = Decoder(loaded, talk.recipe.policy, sampler())
    ids = [int(alone.feed([torch.tensor(first)], 100))]
    ids += [int(alone.step()) for _ in range(14)]
    assert before == len(first) + 14  # the last token of the reply is fed with the next turn
    assert fed[0] == ids[-1]
    again = [int(alone.feed([torch.tensor(fed)], 100))]
    again += [int(alone.step()) for _ in range(14)]
    assert loaded.tokenizer.decode(again) == reply


def talker(demo, template=TEMPLATE) -> LoadedModel:
    loaded = LoadedModel(copy.deepcopy(demo.model), copy.deepcopy(demo.tokenizer), "demo", "in memory")
    loaded.tokenizer.chat_template = template
    return loaded


def test_a_reply_that_ends_by_itself_leaves_its_end_to_the_template(demo):
    loaded = talker(demo)
    free = Conversation(recipe([], chat=True, tokens=30, size=(4, 40)), loaded)
    pieces = list(free.say("Good evening."))
    loaded.model.generation_config.eos_token_id = loaded.tokenizer(pieces[8], add_special_tokens=False).input_ids[-1]
    ended = Conversation(recipe([], chat=True, tokens="endless", size=(4, 40)), loaded)
    reply = "".join(ended.say("Good evening."))
    assert "".join(pieces).startswith(reply)
    assert len(reply) <= len("".join(pieces[:8]))
    assert ended._unfed == []


def test_a_reply_can_be_stopped_and_the_chat_goes_on(demo):
    talk = Conversation(recipe([], chat=True, tokens=30, size=(4, 40)), talker(demo))
    pieces = []
    for piece in talk.say("Good evening.", stop=lambda: len(pieces) >= 3):
        pieces.append(piece)
    assert talk.tokens == 3
    assert "".join(talk.say("And then?"))


def test_what_takes_no_turns_is_refused_in_words(demo):
    built = recipe([], chat=True)
    with pytest.raises(ModelError, match="no chat template"):
        Conversation(built, demo)
    with pytest.raises(ModelError, match="does not show replies"):
        Conversation(built, talker(demo, "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"))
    with pytest.raises(ModelError, match="does not take this: no system"):
        Conversation(recipe([], chat=True, system="x"), talker(demo, "{{ raise_exception('no system') }}"))
    with pytest.raises(UsageError, match="knows no end of a turn"):
        Conversation(recipe([], chat=True, tokens="endless"), talker(demo))
    with pytest.raises(UsageError, match="--fail-on: a chat"):
        Conversation(recipe([], chat=True, fail_on=["generate.ms_per_token<=1"]), talker(demo))


def reading(loaded: LoadedModel, template: str, as_text: bool) -> Template:
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template, tokenizer.split_special_tokens = template, as_text
    return Template(LoadedModel(loaded.model, tokenizer, "model", "in memory"), {})


def test_what_a_turn_spells_can_be_read_as_text_and_what_the_template_writes_stays_special(demo):
    template, encode = reading(demo, TEMPLATE, as_text=True), demo.tokenizer
    ids = template.ids(template.rendered([{"role": "user", "content": " say <|bos|> and <|pad|> "}]))
    spelt = encode("<user> say <|bos|> and <|pad|>\n<assistant>", add_special_tokens=False, split_special_tokens=True)
    assert ids == [demo.bos_id, *spelt.input_ids]


def test_a_chat_without_such_spellings_has_the_same_ids_in_both_ways(stories):
    """Also where a tokenizer puts a space in front of what follows a special token, or does not."""
    between = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}<s> go on"
    messages = [{"role": "user", "content": "a <big> dog"}, {"role": "assistant", "content": " so <s it"}]
    both = [reading(stories, between, as_text) for as_text in (False, True)]
    parsed, as_text = (template.ids(template.rendered(messages)) for template in both)
    assert parsed == as_text
    assert parsed.count(stories.bos_id) == 3


def test_a_turn_says_what_it_spells(demo):
    talk = Conversation(recipe([], chat=True, tokens=2, size=(4, 60)), talker(demo))
    list(talk.say("Good <|pad|> evening."))
    assert "<|pad|> once; --special-tokens text" in talk.notes[0]
    list(talk.say("Good evening."))
    assert talk.notes == []


THINKING = TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<done>{% endif %}"


def test_a_template_takes_arguments_and_names_those_it_does_not(demo):
    given = template_args(["enable_thinking=false"])
    assert given == {"enable_thinking": False}
    with pytest.raises(RecipeError, match="--template-arg enable_thinking: write key=value"):
        template_args(["enable_thinking"])
    talk = Conversation(recipe([], chat=True, template_args=given), talker(demo, THINKING))
    assert talk.template.rendered([{"role": "user", "content": "a"}]).endswith("<assistant><done>")
    with pytest.raises(UsageError, match="has no such one; did you mean 'enable_thinking'"):
        Conversation(recipe([], chat=True, template_args={"enable_thinkin": False}), talker(demo, THINKING))
    with pytest.raises(UsageError, match="--template-arg tokenize: is no argument of a template"):
        Conversation(recipe([], chat=True, template_args={"tokenize": True}), talker(demo, THINKING))
