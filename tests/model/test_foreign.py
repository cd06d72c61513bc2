"""What a user may take for a checkpoint is named, with what to do."""

import json
import struct

import pytest

from sinkctl.errors import ModelError
from sinkctl.model.files import check_checkpoint
from sinkctl.model.settings import ModelSettings


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.safetensors", b"\x10\0\0\0\0\0\0\0{}", "weights alone; give the folder"),
        ("m.onnx", b"\x08\x07", "is an ONNX graph"),
        ("m.pt", b"PK\x03\x04", "pickled weights alone; .*--allow-pickle"),
        ("stories.bin", struct.pack("<7i", 64, 172, 5, 8, 4, 512, 512) + bytes(1 << 17), "is a llama2.c"),
        ("book.pdf", b"%PDF-1.7", "is a PDF"),
        ("m.tar.gz", b"\x1f\x8b\x08", "unpack it"),
        ("m.zip", b"PK\x03\x04", "unzip it"),
        ("sha256-0", b"GGUF\x03\0\0\0", "GGUF without its suffix"),
        ("tf_model.h5", b"\x89HDF", "Keras or TensorFlow"),
    ],
)  # fmt: skip
def test_a_file(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=said):
        check_checkpoint(ModelSettings(name=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("files", "config", "said"),
    [
        (["model_index.json"], None, "is a diffusers pipeline"),
        (["modules.json"], None, "sentence-transformers"),
        (["tokenizer.json", "tokenizer_config.json"], None, "has only a tokenizer"),
        (["model.safetensors", "tokenizer.json"], None, r"weights and no config\.json"),
        (["model.onnx"], None, "is an ONNX model"),
        (["tf_model.h5"], {"model_type": "bert"}, "from_tf=True"),
        (["flax_model.msgpack"], {"model_type": "bert"}, "from_flax=True"),
        (["weights.npz"], {"model_type": "llama"}, "MLX weights"),
        (["model.safetensors"], {"model_type": "llama", "quantization": {"bits": 4, "group_size": 64}}, "by MLX"),
        (["model.safetensors"], {"architecture": "vit_small", "pretrained_cfg": {}}, "is a timm model"),
    ],
)
def test_a_folder(tmp_path, files, config, said):
    for name in files:
        (tmp_path / name).touch()
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=said):
        check_checkpoint(ModelSettings(name=str(tmp_path)))
