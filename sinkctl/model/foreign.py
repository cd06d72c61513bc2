"""What is no Transformers checkpoint: other files and folders that hold a model, and what to do with them.

Imports no torch, and reads no more than first bytes, names and config.json.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sinkctl.formats import NEAR, WORDS, format_of

FOLDER = "give the folder that holds it with its config.json and tokenizer"
CHECKPOINT = "--model takes a checkpoint"
SUFFIXES = {
    ".safetensors": f"is weights alone; {FOLDER}",
    ".onnx": "is an ONNX graph; give the Transformers checkpoint that it was exported from",
    ".h5": "is a Keras or TensorFlow model; give a checkpoint with safetensors",
    ".keras": "is a Keras model; give a checkpoint with safetensors",
    ".msgpack": "is Flax weights; give a checkpoint with safetensors",
    ".tflite": "is a TensorFlow Lite model; give the Transformers checkpoint that it was made of",
    ".npz": f"is an archive of arrays (MLX keeps weights so); {FOLDER}, as safetensors",
    ".ggml": "is a GGML file, which GGUF replaced; convert it with llama.cpp's convert_llama_ggml_to_gguf.py",
    ".nemo": "is a NeMo archive; NeMo's export to Hugging Face makes a checkpoint folder of it",
    ".yaml": "is YAML: --recipe takes a recipe",
    ".txt": f"is a text; {CHECKPOINT}",
}
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
PICKLE = f"is pickled weights alone; {FOLDER} (and --allow-pickle)"
LLAMA2C = struct.pack("<I", 0x616B3432)
# By first bytes; of another format a model's folder is asked for.
INSTEAD = {
    "gguf": "is a GGUF without its suffix; link or rename it to NAME.gguf",
    "ggml": SUFFIXES[".ggml"],
    "safetensors": SUFFIXES[".safetensors"],
    "torch": PICKLE,
    "pickle": PICKLE,
    "hdf5": SUFFIXES[".h5"],
    "keras": SUFFIXES[".keras"],
    "npz": SUFFIXES[".npz"],
    "pointer": "is a Git LFS pointer, not weights; `git lfs pull` in its folder fetches them",
}
# What may hold a model; its suffix says more.
CONTAINERS = dict.fromkeys(("tar", "gzip", "bzip2", "xz", "zstd"), "unpack it (tar -xf) and give the folder") | {
    "zip": "unzip it and give the folder",
    "7z": "unpack it (7z x) and give the folder",
    "rar": "unpack it (unrar x) and give the folder",
}
# In a folder without config.json: a file that tells, what it means.
TELLING = {
    "model_index.json": "is a diffusers pipeline; give one of its folders that is a Transformers model (text_encoder)",
    "modules.json": "is a sentence-transformers model; give its folder with the config.json of the transformer",
    "params.json": "is Meta's own format; transformers' convert_llama_weights_to_hf.py makes a checkpoint of it",
    "saved_model.pb": "is a TensorFlow SavedModel; give a checkpoint with safetensors",
    "*.h5": "has Keras or TensorFlow weights and no config.json; give a checkpoint with safetensors",
    "*.keras": "has a Keras model; give a checkpoint with safetensors",
    "*.nemo": "is a NeMo model; NeMo's export to Hugging Face makes a checkpoint of it",
    "*.onnx": "is an ONNX model; give the Transformers checkpoint that it was exported from",
    "onnx/*.onnx": "is an ONNX model; give the Transformers checkpoint that it was exported from",
    **dict.fromkeys(
        ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.npz", "*.msgpack"),
        "has weights and no config.json; take that of the model it was trained from",
    ),
    "tokenizer.json": "has only a tokenizer; the model's config.json and weights belong beside it",
    "tokenizer.model": "has only a tokenizer; the model's config.json and weights belong beside it",
    "tokenizer_config.json": "has only a tokenizer; the model's config.json and weights belong beside it",
}
# Beside a config.json, where no safetensors are.
WEIGHTS = {
    "tf_model.h5": "has TensorFlow weights (tf_model.h5), which transformers 5 does not read; "
                   "transformers 4 converts: from_pretrained(FOLDER, from_tf=True).save_pretrained(NEW)",
    "flax_model.msgpack": "has Flax weights (flax_model.msgpack), which transformers 5 does not read; "
                          "transformers 4 converts: from_pretrained(FOLDER, from_flax=True).save_pretrained(NEW)",
    "*.h5": "has Keras or TensorFlow weights (.h5); give a checkpoint with safetensors",
    "*.npz": "has MLX weights (.npz); mlx_lm.convert writes safetensors",
    "*.onnx": "has an ONNX graph and no weights; give the checkpoint that it was exported from",
    "onnx/*.onnx": "has an ONNX graph and no weights; give the checkpoint that it was exported from",
    "*.gguf": "has a config.json and a GGUF; name the file: FOLDER#FILE.gguf",
}  # fmt: skip
DENOISER = "DiTTransformer2DModel"
# By what config.json says.
CONFIGS: tuple[tuple[Callable[[dict[str, Any]], bool], str], ...] = (
    (lambda said: "_diffusers_version" in said and said.get("_class_name") != DENOISER,
     f"is a part of a diffusers pipeline, of which `sinkctl measure` takes {DENOISER} alone"),
    (lambda said: "pretrained_cfg" in said,
     "is a timm model; give the same weights in transformers' own class (vit, dinov2)"),
    (lambda said: {"bits", "group_size"} <= set(said.get("quantization") or ()),
     "is quantized by MLX; mlx_lm.convert --dequantize writes what transformers reads"),
)  # fmt: skip


def foreign_file(path: Path) -> str | None:
    """What a file that is given as a model is, and what to do; None where nothing says so."""
    with path.open("rb") as file:
        head = file.read(NEAR)
    if not head:
        return "is empty; download it again, or name a checkpoint folder"
    found, suffix = format_of(head), path.suffix.lower()
    if found is not None and found not in CONTAINERS:
        return INSTEAD.get(found, f"is {WORDS[found]}; {CHECKPOINT}")
    if suffix in PICKLED:
        llama2c = head.startswith(LLAMA2C) or _is_llama2c(head, path.stat().st_size)
        script = "its export.py --version -1 makes a folder for transformers of the .pt"
        return f"is a llama2.c checkpoint; {script}" if llama2c else PICKLE
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    return None if found is None else f"is {WORDS[found]}; {CONTAINERS[found]}"


def foreign_folder(folder: Path) -> str | None:
    """The same of a folder without config.json."""
    return next((said for pattern, said in TELLING.items() if any(folder.glob(pattern))), None)


def foreign_weights(folder: Path) -> str | None:
    """The same of a folder with a config.json and without safetensors."""
    found = next((said for pattern, said in WEIGHTS.items() if any(folder.glob(pattern))), None)
    return None if found is None else found.replace("FOLDER", str(folder))


def foreign_config(path: Path) -> str | None:
    """The same by what is in a config.json, which is a mapping."""
    said = json.loads(path.read_text(encoding="utf-8"))
    return next((words for holds, words in CONFIGS if holds(said)), None)


def is_denoiser(folder: Path) -> bool:
    """Whether it holds the transformer of a diffusers pipeline that can be measured."""
    path = folder / "config.json"
    if not path.is_file():
        return False
    said = json.loads(path.read_text(encoding="utf-8"))
    return "_diffusers_version" in said and said.get("_class_name") == DENOISER


def _is_llama2c(head: bytes, size: int) -> bool:
    """Seven plausible numbers: width, inner width, layers, heads, key/value heads, vocabulary, context."""
    if len(head) < 28:
        return False
    width, inner, layers, heads, pairs, vocabulary, context = struct.unpack("<7i", head[:28])
    sane = 0 < pairs <= heads <= width <= inner and 0 < layers < 1000 and 0 < context < 1 << 24
    return sane and width % heads == 0 and abs(vocabulary) * width * 4 <= size
