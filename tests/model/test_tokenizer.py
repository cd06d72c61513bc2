"""Which tokenizer a checkpoint gets, and what becomes of ids that its embedding has no row for."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaTokenizer, Qwen2Config, Qwen2ForCausalLM, TokenizersBackend

from sinkctl.api import convert, generate, measure, stream
from sinkctl.errors import ModelError, TextError
from sinkctl.model.load import DEMO, LoadedModel, load
from sinkctl.model.settings import ModelSettings
from sinkctl.tasks.generate.sampling import Sampler

STORIES = Path(__file__).parents[1] / "data" / "stories260K"
TEXT = "'Don't ye bide 12345 upon the road, naïve Marty?'\n\n"


def loaded(folder: Path, **settings) -> LoadedModel:
    return load(ModelSettings(name=str(folder), device="cpu", **settings))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    """A qwen2 checkpoint with a tokenizer that is not Qwen's, as its tokenizer.json says."""
    folder = tmp_path_factory.mktemp("qwen")
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8)
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(vocab_size=4096, num_key_value_heads=1, bos_token_id=1, **sizes)).save_pretrained(
        folder
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder)
    return folder


@pytest.fixture(scope="module")
def added(tmp_path_factory) -> Path:
    """Two tokens were added to the tokenizer, and no rows to the embedding."""
    folder = tmp_path_factory.mktemp("added") / "added"
    shutil.copytree(STORIES, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)
    return folder


def test_the_tokenizer_is_that_of_tokenizer_json_also_where_autotokenizer_has_a_class(qwen, book):
    written = Tokenizer.from_file(str(qwen / "tokenizer.json")).encode(TEXT).ids
    stock = AutoTokenizer.from_pretrained(qwen)(TEXT).input_ids
    assert written != stock, "AutoTokenizer takes the class no longer: this case is none any more"
    by_file, by_class = loaded(qwen), loaded(qwen, tokenizer="class")
    assert by_file.tokenizer(TEXT).input_ids == written
    assert by_class.tokenizer(TEXT).input_ids == stock
    (note,) = by_file.notes
    assert "Qwen2Tokenizer" in note
    assert "--tokenizer class" in note
    assert by_file.choices["tokenizer"].startswith("file: ")
    assert "--tokenizer file" in by_class.notes[0]
    theirs, own = re.findall(r"\(([\d ]+)\)", note)  # the example: of the class, of the file
    line = next(line for line in book.splitlines() if line.startswith("'Don't ye bide about long upon the road"))
    read_by_file, read_by_class = (" ".join(map(str, m.tokenizer(line).input_ids)) for m in (by_file, by_class))
    assert own in read_by_file
    assert own not in read_by_class
    assert theirs in read_by_class


def test_a_class_that_reads_as_the_file_says_is_left_in_place(stories):
    assert type(stories.tokenizer) is LlamaTokenizer
    assert stories.notes == []
    assert "tokenizer" not in stories.choices


def test_a_file_with_its_vocabulary_first_is_compared_all_the_same(qwen, tmp_path):
    shutil.copytree(qwen, tmp_path / "turned")
    path = tmp_path / "turned" / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({"model": spec.pop("model"), **spec}), encoding="utf-8")
    assert loaded(tmp_path / "turned").tokenizer(TEXT).input_ids == loaded(qwen).tokenizer(TEXT).input_ids


def test_a_converted_checkpoint_reads_as_the_original_and_says_where_autotokenizer_does_not(qwen, tmp_path):
    done = convert(str(qwen), to="sink_token", output=tmp_path / "out", samples=1, window=16, evaluation={"run": False})
    assert any("AutoTokenizer does not load the tokenizer as it was written" in note for note in done.result.notes)
    ids = loaded(tmp_path / "out").tokenizer(TEXT).input_ids
    assert ids[1:] == loaded(qwen).tokenizer(TEXT).input_ids[1:]  # the sink token stands where BOS stood
    assert TokenizersBackend.from_pretrained(tmp_path / "out")(TEXT).input_ids == ids
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "tokenizer = TokenizersBackend.from_pretrained(" in card


def test_added_tokens_without_a_row_are_noted_and_refused_only_in_a_text_that_holds_them(added, tmp_path):
    model = loaded(added)
    assert "514 tokens, the embedding 512 rows" in model.notes[0]
    plain, spelt = tmp_path / "plain.txt", tmp_path / "spelt.txt"
    plain.write_text("Once upon a time there was a girl.\n" * 9)
    spelt.write_text("Once upon a time.\nSo <|im_start|>user said it was a very big and happy day.\n" * 20)
    assert stream(plain, model=model, policies="4+20").result.notes[0] == model.notes[0]
    with pytest.raises(
        TextError, match=r"spelt\.txt:2 holds <\|im_start\|> \(id 512\), and the embedding has 512 rows"
    ):
        stream(spelt, model=model, policies="4+20")
    with pytest.raises(TextError, match="the prompt holds"):
        generate("<|im_start|>user", model=model, tokens=2)
    with pytest.raises(TextError, match="the text holds"):
        measure(model, files=[str(spelt)], samples=1, length=40)
    with pytest.raises(TextError, match=r"spelt\.txt holds"):
        convert(model, output=tmp_path / "no", text=spelt, samples=1, window=16)
    assert stream(spelt, model=loaded(added, special_tokens="text"), policies="4+20").result.stream.tokens > 100


def test_a_vocabulary_past_the_embedding_is_another_models(added, qwen, tmp_path):
    shutil.copytree(STORIES, tmp_path / "mixed")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, tmp_path / "mixed")
    with pytest.raises(ModelError, match="4,096 tokens, the embedding 512 rows; the tokenizer is another model's"):
        loaded(tmp_path / "mixed")


def test_a_row_that_only_pads_the_embedding_is_never_generated(stories, tmp_path):
    """The padding's logit is made the largest of all: twice that of the likeliest token."""
    padded = loaded(STORIES)
    padded.model.resize_token_embeddings(576)
    rows = padded.model.get_input_embeddings().weight.data
    first = generate("Once upon a time", model=stories, tokens=8, temperature=0)
    rows[512:] = 2 * rows[int(first.ids[0, 0])]
    found = generate("Once upon a time", model=padded, tokens=8, temperature=0)
    assert found.ids.tolist() == first.ids.tolist()
    assert found.result.choices["vocabulary"].startswith("512 of 576 ids")


def test_ids_never_chosen_are_not_drawn_either():
    sampler = Sampler(1, torch.device("cpu"), never=[0, 3])
    sampler.prepare(200)
    drawn = {int(sampler.choose(torch.tensor([[9.0, 1.0, 1.0, 9.0]]))) for _ in range(200)}
    assert drawn == {1, 2}
