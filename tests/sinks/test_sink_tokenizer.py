"""Tokenizers without BOS, or with a sink token, and the token's row in a model; as stock transformers reads them."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from families import STREAMED, tiny
from places import DATA
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CodeLlamaTokenizer,
    GPTNeoXTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from sinkctl.errors import ModelError
from sinkctl.model.load import DEMO
from sinkctl.sinks.storage.token_row import with_row
from sinkctl.sinks.tokenizer import PlacedToken, with_sink_token, without_bos

STORIES = DATA / "stories260K"
BOS, EOS, A, B, USER, SINK = 1, 2, 3, 4, 5, 6  # ids in WORDS, and the next free one
WORDS = {"<unk>": 0, "<s>": BOS, "</s>": EOS, "a": A, "b": B, "user": USER}
ONCE = "{{ bos_token }}{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}"
IN_LOOP = (
    "\n{%- for m in messages %}{% set text = m['role'] + ' ' + m['content'] %}"
    "{% if loop.first %}{% set text = bos_token + text %}{% endif %}\n{{ text }}{% endfor %}"
)
EACH_TURN = "{% for m in messages %}{{ bos_token + m['role'] + ' ' + m['content'] + eos_token }}{% endfor %}"
UNUSED = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] }}{% endfor %}"
CHAT = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]

# Run in a process of its own, with nothing but transformers.
LOOK = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
asked, seen = json.load(sys.stdin), {}
for name, folder in asked["folders"].items():
    tokenizer, ids = AutoTokenizer.from_pretrained(folder), lambda *a, **k: tokenizer(*a, **k)["input_ids"]
    seen[name] = dict(
        kind=type(tokenizer).__name__, bos=tokenizer.bos_token, bos_id=tokenizer.bos_token_id,
        a=ids("a"), empty=ids(""), pair=ids("a", "b"), plain=ids("a b", add_special_tokens=False),
        batch=ids(["a", "a b"]), mask=tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"],
        sentence=ids("Once upon a time"), skipped=tokenizer.decode(ids("a b"), skip_special_tokens=True),
        **{side: ids(["a", "a b"], padding=bool(tokenizer.pad_token), padding_side=side) for side in ("left", "right")},
        chats={
            str(key): [
                tokenizer.apply_chat_template(asked["chat"], chat_template=key, tokenize=tokenize, return_dict=False)
                for tokenize in (False, True)
            ]
            for key in (tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else [None])
            if tokenizer.chat_template
        },
    )
model = AutoModelForCausalLM.from_pretrained(asked["model"])
tokenizer = AutoTokenizer.from_pretrained(asked["model"])
seen["generated"] = [
    model.generate(**prompt, max_new_tokens=8, do_sample=False).tolist()[0]
    for prompt in (tokenizer("Once", return_tensors="pt", return_token_type_ids=False), {})
]
print(json.dumps(seen))
"""


def words(post_processor: processors.PostProcessor | None, chat_template=None, **special) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, whose ids can be written by hand."""
    backend = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if post_processor is not None:
        backend.post_processor = post_processor
    special = {"bos_token": "<s>", "eos_token": "</s>", **special}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>", **special)
    tokenizer.chat_template = chat_template
    return tokenizer


def template(single: str, pair: str, tokens: dict[str, int] = WORDS) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single, pair, [(token, tokens[token]) for token in ("<s>", "</s>")])


def llama3(chat_template=None) -> PreTrainedTokenizerFast:
    byte_level = processors.ByteLevel(trim_offsets=False)
    template_of_llama3 = template("<s> $A", "<s> $A <s>:1 $B:1")
    return words(processors.Sequence([byte_level, template_of_llama3]), chat_template)


def closing(chat_template=None) -> PreTrainedTokenizerFast:
    return words(template("<s> $A </s>", "<s> $A </s> $B:1 </s>:1"), chat_template)


def one_token_for_both() -> PreTrainedTokenizerFast:
    return words(template("</s> $A </s>", "</s> $A </s> </s>:1 $B:1 </s>:1"), bos_token="</s>")


def stories(**settings) -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    return tokenizer


def rebuilding(kind: type) -> PreTrainedTokenizerFast:
    """Of a class that builds its own post-processor whenever it is loaded."""
    return kind(vocab=WORDS | {"▁a": 6, "▁b": 7}, merges=[], unk_token="<unk>", bos_token="<s>", eos_token="</s>")


MADE = {
    "demo": lambda: AutoTokenizer.from_pretrained(DEMO),
    "stories": stories,
    "stories_eos": lambda: stories(add_bos_token=True, add_eos_token=True),
    "llama3": lambda: llama3(IN_LOOP),
    "closing": lambda: closing({"default": ONCE, "each": EACH_TURN, "unused": UNUSED}),
    "both": one_token_for_both,
    "bare": lambda: words(processors.ByteLevel(), UNUSED, bos_token=None),
    "chat_only": lambda: words(None, ONCE),
    "gpt_neox": lambda: rebuilding(GPTNeoXTokenizer),
    "code_llama": lambda: rebuilding(CodeLlamaTokenizer),
}


@pytest.fixture(scope="session")
def seen(tmp_path_factory):
    """What a fresh process with plain transformers sees of every tokenizer made above, changed and saved."""
    root = tmp_path_factory.mktemp("tokenizers")
    folders, said = {}, {}
    for name, make in MADE.items():
        for change, todo in (
            ("before", lambda _: None),
            ("without", without_bos),
            ("sink", lambda tokenizer: with_sink_token(tokenizer, rows=512)),
        ):
            tokenizer, key = make(), f"{name} {change}"
            said[key] = todo(tokenizer)
            folders[key] = str(root / key)
            tokenizer.save_pretrained(folders[key])
            said[f"{key} in memory"] = [tokenizer("a").input_ids, tokenizer("a", "b").input_ids]
            if name in ("stories", "demo"):  # with a config, AutoTokenizer looks at its model_type too
                shutil.copy((STORIES if name == "stories" else DEMO) / "config.json", folders[key])
            if name == "gpt_neox":
                AutoConfig.for_model("gpt_neox").save_pretrained(folders[key])
    model = AutoModelForCausalLM.from_pretrained(STORIES)
    with_row(model, said["stories sink"], model.get_input_embeddings().weight[1].clone())
    model.save_pretrained(folders["stories sink"])
    asked = json.dumps(dict(folders=folders, chat=CHAT, model=folders["stories sink"]))
    run = subprocess.run(
        [sys.executable, "-c", LOOK],
        input=asked,
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1]) | {"said": said}


def test_without_bos_texts_pairs_and_batches_begin_with_the_text(seen):
    assert seen["llama3 before"]["a"] == [BOS, A]
    after = seen["llama3 without"]
    assert (after["a"], after["empty"], after["plain"], after["mask"]) == ([A], [], [A, B], [0])
    assert after["pair"] == [A, B]
    assert after["batch"] == [[A], [A, B]]
    assert (after["left"], after["right"]) == ([[0, A], [A, B]], [[A, 0], [A, B]])
    assert seen["said"]["llama3 without"] == "<s> no longer in front of texts and chats"
    assert (after["bos"], after["bos_id"]) == ("<s>", BOS)


def test_without_bos_what_closes_a_text_stays(seen):
    assert seen["closing before"]["pair"] == [BOS, A, EOS, B, EOS]
    assert (seen["closing without"]["a"], seen["closing without"]["pair"]) == ([A, EOS], [A, EOS, B, EOS])
    assert seen["both before"]["pair"] == [EOS, A, EOS, EOS, B, EOS]
    assert (seen["both without"]["a"], seen["both without"]["pair"]) == ([A, EOS], [A, EOS, B, EOS])
    assert seen["stories_eos before"]["a"][0] == 1
    assert seen["stories_eos without"]["a"] == [*seen["stories_eos before"]["plain"][:1], 2]


@pytest.mark.parametrize("name", ["demo", "stories"])
def test_real_tokenizers_lose_bos_and_nothing_else(name, seen):
    before, after = seen[f"{name} before"], seen[f"{name} without"]
    assert before["sentence"][0] == before["bos_id"] == after["bos_id"] == 1
    assert after["sentence"] == before["sentence"][1:]
    assert len(after["pair"]) == len(before["pair"]) - 2 == 2
    assert after["kind"] == before["kind"]
    assert seen["said"][f"{name} without"] == f"{before['bos']} no longer in front of texts"


def test_what_has_no_bos_in_front_is_left_alone(seen):
    for name in ("bare", "gpt_neox"):
        assert seen["said"][f"{name} without"] is None
        assert seen[f"{name} without"] == seen[f"{name} before"]


def test_a_class_that_puts_bos_back_is_saved_as_another(seen):
    bos, *text = seen["code_llama before"]["a"]
    assert bos == BOS
    assert seen["code_llama without"]["a"] == text
    assert seen["code_llama without"]["kind"] == "TokenizersBackend"
    assert seen["said"]["code_llama without"].endswith(
        "; saved as TokenizersBackend, since CodeLlamaTokenizer puts it back when it is loaded"
    )


def test_without_bos_chats_begin_with_their_text(seen):
    assert seen["llama3 before"]["chats"]["None"][0] == "<s>user auser b"
    assert seen["llama3 without"]["chats"]["None"][0] == "user auser b"
    assert seen["chat_only without"]["chats"]["None"] == ["user a user b ", [USER, A, USER, B]]
    assert seen["said"]["chat_only without"] == "<s> no longer in front of chats"
    named = {name: chat for name, (chat, _) in seen["closing without"]["chats"].items()}
    assert named == {"default": "user a user b ", "each": "user a</s>user b</s>", "unused": "user auser b"}


def test_a_sink_token_stands_in_front_of_every_text_once(seen):
    after = seen["llama3 sink"]
    assert seen["said"]["llama3 sink"] == PlacedToken(SINK, spare=True)
    assert (after["bos"], after["bos_id"]) == ("<|sink|>", SINK)
    assert (after["a"], after["empty"], after["plain"], after["mask"]) == ([SINK, A], [SINK], [A, B], [1, 0])
    assert after["pair"] == [SINK, A, SINK, B]  # a BOS in front of either text, before
    assert after["batch"] == [[SINK, A], [SINK, A, B]]
    assert after["left"] == [[0, SINK, A], [SINK, A, B]]
    assert after["right"] == [[SINK, A, 0], [SINK, A, B]]
    assert after["skipped"] == "a b"


def test_a_sink_token_comes_in_front_where_nothing_was_and_what_closes_a_text_stays(seen):
    for name, a, pair in (
        ("bare", [A], [A, B]),
        ("chat_only", [A], [A, B]),
        ("closing", [A, EOS], [A, EOS, B, EOS]),
        ("both", [A, EOS], [A, EOS, SINK, B, EOS]),
    ):
        assert (seen[f"{name} sink"]["a"], seen[f"{name} sink"]["pair"]) == ([SINK, *a], [SINK, *pair]), name


@pytest.mark.parametrize("name", ["demo", "stories", "stories_eos"])
def test_real_tokenizers_get_a_sink_token_for_their_bos(name, seen):
    before, after = seen[f"{name} before"], seen[f"{name} sink"]
    sink, spare = seen["said"][f"{name} sink"]
    assert (sink, spare) == (4096 if name == "demo" else 512, False)
    for kind in ("sentence", "pair", "empty"):
        assert after[kind] == [sink if token == 1 else token for token in before[kind]]
    assert after["kind"] == before["kind"]


def test_a_class_that_would_forget_the_sink_token_is_saved_as_another(seen):
    assert seen["gpt_neox before"]["kind"] == "GPTNeoXTokenizer"
    assert seen["gpt_neox sink"]["kind"] == "TokenizersBackend"
    sink = seen["said"]["gpt_neox sink"].id
    assert seen["gpt_neox sink"]["a"] == [sink, *seen["gpt_neox before"]["a"]]


@pytest.mark.parametrize(
    ("name", "key", "chat"),
    [
        ("llama3", "None", "<|sink|>user auser b"),
        ("bare", "None", "<|sink|>user auser b"),
        ("closing", "default", "<|sink|>user a user b "),
        ("closing", "each", "<|sink|>user a</s>user b</s>"),
        ("closing", "unused", "<|sink|>user auser b"),
    ],
)
def test_a_chat_begins_with_the_sink_token_once(name, key, chat, seen):
    rendered, ids = seen[f"{name} sink"]["chats"][key]
    assert rendered == chat
    assert ids[0] == SINK
    assert ids.count(SINK) == 1


def test_the_tokenizer_in_memory_is_what_a_fresh_process_loads(seen):
    for name in MADE:
        for change in ("without", "sink"):
            loaded = seen[f"{name} {change}"]
            assert seen["said"][f"{name} {change} in memory"] == [loaded["a"], loaded["pair"]]


def test_what_cannot_be_done_is_said():
    tokenizer = llama3()
    with_sink_token(tokenizer, rows=8)
    with pytest.raises(ModelError, match="holds a sink token already"):
        with_sink_token(tokenizer, rows=8)
    with pytest.raises(ModelError, match="writes <s> out"):
        without_bos(llama3("<s>" + UNUSED))
    fixed = words(processors.BertProcessing(("</s>", EOS), ("<s>", BOS)))
    with pytest.raises(ModelError, match=r"does not stay as set.* TemplateProcessing"):
        without_bos(fixed)
    gaps = Tokenizer(models.WordLevel({"<unk>": 1, "a": 2}, unk_token="<unk>"))
    with pytest.raises(ModelError, match="gaps"):
        with_sink_token(PreTrainedTokenizerFast(tokenizer_object=gaps, unk_token="<unk>"), rows=8)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gpt_neox", "phi"])
def test_the_row_leaves_the_rest_and_generation_never_chooses_it(family, tied):
    model_type, settings = STREAMED[family]
    model = tiny(model_type, {**settings, "tie_word_embeddings": tied}, torch.float32)
    model.generation_config.suppress_tokens, model.generation_config.eos_token_id = [7], None
    prompt = torch.randint(8, 64, (1, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = model(prompt, output_hidden_states=True)
    largest = 1e3 * out.hidden_states[-1][0, -1]  # a row with the largest logit of all
    before = model.get_input_embeddings().weight.detach().clone()
    row = largest if tied else torch.ones_like(largest)
    with_row(model, PlacedToken(64, spare=False), row, None if tied else largest)

    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    assert (head.weight is embedding) == tied
    assert torch.equal(embedding, torch.cat([before, row[None]]))
    assert model.config.vocab_size == 65
    assert model.config.bos_token_id == model.generation_config.bos_token_id == 64
    assert model.generation_config.suppress_tokens == [7, 64]
    if head.bias is not None:
        assert head.bias[64] < -1e3
        head.bias.data[64] = 0
    with torch.no_grad():
        after = model(prompt).logits
    assert torch.equal(after[..., :64], out.logits)
    assert int(after[0, -1].argmax()) == 64
    assert not set(model.generate(prompt, max_new_tokens=5, do_sample=False)[0, 12:].tolist()) & {7, 64}


def test_a_spare_row_is_written_where_it_is_and_a_head_of_its_own_gets_zeros():
    model = tiny("llama", {}, torch.bfloat16)
    before = model.get_input_embeddings().weight.detach().clone()
    with_row(model, PlacedToken(60, spare=True), torch.ones(32))
    rest = torch.arange(64) != 60
    assert torch.equal(model.get_input_embeddings().weight[rest], before[rest])
    assert torch.equal(model.get_input_embeddings().weight[60], torch.ones(32, dtype=torch.bfloat16))
    assert not model.get_output_embeddings().weight[60].any()


def test_a_saved_model_tells_stories_after_the_sink_token(seen):
    plain = AutoModelForCausalLM.from_pretrained(STORIES)
    once = AutoTokenizer.from_pretrained(STORIES)("Once", return_tensors="pt", return_token_type_ids=False)
    for prompt, generated in zip((once, {}), seen["generated"], strict=True):
        # The sink token has the row of BOS, so that the story is the same.
        expected = plain.generate(**prompt, max_new_tokens=8, do_sample=False).tolist()[0]
        assert generated == [512, *expected[1:]]


def test_a_tokenizer_without_fast_implementation_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\na\n")
    with pytest.raises(ModelError, match="no fast implementation"):
        with_sink_token(BertTokenizerLegacy(str(tmp_path / "vocab.txt")), rows=8)
