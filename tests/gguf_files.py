"""stories260K as llama.cpp's converter writes it, and the same with something wrong."""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from safetensors.numpy import load_file
from tokenizers import Tokenizer

STORIES = Path(__file__).parent / "data/stories260K"
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
HEADS = {"attn_q": 8, "attn_k": 4}


def write_gguf(
    path: Path, blocks: str | None = None, arch: str = "llama", sizes: dict[str, int] | None = None,
    more: dict[str, np.ndarray] | None = None, **changed: Any,
) -> Path:  # fmt: skip
    """float32, or matrices whose rows divide by 32 quantized to `blocks`.

    `sizes` and `changed`: fields of the model and of the tokenizer that are others, `more`: tensors that are no part.
    """
    writer = GGUFWriter(path, arch)
    own = dict(
        context_length=512, embedding_length=64, block_count=5, feed_forward_length=172, head_count=8, head_count_kv=4,
        layer_norm_rms_eps=1e-5, rope_dimension_count=8, rope_freq_base=10000.0, vocab_size=512,
    )  # fmt: skip
    for name, value in (own | (sizes or {})).items():
        getattr(writer, f"add_{name}")(value)
    writer.add_name("stories260K")
    vocabulary = Tokenizer.from_file(str(STORIES / "tokenizer.json")).get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    kinds = [2, 3, 3, *(6 if token.startswith("<0x") else 1 for token in tokens[3:])]
    fields = dict(
        tokenizer_model="llama", token_list=tokens, token_scores=[-float(n) for n in range(512)], token_types=kinds,
        bos_token_id=1, eos_token_id=2, unk_token_id=0, add_bos_token=True, add_eos_token=False,
    )  # fmt: skip
    for name, value in (fields | changed).items():
        if value is not None:
            getattr(writer, f"add_{name}")(value)
    for name, weight in load_file(STORIES / "model.safetensors").items():
        own = _named(name)
        if (heads := HEADS.get(own.split(".")[-2])) is not None:  # rows of rotated pairs stand side by side
            rows, columns = weight.shape
            weight = weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        if blocks is not None and weight.ndim == 2 and weight.shape[1] % 32 == 0:
            kind = GGMLQuantizationType[blocks]
            writer.add_tensor(own, quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(own, np.ascontiguousarray(weight))
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _named(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        _, _, number, part = stem.split(".", 3)
        return f"blk.{number}.{NAMES[part]}.weight"
    return f"{NAMES[stem]}.weight"
