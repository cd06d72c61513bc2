"""What the disk tells of a GGUF file, before torch is imported."""

import re
from importlib.util import find_spec
from pathlib import Path

from sinkctl.errors import ModelError
from sinkctl.model.gguf.agrees import check_agrees
from sinkctl.model.gguf.header import Header, read_header
from sinkctl.model.weight_file import check_no_pointer

INSTALL = "pip install 'sinkctl[gguf]'"
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
# llama.cpp's names of the decoders that transformers 5.15 to 5.24 read from a GGUF (the qwen35 since 5.17).
ARCHITECTURES = (
    "bloom", "deci", "falcon", "gemma2", "gemma3", "gemma4", "gpt2", "gpt-oss", "gpt_oss", "lfm2", "llama", "mamba",
    "minimax-m2", "mistral", "nemotron", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "qwen35", "qwen35moe",
    "stablelm", "starcoder2",
)  # fmt: skip


def check_gguf(path: Path) -> Header:
    """The header of a file that transformers can read a model from; ModelError says what is in the way."""
    if not path.is_file():
        others = sorted(each.name for each in path.parent.glob("*.gguf")) if path.parent.is_dir() else []
        raise ModelError(f"{path}: no such file{'; there is ' * bool(others)}{', '.join(others)}")
    check_no_pointer(path)
    header = read_header(path)
    part, parts = map(int, found.groups()) if (found := PART.search(path.name)) else (1, 1)
    parts = max(parts, int(header.fields.get("split.count", 1)))
    if parts > 1:
        raise ModelError(
            f"{path}: is part {part} of {parts}, and transformers reads a GGUF of one file; join them with llama.cpp's "
            f"`llama-gguf-split --merge {path.name.replace(f'{part:05}-of', '00001-of')} whole.gguf`"
        )
    if header.architecture not in ARCHITECTURES:
        raise ModelError(
            f"{path}: holds a model of the architecture {header.architecture or '(none said)'!r}, which transformers "
            "does not read from a GGUF; give the folder or Hub id of the model it was made of"
        )
    if find_spec("gguf") is None:
        raise ModelError(f"{path}: reading a GGUF takes the gguf package; {INSTALL}")
    _check_whole(path, header)
    if not header.tokens:
        raise ModelError(f"{path}: holds no vocabulary (tokenizer.ggml.tokens), so no text can be read; take another")
    check_agrees(path, header)
    return header


def quantization(header: Header) -> list[tuple[str, int]]:
    """(what tensors are stored as, how many of them), that of most weights first: ("Q4_1", 210), ("F32", 61)."""
    from gguf import GGMLQuantizationType

    values: dict[int, int] = {}
    for each in header.tensors:
        values[each.type] = values.get(each.type, 0) + each.values
    kinds = sorted(values, key=values.get, reverse=True)
    return [(GGMLQuantizationType(kind).name, sum(each.type == kind for each in header.tensors)) for kind in kinds]


def _check_whole(path: Path, header: Header) -> None:
    from gguf import GGML_QUANT_SIZES

    if not header.tensors:
        raise ModelError(f"{path}: holds no weights, only a vocabulary; take the model's own file")
    size = path.stat().st_size
    for each in header.tensors:
        if each.type not in GGML_QUANT_SIZES:
            raise ModelError(
                f"{path}: {each.name} is of a type ({each.type}) that this gguf does not know; {INSTALL} -U"
            )
        values, block = GGML_QUANT_SIZES[each.type]
        end = header.data + each.offset + each.values // values * block
        if end > size:
            raise ModelError(
                f"{path} is cut short: {each.name} ends at byte {end:,}, the file at {size:,}; download it again"
            )
