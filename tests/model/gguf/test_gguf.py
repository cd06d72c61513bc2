"""A GGUF file is the model it was made of: its weights, its tokenizer, its texts; what it is not is refused."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from gguf_files import STORIES, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

from sinkctl.errors import ModelError
from sinkctl.model import files
from sinkctl.model.gguf import check
from sinkctl.model.gguf.agrees import check_agrees
from sinkctl.model.gguf.header import Header, TensorInfo, read_header
from sinkctl.model.gguf.vocabulary import check_vocabulary, follow_file
from sinkctl.model.kept import cache_folder, cache_size, clear_cache
from sinkctl.model.load import load
from sinkctl.model.named import absolute, resolve
from sinkctl.model.settings import ModelSettings

TEXT = "Once upon a time there was a little dog named Tim."


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SINKCTL_CACHE", str(folder))
    return folder


def load_whole(load, settings, weights, **options):
    """With weights, whatever is asked."""
    return load(settings, **options)


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("exact") / "stories.gguf")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("quantized") / "stories.gguf", blocks="Q4_1")


def test_float32_is_the_original_to_the_bit(exact, stories):
    loaded = load(str(exact))
    own, other = loaded.model.state_dict(), stories.model.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    assert loaded.tokenizer(TEXT).input_ids == stories.tokenizer(TEXT).input_ids
    assert loaded.uses_bos
    assert loaded.choices["weights"] == "F32 (47 tensors) in the file, loaded as float32"
    with torch.no_grad():
        ids = loaded.tokenizer(TEXT, return_tensors="pt").input_ids
        assert torch.equal(loaded.model(ids).logits, stories.model(ids).logits)


def test_blocks_are_dequantized_as_transformers_does_without_us(quantized):
    stock = AutoModelForCausalLM.from_pretrained(quantized.parent, gguf_file=quantized.name, dtype=torch.float32)
    first, second = load(str(quantized)), load(str(quantized))  # the second with the tokenizer that was kept
    for loaded in (first, second):
        own = loaded.model.state_dict()
        assert all(torch.equal(own[name], weight) for name, weight in stock.state_dict().items())
        assert loaded.choices["weights"] == "Q4_1 (31 tensors), F32 (16) in the file, dequantized to float32"
    assert first.tokenizer(TEXT).input_ids == second.tokenizer(TEXT).input_ids
    assert first.fingerprint == second.fingerprint


def test_its_tokenizer_is_transformers_own_and_its_vocabulary_is_not_read_for_the_config(exact, tmp_path, monkeypatch):
    asked, read = [], modeling_gguf_pytorch_utils.load_gguf_checkpoint
    counted = lambda path, *more, **named: asked.append(Path(path)) or read(path, *more, **named)  # noqa: E731
    monkeypatch.setattr(modeling_gguf_pytorch_utils, "load_gguf_checkpoint", counted)
    AutoTokenizer.from_pretrained(exact.parent, gguf_file=exact.name).save_pretrained(tmp_path)
    without_us = asked.count(exact)
    asked.clear()
    load(str(exact))
    (kept,) = cache_folder().glob("gguf/*/tokenizer.json")
    assert kept.read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    assert asked.count(exact) == max(0, without_us - 1)


def test_a_conversion_of_it_is_an_ordinary_checkpoint(quantized, tmp_path):
    loaded = load(str(quantized))
    loaded.model.save_pretrained(tmp_path / "plain")
    loaded.tokenizer.save_pretrained(tmp_path / "plain")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert not hasattr(again.config, "quantization_config")
    ids = loaded.tokenizer(TEXT, return_tensors="pt").input_ids
    assert tokenizer(TEXT).input_ids == ids[0].tolist()
    with torch.no_grad():
        assert torch.equal(again(ids).logits, loaded.model(ids).logits)


def test_the_command_line_streams_and_converts_it(sinkctl, quantized, tmp_path, monkeypatch):
    monkeypatch.chdir(quantized.parent)
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 20)
    code, out, err = sinkctl("stream", "-m", "stories.gguf", text, "-p", "dense", "--limit", "200", "--json")
    assert code == 0, err
    assert '"Q4_1 (31 tensors), F32 (16) in the file, dequantized to float32"' in out
    code, _, err = sinkctl("convert", ".", "--to", "softmax1", "-o", tmp_path / "out", "--no-eval", "-q")
    assert code == 0, err
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert torch.equal(again.get_input_embeddings().weight, load(".").model.get_input_embeddings().weight)


@pytest.mark.parametrize("task", [["--policy", "4+100"], ["--generate", "9"], ["--questions", "lines"], ["convert"]])
def test_a_plan_is_the_same_and_dequantizes_nothing(sinkctl, quantized, task, monkeypatch):
    words = [*(["stream"] if task != ["convert"] else []), *task, "-m", quantized, "--dry-run"]
    read = AutoModelForCausalLM.from_pretrained
    monkeypatch.delattr(AutoModelForCausalLM, "from_pretrained")
    code, plan, said = sinkctl(*words)
    assert code == 0, said
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", read)
    monkeypatch.setattr("sinkctl.model.load.load", partial(load_whole, load))
    assert sinkctl(*words) == (0, plan, said)


def test_a_folder_of_one_is_it_and_of_several_one_is_named(exact, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).symlink_to(exact)
    with pytest.raises(ModelError, match=r"holds a.gguf, b.gguf; say which: .*#a.gguf"):
        files.check_checkpoint(ModelSettings(name=str(tmp_path)))
    assert resolve(str(exact.parent)).file == "stories.gguf"
    one = resolve(f"{tmp_path}#b.gguf")
    assert (one.form, one.local, one.path) == ("gguf", True, tmp_path / "b.gguf")
    assert resolve("org/name#x.gguf") == ("gguf", "org/name", "x.gguf", False)
    assert absolute(os.path.relpath(tmp_path) + "#b.gguf") == f"{tmp_path}#b.gguf"
    files.check_checkpoint(ModelSettings(name=f"{tmp_path}#b.gguf"))


def test_what_is_no_whole_gguf_is_refused_before_torch(exact, tmp_path, monkeypatch):
    whole, size = exact.read_bytes(), exact.stat().st_size
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    for name, content, said in (
        ("cut.gguf", whole[: size - 100], f"is cut short: .* the file at {size - 100:,}"),
        ("head.gguf", whole[:5000], "damaged or cut short inside its header"),
        ("other.gguf", b"PK\x03\x04" + whole[4:], "is no GGUF file"),
        ("old.gguf", whole[:4] + b"\x01\0\0\0" + whole[8:], "of version 1"),
        ("big.gguf", whole[:4] + b"\0\0\0\x03" + whole[8:], "of a big-endian machine"),
        ("pointer.gguf", pointer, "Git LFS pointer"),
        ("m-00002-of-00003.gguf", whole, "part 2 of 3.*--merge m-00001-of-00003.gguf"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=said):
            files.check_checkpoint(ModelSettings(name=str(tmp_path / name)))
    with pytest.raises(ModelError, match="architecture 'clip'"):
        files.check_checkpoint(ModelSettings(name=str(write_gguf(tmp_path / "clip.gguf", arch="clip"))))
    monkeypatch.setattr(check, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'sinkctl\[gguf\]'"):
        files.check_checkpoint(ModelSettings(name=str(exact)))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"sizes": {"block_count": 3}},
            r"there are 3 blocks \(llama.block_count\), and it holds weights of blk.3 and 1 more; the",
        ),
        (
            {"sizes": {"block_count": 7}},
            "by its header there are 7 blocks .* no weights of blk.5 and 1 more; the file",
        ),
        ({"sizes": {"head_count": 7}}, "embedding_length, 64, is not divisible by llama.attention.head_count, 7"),
        ({"sizes": {"head_count": 0}}, "head_count is 0"),
        ({"sizes": {"head_count_kv": 3}}, "head_count, 8, is not divisible by llama.attention.head_count_kv, 3"),
        ({"sizes": {"embedding_length": 128}}, "embedding_length is 128, and the embedding's rows are of 64"),
        ({"sizes": {"vocab_size": 500}}, "vocabulary is of 500 tokens, and the embedding has 512 rows"),
        (
            {"sizes": {"feed_forward_length": 100}},
            r"blk.0.ffn_down.weight is 64×172 in the file and 64×100 by its header \(and 14 more\); the file",
        ),
        ({"sizes": {"head_count_kv": 8}}, "blk.0.attn_k.weight is 32×64 in the file and 64×64 by its header"),
        ({"bos_token_id": 512}, "bos_token_id is 512, and its vocabulary has 512 tokens; .* download it again"),
        ({"eos_token_id": 2**32 - 1}, "eos_token_id is 4,294,967,295, and"),
        ({"unk_token_id": 600}, "unknown_token_id is 600, and"),
        ({"pad_token_id": 600}, "padding_token_id is 600, and"),
    ],
)
def test_a_header_that_disagrees_with_itself_is_refused_before_torch(changed, said, tmp_path):
    path = write_gguf(tmp_path / "stories.gguf", **changed)
    with pytest.raises(ModelError, match=said):
        files.check_checkpoint(ModelSettings(name=str(path)))


def test_blocks_that_predict_further_tokens_may_be_there_or_not(tmp_path):
    """Those of `nextn_predict_layers` are counted, and stand behind the others."""
    names = [f"blk.{number}.attn_norm.weight" for number in range(5)]
    infos = [TensorInfo(name, (64,), 0, 0) for name in names] + [TensorInfo("token_embd.weight", (64, 0), 0, 0)]
    fields = {"general.architecture": "qwen35", "qwen35.block_count": 5, "qwen35.embedding_length": 64}
    whole = Header(tmp_path, 3, fields | {"qwen35.nextn_predict_layers": 1}, {}, infos, (0, 0))
    without = replace(whole, tensors=infos[:4] + infos[5:])
    check_agrees(tmp_path, whole)
    check_agrees(tmp_path, without)
    with pytest.raises(ModelError, match=r"no weights of blk\.4;"):
        check_agrees(tmp_path, replace(without, fields=fields))


def test_a_matrix_of_one_block_that_is_lost_is_named(tmp_path):
    header = read_header(write_gguf(tmp_path / "stories.gguf"))
    without = replace(header, tensors=[each for each in header.tensors if each.name != "blk.3.ffn_up.weight"])
    check_agrees(tmp_path, header)
    with pytest.raises(ModelError, match=r"it holds no blk\.3\.ffn_up\.weight; the file is damaged or was edited"):
        check_agrees(tmp_path, without)
    for unsure in ({"llama.expert_count": 8}, {"llama.attention.head_count_kv": [4] * 5}):
        check_agrees(tmp_path, replace(without, fields=header.fields | unsure))


def test_widths_of_heads_that_transformers_does_not_go_by_are_no_fault(tmp_path):
    load(str(write_gguf(tmp_path / "stories.gguf", sizes={"key_length": 16, "value_length": 16})))


def test_what_only_loading_tells_is_said_of_the_header(tmp_path, monkeypatch):
    """Of architectures whose matrices are not known before."""
    monkeypatch.setattr(check, "check_agrees", lambda *_: None)
    path = write_gguf(tmp_path / "stories.gguf", sizes={"feed_forward_length": 100})
    with pytest.raises(ModelError, match=r"down_proj.weight is 64×172 in the file and 64×100 by its header .*again"):
        load(str(path))


def test_tensors_that_transformers_leaves_aside_are_named(tmp_path):
    aside = {"rope_freqs.weight": np.ones(4, np.float32)} | {
        f"blk.{number}.attn_q.bias": np.ones(64, np.float32) for number in range(5)
    }
    loaded = load(str(write_gguf(tmp_path / "stories.gguf", more=aside)))
    assert loaded.notes[:1] == [
        f"transformers {transformers.__version__} leaves 6 of the file's 53 tensors aside (rope_freqs.weight, "
        "blk.*.attn_q.bias), and the model is without them; its rotary frequencies are not scaled."
    ]


def test_another_tokenizer_than_the_files_is_refused(exact, tmp_path):
    """Each mistake that a reader can make: no BOS, another vocabulary, words in letters."""
    header, name = read_header(exact), str(STORIES)
    right = AutoTokenizer.from_pretrained(name)
    check_vocabulary("right", right, header)
    without_bos = AutoTokenizer.from_pretrained(name)
    without_bos.backend_tokenizer.post_processor = None
    with pytest.raises(ModelError, match=r"none stands in front of a text.*add_bos_token: true"):
        check_vocabulary("no BOS", without_bos, header)
    letters = AutoTokenizer.from_pretrained(name)
    letters.backend_tokenizer.model.dropout = 1.0
    with pytest.raises(ModelError, match=r"“ before” is .* by the file, and … b e f o r e here"):
        check_vocabulary("letters", letters, header)
    swapped = [*header.tokens]
    swapped[400], swapped[401] = swapped[401], swapped[400]
    other = read_header(write_gguf(tmp_path / "swapped.gguf", token_list=swapped))
    with pytest.raises(ModelError, match="is token 400 of the file, and 401 here"):
        check_vocabulary("swapped", right, other)


def test_words_in_letters_are_refused_on_the_way_and_a_lost_bos_is_put_back(tmp_path, monkeypatch):
    path, read = write_gguf(tmp_path / "stories.gguf"), AutoTokenizer.from_pretrained

    def forgetful(*arguments, **keywords):
        made = read(*arguments, **keywords)
        made.backend_tokenizer.post_processor = None
        return made

    def letters(*arguments, **keywords):
        made = read(*arguments, **keywords)
        made.backend_tokenizer.model.dropout = 1.0
        return made

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", forgetful)
    loaded = load(str(path))
    assert loaded.uses_bos
    assert any(note.startswith("A text begins with <s>, as the GGUF file says") for note in loaded.notes)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", letters)
    with pytest.raises(ModelError, match="makes another tokenizer of it than the file holds: “ before”"):
        load(str(path))


def test_special_tokens_are_called_what_the_file_calls_them(exact):
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    tokenizer.eos_token = "<s>"
    (note,) = follow_file(tokenizer, read_header(exact))
    assert note.startswith("EOS is </s>, as the GGUF file says")
    assert tokenizer.eos_token_id == 2


def test_what_is_kept_is_seen_cleared_and_not_needed(sinkctl, exact, cache, monkeypatch):
    load(str(exact))
    assert [path.name for path in cache_folder().iterdir() if path.name.startswith("work")] == []
    assert cache_size(cache_folder()) > 10_000
    code, out, _ = sinkctl("doctor", "--clear-cache")
    assert code == 0
    assert str(cache) in out
    assert cache_size(cache_folder()) == 0
    clear_cache(cache_folder())  # twice is fine
    (cache / "a file").touch()
    monkeypatch.setenv("SINKCTL_CACHE", str(cache / "a file"))
    assert any(note.startswith("Nothing is kept for the next time") for note in load(str(exact)).notes)
    monkeypatch.setenv("SINKCTL_CACHE", "off")
    assert not any(note.startswith("Nothing is kept") for note in load(str(exact)).notes)


@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_a_damaged_kept_tokenizer_is_made_anew(exact, damage):
    right = load(str(exact)).tokenizer(TEXT).input_ids
    (path,) = cache_folder().glob("gguf/*/tokenizer.json")
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-100] if damage == "cut" else whole.replace(b"he", b"eh"))
    loaded = load(str(exact))
    assert loaded.tokenizer(TEXT).input_ids == right
    assert [note for note in loaded.notes if "was damaged; it is made anew" in note]
    assert path.read_bytes() == whole
    assert not [note for note in load(str(exact)).notes if "damaged" in note]
