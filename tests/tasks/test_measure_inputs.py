"""What a checkpoint is shown: the text's own tokens, evenly spread; the same ids with special tokens and without."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast, ViTImageProcessorPil

from sinkctl.errors import ModelError, TextError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import InputSettings, MeasureRecipe
from sinkctl.tasks.measure import natural as reading
from sinkctl.tasks.measure.input_set import InputSet, token_reader
from sinkctl.tasks.measure.inputs import inputs

SHAPE = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)


def shown(loaded: LoadedModel, **settings) -> list[InputSet]:
    return inputs(MeasureRecipe(input=InputSettings(**settings)), loaded)


@pytest.fixture
def bert() -> LoadedModel:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", "sat", "."]
    backend = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = dict(unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")
    model = AutoModel.from_config(AutoConfig.for_model("bert", **SHAPE, vocab_size=len(words)))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    return LoadedModel(model.eval(), tokenizer, "bert", "in memory", kind="encoder")


@pytest.fixture
def dino() -> LoadedModel:
    settings = dict(**SHAPE, image_size=32, patch_size=8, num_register_tokens=2)
    model = AutoModel.from_config(AutoConfig.for_model("dinov2_with_registers", **settings))
    half = [0.5] * 3
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=half, image_std=half)
    return LoadedModel(model.eval(), None, "dino", "in memory", kind="vision", processor=processor)


def test_natural_samples_are_pieces_of_the_text_spread_over_all_of_it(demo, book):
    with_bos, without = shown(demo, samples=50)
    assert [s.name for s in (with_bos, without)] == ["natural, BOS", "natural, no BOS"]
    assert (with_bos.bos, without.bos, without.note) == (True, False, None)
    ids = np.array(demo.tokenizer(book, add_special_tokens=False)["input_ids"])
    windows = np.lib.stride_tricks.sliding_window_view(ids, 64)
    starts = [np.flatnonzero((windows == sample.numpy()).all(1))[0] for sample in without.samples]
    assert starts[0] == 0
    assert len(ids) - starts[-1] < 2 * len(ids) / 50
    assert min(np.diff(starts)) >= 64
    assert max(np.diff(starts)) - min(np.diff(starts)) <= 64
    for framed, bare in zip(with_bos.samples, without.samples, strict=True):
        assert framed.tolist() == [demo.bos_id, *bare[:-1].tolist()]


def test_random_tokens_are_ordinary_ones_and_the_same_with_bos(demo):
    sets = shown(demo, kinds=("random", "repeat"), samples=40, length=16)
    assert [s.name for s in sets] == ["random, BOS", "random, no BOS", "repeat, BOS", "repeat, no BOS"]
    for framed, bare in (sets[:2], sets[2:]):
        assert torch.equal(torch.stack(framed.samples)[:, 1:], torch.stack(bare.samples)[:, :-1])
    drawn = torch.stack(sets[1].samples)
    ordinary = set(range(len(demo.tokenizer))) - set(demo.tokenizer.added_tokens_decoder)
    assert set(drawn.flatten().tolist()) <= ordinary
    assert drawn.unique().numel() > 500
    repeated = torch.stack(sets[3].samples)
    assert torch.equal(repeated, repeated[:, :1].expand_as(repeated))
    assert len(repeated[:, 0].unique()) > 30
    again = shown(demo, kinds=("random",), samples=40, length=16)[1]
    other = shown(demo, kinds=("random",), samples=40, length=16, seed=1)[1]
    assert torch.equal(drawn, torch.stack(again.samples))
    assert not torch.equal(drawn, torch.stack(other.samples))


def test_bos_follows_the_tokenizer_or_the_recipe(demo, stories):
    for loaded in (demo, stories):
        (only,) = shown(loaded, bos="auto", samples=2, length=8)
        assert only.bos == (loaded.tokenizer("a").input_ids[0] == loaded.bos_id)
        assert [len(shown(loaded, bos=b, samples=2, length=8)) for b in ("both", "on", "off")] == [2, 1, 1]


def test_a_tokenizer_without_bos_shows_one_set_and_says_so(bert):
    bert.model.config.bos_token_id = None
    decoder = replace(bert, kind="decoder")
    (only,) = shown(decoder, kinds=("random",))
    assert (only.name, only.bos) == ("random, no BOS", False)
    assert "no BOS token" in only.note
    with pytest.raises(ModelError, match="no BOS token"):
        shown(decoder, kinds=("random",), bos="on")


def test_an_encoder_gets_what_its_tokenizer_puts_around_a_text(bert, tmp_path):
    text = "the cats sat . the cat sat ."
    (tmp_path / "a.txt").write_text(text + " the cat")
    framed, bare = shown(bert, files=(str(tmp_path / "a.txt"),), samples=1, length=11)
    assert (framed.name, bare.name) == ("natural, [CLS] … [SEP]", "natural, bare")
    whole = bert.tokenizer(text)["input_ids"]
    assert len(whole) == 11
    assert framed.samples[0].tolist() == whole
    assert bare.samples[0].tolist() == [*whole[1:-1], 4, 5]
    assert [framed.token_text(0, n) for n in range(4)] == ["[CLS]", "the", "cat", "##s"]


def test_a_short_text_gives_fewer_samples_and_a_note_or_nothing(demo, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("It was a dark night, and the rain fell. " * 20)
    tokens = len(demo.tokenizer(path.read_text(), add_special_tokens=False)["input_ids"])
    found = shown(demo, files=(str(path),))[1]
    assert len(found.samples) == tokens // 64
    assert found.note == f"the text holds only {tokens // 64} samples of 64 tokens"
    with pytest.raises(TextError, match=f"holds {tokens} tokens, and a sample takes 4,096"):
        shown(demo, files=(str(path),), length=4096)


def test_a_record_is_a_sample_however_short(demo, tmp_path):
    path = tmp_path / "a.jsonl"
    texts = ["It was a dark night. " * 20, "", "Rain fell.", "   ", "The end came soon, as ends do."]
    path.write_text("".join(json.dumps({"story": text}) + "\n" for text in texts))
    framed, bare = shown(demo, files=(str(path),), field="story", length=32)
    ids = [demo.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts if text.strip()]
    assert [s.tolist() for s in bare.samples] == [i[:32] for i in ids]
    assert [s.tolist() for s in framed.samples] == [[demo.bos_id, *i[:31]] for i in ids]
    assert bare.note == "the text holds only 3 records of two tokens or more"
    with pytest.raises(UsageError, match=r"--field story: none of the texts is a \.jsonl file"):
        shown(demo, field="story")


def test_reading_ends_early_in_a_long_text(demo, book, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_TOKENS", 4000)
    (tmp_path / "long.txt").write_text(book)
    found = shown(demo, files=(str(tmp_path / "long.txt"),), samples=10)[1]
    ids = demo.tokenizer(book, add_special_tokens=False)["input_ids"]
    assert "of its first" in found.note
    assert found.samples[0].tolist() == ids[:64]
    last = next(n for n in range(0, len(ids), 64) if ids[n : n + 64] == found.samples[-1].tolist())
    assert last < len(ids) // 2


def test_tokenizers_that_know_no_places_read_text_too(stories, book, monkeypatch):
    fast = shown(stories, samples=5)[1]
    monkeypatch.setattr(type(stories.tokenizer), "is_fast", False)
    plain = shown(stories, samples=5)[1]
    ids = stories.tokenizer(book, add_special_tokens=False)["input_ids"]
    assert plain.samples[0].tolist() == fast.samples[0].tolist() == ids[:64]
    assert all(sample.tolist() in [ids[n : n + 64] for n in range(0, len(ids), 64)] for sample in plain.samples)


def test_tokens_read_as_text(demo, stories):
    for loaded in (demo, stories):
        text_of = token_reader(loaded.tokenizer)
        for text in ("Once upon a time, there was\n\na café.", " the end"):
            ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
            pieces = [text_of(number) for number in ids]
            if not any("0x" in piece for piece in pieces):
                assert "".join(pieces).strip() == text.strip()
        assert text_of(loaded.bos_id) == loaded.tokenizer.bos_token
    assert token_reader(None)(7) == "7"


def test_images_come_through_the_processor_and_their_patches_have_places(dino, tmp_path):
    (tmp_path / "deeper").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "deeper" / "a.png")
    Image.new("L", (50, 40)).save(tmp_path / "b.PNG")
    (tmp_path / "c.txt").write_text("no image")
    (found,) = shown(dino, files=(str(tmp_path),))
    assert (found.name, found.bos, found.note) == ("images", None, "the files hold only 2 images")
    # Sorted by name; black is −1 at a mean and deviation of ½, and 32 × 32 pixels need no resampling.
    assert torch.equal(found.samples[0], torch.full((3, 32, 32), -1.0))
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(found.samples[1], expected, rtol=0, atol=1e-6)
    tokens = dino.model(pixel_values=found.samples[1][None]).last_hidden_state.shape[1]
    texts = [found.token_text(1, n) for n in range(tokens)]
    assert texts[:4] == ["[CLS]", "[REG 1]", "[REG 2]", "patch 0,0"]
    assert texts[-1] == "patch 3,3"
    assert texts[3 + 4] == "patch 1,0"
    with pytest.raises(TextError, match=r"c\.txt: not an image"):
        shown(dino, files=(str(tmp_path / "c.txt"),))


def test_without_files_a_vision_model_is_shown_noise(dino, monkeypatch):
    (found,) = shown(dino, samples=30)
    assert (found.name, found.kind) == ("random images", "random images")
    assert "no images were given" in found.note
    pixels = torch.stack(found.samples)
    assert pixels.shape == (30, 3, 32, 32)
    assert pixels.mean().abs() < 0.02
    assert (pixels.std() - 1).abs() < 0.02
    with pytest.raises(UsageError, match="repeat"):
        shown(dino, kinds=("repeat",))
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert len(shown(replace(dino, processor=None))) == 1
    with pytest.raises(ModelError, match=r"pip install 'sinkctl\[images\]'"):
        shown(replace(dino, processor=None), files=("a.png",))
