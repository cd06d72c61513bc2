"""`sinkctl measure` of encoder-decoders, of speech and of text, in three parts: against their stock eager maps.

N samples, L layers, H heads, T queries, S keys.
"""

import csv
import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    PreTrainedTokenizerFast,
    WhisperFeatureExtractor,
)

from sinkctl.errors import ModelError, UsageError
from sinkctl.metrics.observe import blocks_of
from sinkctl.model.load import LoadedModel, load
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.schema import InputSettings, MeasureRecipe
from sinkctl.report.html import html
from sinkctl.tasks.measure import Outcome, run
from sinkctl.tasks.measure.inputs import inputs
from sinkctl.tasks.measure.sound import read

IDS = dict(vocab_size=64, pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=2)
WHISPER = dict(
    **IDS, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=100, max_target_positions=64,
    init_std=0.4,
)  # fmt: skip
BART = dict(
    **IDS, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, init_std=0.3, forced_eos_token_id=3,
)  # fmt: skip
T5 = dict(**IDS, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4, initializer_factor=2.0)
SECONDS = 2  # of a clip: 100 frames, at 50 a second


def checkpoint(folder, model_type: str, settings: dict) -> Path:
    torch.manual_seed(0)
    speech = model_type == "whisper"
    auto_class = AutoModelForSpeechSeq2Seq if speech else AutoModelForSeq2SeqLM
    auto_class.from_config(AutoConfig.for_model(model_type, **settings)).save_pretrained(folder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [*special, *(f"w{number}" for number in range(60))]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(pad_token="[PAD]", unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]")
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    if speech:
        WhisperFeatureExtractor(feature_size=8, chunk_length=SECONDS).save_pretrained(folder)
    return folder


def opened(folder) -> LoadedModel:
    return load(ModelSettings(name=str(folder), device="cpu", dtype="float64"), ("encoder-decoder",))


def recipe(**changes) -> MeasureRecipe:
    own = {key: changes.pop(key) for key in list(changes) if key in InputSettings.model_fields}
    return MeasureRecipe(input=InputSettings(**own), **changes)


def recording(path: Path, seconds: float, rate: int = 16_000) -> Path:
    value = np.random.default_rng(0).integers(-9000, 9000, round(seconds * rate)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(value.tobytes())
    return path


@pytest.fixture
def texts(tmp_path) -> str:
    path, draw = tmp_path / "texts.jsonl", torch.Generator().manual_seed(1)
    lines = [" ".join(f"w{number}" for number in torch.randint(60, (n,), generator=draw)) for n in (5, 30, 30)]
    path.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    return str(path)


@torch.no_grad()
def stock_alpha(loaded: LoadedModel, given: list[dict[str, Tensor]]) -> dict[str, list[Tensor]]:
    """What each key receives a query in the model's own maps, by part, [L, H, S] a sample: its whole forward pass."""
    model = loaded.model
    model.set_attn_implementation("eager")
    found = {"encoder": [], "decoder": [], "cross-attention": []}
    for each in given:
        out = model(**each, output_attentions=True, use_cache=False)
        parts = (out.encoder_attentions, out.decoder_attentions, out.cross_attentions)
        for part, maps in zip(found, parts, strict=True):
            map_LHTS = torch.stack(maps)[:, 0].double()
            later = map_LHTS.shape[2] * torch.ones(map_LHTS.shape[3])
            if part == "decoder":
                later = later - torch.arange(len(later))
            found[part].append(map_LHTS.sum(2) / later)
    model.set_attn_implementation("sdpa")
    return found


def mean_of(parts: list[Tensor]) -> Tensor:
    """Over the samples that have the key."""
    longest = max(x.shape[-1] for x in parts)
    pad = [torch.nn.functional.pad(x, (0, longest - x.shape[-1]), value=torch.nan) for x in parts]
    return torch.stack(pad).nanmean(0)


def written(loaded: LoadedModel, encoder: dict[str, Tensor], length: int, prompt: tuple[int, ...] = (2,)) -> Tensor:
    """Greedy, one token after the other, each from a whole forward pass; stops at the end token."""
    ids = torch.tensor([prompt])
    while ids.shape[1] < length and (ids.shape[1] == len(prompt) or int(ids[0, -1]) != 3):
        with torch.no_grad():
            logits = loaded.model(**encoder, decoder_input_ids=ids, use_cache=False).logits[0, -1]
        forced = loaded.model.generation_config.forced_eos_token_id if ids.shape[1] == length - 1 else None
        ids = torch.cat([ids, torch.tensor([[int(logits.argmax()) if forced is None else forced]])], dim=1)
    return ids


def by_part(outcome: Outcome):
    return {score.part: score for score in outcome.result.measure.checkpoints[0].inputs}


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_a_text_model_shows_the_maps_of_its_own_encoder_decoder_and_cross_attention(name, tmp_path, texts):
    loaded = opened(checkpoint(tmp_path / name, name, BART if name == "bart" else T5))
    outcome = run(recipe(files=(texts,), samples=3, length=24), loaded)
    lines = [json.loads(line)["text"] for line in Path(texts).read_text().splitlines()]
    given = []
    for line in lines:
        ids = loaded.tokenizer(line, add_special_tokens=False).input_ids[:22]
        encoder = {"input_ids": torch.tensor([[2, *ids, 3]])}
        given.append(encoder | {"decoder_input_ids": written(loaded, encoder, 24)})
    expected, scores = stock_alpha(loaded, given), by_part(outcome)
    assert list(scores) == ["encoder", "decoder", "cross-attention"]
    for part, score in scores.items():
        alpha = outcome.arrays[f"0/{score.name}/alpha"]
        assert (alpha - mean_of(expected[part])).abs().max() <= 1e-6, part
        assert score.balance_error <= 1e-6
    assert [layer.kind for layer in scores["cross-attention"].layers] == ["cross-attention"] * len(alpha)
    assert scores["encoder"].first_tokens[0] == scores["cross-attention"].first_tokens[0] == "[CLS]"
    assert all(word in " ".join(outcome.result.verdict) for word in ("Encoder: ", "Decoder: ", "Cross-attention: "))
    assert outcome.result.choices["column_sums"].startswith("eager maps" if name == "t5" else "tiled")


def test_activations_alone_are_said_of_every_part_that_has_them(tmp_path, texts):
    loaded = opened(checkpoint(tmp_path / "bart", "bart", BART))
    said = run(recipe(files=(texts,), samples=2, length=24, parts=("activations",)), loaded).result.verdict
    for part, words in zip(("Encoder", "Decoder"), said, strict=False):
        assert words.startswith(f"{part}: ")
        assert "assive activations" in words
    assert not any("finite" in words for words in said)


def test_whisper_shows_its_stock_maps_and_what_sound_and_padding_receive(tmp_path):
    loaded = opened(checkpoint(tmp_path / "whisper", "whisper", WHISPER))
    files = tuple(str(recording(tmp_path / f"{s}.wav", s)) for s in (0.75, 1.5))
    outcome = run(recipe(files=files, samples=2, length=12), loaded)
    given = []
    for name in files:
        features = loaded.processor(read(Path(name))[0].numpy(), sampling_rate=16_000, return_tensors="pt")
        encoder = {"input_features": features["input_features"].double()}
        given.append(encoder | {"decoder_input_ids": written(loaded, encoder, 12)})
    expected, scores = stock_alpha(loaded, given), by_part(outcome)
    for part, score in scores.items():
        assert (outcome.arrays[f"0/{score.name}/alpha"] - mean_of(expected[part])).abs().max() <= 1e-6, part
    for part in ("encoder", "cross-attention"):  # frames of 20 ms behind the end of a clip
        sound, padding = scores[part].groups
        padded = [alpha_LHS[..., first:].sum(-1) for alpha_LHS, first in zip(expected[part], (38, 75), strict=True)]
        torch.testing.assert_close(torch.tensor(padding.mass), torch.stack(padded).mean(0).float(), rtol=0, atol=1e-5)
        assert (padding.keys, sound.percent + padding.percent) == (pytest.approx(43.5), pytest.approx(100, abs=1e-3))
    assert scores["cross-attention"].length == 100
    page = html(outcome.result, {})
    assert all(words in page for words in ("Attention by kind of key", "padding"))


def test_a_multilingual_whisper_writes_after_the_prompt_that_whisper_itself_gives(tmp_path):
    """The language that its decoder finds likeliest of those it knows, the task, and no timestamps."""
    loaded = opened(checkpoint(tmp_path / "whisper", "whisper", WHISPER))
    own = vars(loaded.model.generation_config)
    own.update(lang_to_id={"<|en|>": 10, "<|fr|>": 11}, task_to_id={"transcribe": 12}, no_timestamps_token_id=14)
    own.update(forced_decoder_ids=[[1, None], [2, 12]], return_dict_in_generate=True)
    sound = recording(tmp_path / "a.wav", 1)
    _, decoder, _ = inputs(recipe(files=(str(sound),), samples=1, length=12), loaded)
    features = loaded.processor(read(sound)[0].numpy(), sampling_rate=16_000, return_tensors="pt")
    encoder = {"input_features": features["input_features"].double()}
    with torch.no_grad():
        logits = loaded.model(**encoder, decoder_input_ids=torch.tensor([[2]])).logits[0, -1]
    language = 10 + int(logits[10:12].argmax())
    (ids,) = decoder.samples
    assert torch.equal(ids, written(loaded, encoder, 12, prompt=(2, language, 12, 14))[0])
    assert decoder.note.endswith(f"tokens, prompted with [CLS] w{language - 4} w8 w10")
    with pytest.raises(UsageError, match=r"length 4: the prompt of .*whisper leaves no room"):
        inputs(recipe(files=(str(sound),), samples=1, length=4), loaded)


@pytest.mark.parametrize(("name", "most"), [("whisper", 64), ("bart", 64), ("t5", 1024)])
def test_a_length_that_the_decoder_cannot_write_is_refused_before_it_writes(name, most, tmp_path):
    loaded = opened(checkpoint(tmp_path / name, name, dict(whisper=WHISPER, bart=BART, t5=T5)[name]))
    loaded.model.get_encoder().forward = None  # not called
    with pytest.raises(ModelError, match=f"--length {most} or less"):
        inputs(recipe(length=most + 1), loaded)


def test_a_speech_model_without_a_recording_hears_synthetic_sound_and_says_so(tmp_path, sinkctl):
    folder = checkpoint(tmp_path / "whisper", "whisper", WHISPER)
    flags = ("--samples", 2, "--length", 8, "--budget", "1h", "--device", "cpu", "--json")
    code, out, err = sinkctl("measure", folder, *flags)
    assert code == 0, err
    result = json.loads(out)
    for words in ("no speech", "--budget: no probe tells how long this model takes; sizes were left as they are"):
        assert any(words in note for note in result["notes"])
    assert {"encoder.sink_rate", "decoder.sink_rate", "cross_attention.sink_rate"} <= {
        measured["name"] for measured in result["measurements"]
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [("book.txt", "takes .wav files"), ("none.wav", "no such file"), ("broken.wav", "not a .wav file of whole")],
)  # fmt: skip
def test_what_is_no_sound_is_refused_in_a_line(name, words, tmp_path, sinkctl):
    folder = checkpoint(tmp_path / "whisper", "whisper", WHISPER)
    for written_file in ("book.txt", "broken.wav"):
        (tmp_path / written_file).write_text("words")
    code, out, err = sinkctl("measure", folder, "--audio", tmp_path / name, "--device", "cpu", "--json")
    assert (code, out) in ((2, ""), (3, ""))
    (line,) = (line for line in err.splitlines() if line.startswith("sinkctl: "))
    assert all(said in line for said in (str(tmp_path / name), words))


def test_every_head_is_a_row_and_kinds_of_frames_are_columns_by_name(tmp_path, sinkctl):
    folder = checkpoint(tmp_path / "whisper", "whisper", WHISPER)
    sound = recording(tmp_path / "a.wav", 1)
    flags = ("--audio", sound, "--device", "cpu", "--save-as", "csv", "-o", tmp_path / "run")
    code, _, err = sinkctl("measure", folder, *flags)
    assert code == 0, err
    rows = list(csv.DictReader((tmp_path / "run/heads.csv").read_text().splitlines()))
    assert len(rows) == 3 * 2 * 4  # parts, layers, heads
    shares = [(row["group_mass_sound"], row["group_mass_padding"]) for row in rows]
    shared = [float(heard) + float(silent) for heard, silent in shares if heard]  # not of the decoder
    assert shared == pytest.approx([1.0] * 16, abs=1e-5)


def test_the_blocks_of_a_speech_encoder_are_not_the_convolutions_in_front_of_them():
    config = AutoConfig.for_model(
        "speech_to_text", **IDS, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, input_feat_per_channel=8, conv_channels=16,
    )  # fmt: skip
    model = AutoModelForSpeechSeq2Seq.from_config(config)
    names = [[type(block).__name__ for block in blocks_of(model, part)] for part in ("encoder", "decoder")]
    assert names == [["Speech2TextEncoderLayer"] * 2, ["Speech2TextDecoderLayer"] * 3]


def test_what_generating_raises_is_a_line_about_the_model(tmp_path):
    loaded = opened(checkpoint(tmp_path / "bart", "bart", BART))
    loaded.model.generation_config.repetition_penalty = -1.0
    with pytest.raises(ModelError, match=r"bart cannot write what its decoder is to read \(ValueError: "):
        inputs(recipe(kinds=("random",), samples=1, length=12), loaded)


def test_random_tokens_of_a_folder_without_its_tokenizer_are_refused_in_a_line(tmp_path):
    folder = checkpoint(tmp_path / "bart", "bart", BART)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match=r"special tokens alone; is its tokenizer\.json there\?"):
        inputs(recipe(kinds=("random",), samples=1, length=12), opened(folder))


def test_heads_of_an_encoder_decoder_are_not_shared_among_processes(tmp_path):
    folder = checkpoint(tmp_path / "bart", "bart", BART)
    with pytest.raises(ModelError, match=r"--parallel tensor: .* is an encoder-decoder, whose heads are not shared"):
        load(ModelSettings(name=str(folder), device="cpu", parallel="tensor"), ("encoder-decoder",))


def test_sound_for_a_model_of_text_is_refused_before_it_is_loaded(tmp_path, sinkctl):
    code, out, err = sinkctl("measure", "demo", "--audio", recording(tmp_path / "a.wav", 1), "--json")
    assert (code, out) == (2, "")
    assert "demo reads text, not sound" in " ".join(err.split())
