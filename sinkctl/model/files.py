"""What the disk tells of a checkpoint and of a device, before torch is imported."""

import ctypes
import json
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from sinkctl.errors import ModelError, UsageError
from sinkctl.formats import ZIP
from sinkctl.model.adapter_files import check_adapters, resolved, tokenizer_folder
from sinkctl.model.adapter_shapes import check_shapes
from sinkctl.model.fits import check_fits
from sinkctl.model.foreign import foreign_config, foreign_file, foreign_folder, foreign_weights
from sinkctl.model.gguf.check import check_gguf
from sinkctl.model.gguf.header import read_header
from sinkctl.model.hub import check_hub_id, kind_asked, meant
from sinkctl.model.named import CONFIG, WITHIN, gguf_files, resolve
from sinkctl.model.quantized_files import check_quantized
from sinkctl.model.settings import ModelSettings
from sinkctl.model.weight_file import INDEX, check_no_pointer, check_weight_file, weight_files

PICKLED = ("*.bin", "*.pt", "*.pth")
BESIDE = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json")
SHORT = 1 << 20  # bytes of JSON that are read in no time
VOCABULARIES = ("tokenizer*", "*.model", "vocab*", "merges.txt", "*.tiktoken", "tekken.json", "*tokenization*")


def check_model(settings: ModelSettings) -> None:
    """ModelError for a checkpoint or device that cannot be had, as far as the disk tells."""
    check_checkpoint(settings)
    check_device(settings.device)


def check_checkpoint(settings: ModelSettings) -> None:
    """ModelError for a folder without a config or weights that may be loaded, and for a Hub id that is out of reach.

    UsageError for a revision of what has none. Adapters are looked at first, then their base.
    """
    settings = resolved(settings)
    check_adapters(settings)
    named = resolve(settings.name)
    if named.local and settings.revision is not None:
        raise UsageError(
            f"--revision {settings.revision}: is of a Hub id (organisation/name), which {settings.name} is not"
        )
    if not named.local:
        check_hub_id(settings.name, named, settings.revision)
    elif named.form == "gguf":
        check_gguf(named.path)
    elif named.form == "folder":
        _check_folder(settings)
        check_tokenizer(settings)
    if settings.adapters:
        check_shapes(settings, named)


def has_chat_template(name: str) -> bool:
    """Whether a checkpoint may have one: not where its folder holds none; of a Hub id nobody knows yet."""
    named = resolve(name)
    if named.form == "gguf":
        return not named.local or "tokenizer.chat_template" in read_header(named.path).fields
    folder = named.path
    said = folder / "tokenizer_config.json"
    if not said.is_file() or any(folder.glob("*chat_template*")) or (folder / "tekken.json").exists():
        return True
    return "chat_template" in said.read_text(encoding="utf-8")


GGUF_TYPES = {"gemma3": "gemma3_text", "gpt-oss": "gpt_oss"}  # architectures that transformers calls otherwise


def decoder_type(name: str) -> str | None:
    """The model type of a decoder of text alone, as config.json or a GGUF header says; None where they do not."""
    named = resolve(name)
    if not named.local:
        return None
    if named.form == "gguf":
        arch = read_header(named.path).architecture
        return GGUF_TYPES.get(arch, arch)
    config = _read_config(named.path / CONFIG)
    decodes = any(str(each).endswith("ForCausalLM") for each in config.get("architectures") or [])
    return config.get("model_type") if decodes and not {"text_config", "sink"} & set(config) else None


def designed_sink(name: str) -> str | None:
    """The mechanism that a converted checkpoint on the disk has, as its config says; None where it says none."""
    named = resolve(name)
    if named.form != "folder" or not (named.path / CONFIG).is_file():
        return None
    said = _read_config(named.path / CONFIG).get("sink")
    return said.get("kind") if isinstance(said, dict) else None


def check_device(asked: str) -> None:
    """ModelError for an accelerator that torch cannot drive here: built without it, or no driver."""
    why = None
    if asked.startswith("cuda"):
        why = _without_cuda()
    elif asked == "mps" and sys.platform != "darwin":
        why = "it is for macOS"
    if why is not None:
        raise ModelError(f"--device {asked}: not available here, {why}; see `sinkctl doctor`, or leave --device out")


def _check_folder(settings: ModelSettings) -> None:
    name, folder = settings.name, Path(settings.name)
    if folder.is_file() and (what := foreign_file(folder)) is not None:
        raise ModelError(f"{folder} {what}")
    if not folder.is_dir():
        what = "is a file" if folder.exists() else f"no such {kind_asked(name)}"
        if folder.is_file() and (folder.parent / CONFIG).is_file():
            raise ModelError(f"{name}: is a file of a checkpoint; give its folder, {folder.parent}")
        instead = meant(name) or "; give a checkpoint folder or a Hub id (organisation/name)"
        raise ModelError(f"{name}: {what}{instead}")
    if len(several := gguf_files(folder)) > 1:
        names = [path.name for path in several]
        raise ModelError(f"{folder}: holds {', '.join(names)}; say which: {folder}{WITHIN}{names[0]}")
    if not (folder / CONFIG).exists():
        if (what := foreign_folder(folder)) is not None and not _inside(folder):
            raise ModelError(f"{folder} {what}")
        instead = _inside(folder) or f"; name the folder that holds {CONFIG} and weights"
        what = (
            f"no {CONFIG}, so this is not a Transformers checkpoint" if any(folder.iterdir()) else "is an empty folder"
        )
        raise ModelError(f"{folder}: {what}{instead}")
    config = _read_config(folder / CONFIG)
    if (what := foreign_config(folder / CONFIG)) is not None:
        raise ModelError(f"{folder} {what}")
    check_beside(folder)
    on_cpu = settings.device == "cpu" or (settings.device == "auto" and _without_cuda() is not None)
    check_quantized(folder, config, on_cpu)
    if any(folder.glob("*.safetensors")):
        check_files(folder)
        check_fits(name, folder, config)
        return
    pickled = sorted(p for pattern in PICKLED for p in folder.glob(pattern))
    if settings.allow_pickle:
        for path in pickled:
            check_pickle(path)
        return
    if pickled:
        raise ModelError(
            f"{folder}: weights are pickled ({pickled[0].name}), which can run code; --allow-pickle loads them"
        )
    if (what := foreign_weights(folder)) is not None:
        raise ModelError(f"{folder} {what}")
    raise ModelError(f"{folder}: no weights (*.safetensors) beside {CONFIG}; download them too")


def check_beside(folder: Path) -> None:
    """ModelError for JSON beside config.json that is damaged; of long files, whether they are whole."""
    for path in (folder / name for name in BESIDE):
        if not path.is_file():
            continue
        if path.stat().st_size <= SHORT:
            _read_config(path)
        elif not path.read_bytes().rstrip().endswith(b"}"):
            raise ModelError(f"{path}: is cut short; get the checkpoint again")


def check_tokenizer(settings: ModelSettings) -> None:
    """ModelError for a decoder of text in a folder where no tokenizer is, and no adapter brings its own."""
    folder = Path(settings.name)
    if tokenizer_folder(settings) is not None or decoder_type(settings.name) is None:
        return
    if not any(any(folder.glob(pattern)) for pattern in VOCABULARIES):
        raise ModelError(
            f"{folder}: no tokenizer (tokenizer.json) beside {CONFIG}; take that of the model it was trained from"
        )


def check_pickle(path: Path) -> None:
    """ModelError for pickled weights, an archive since PyTorch 1.6, that are cut short, and for a Git LFS pointer."""
    check_no_pointer(path)
    with path.open("rb") as file:
        if file.read(len(ZIP)) == ZIP and not is_zipfile(path):
            raise ModelError(f"{path} is damaged or cut short; download it again")


def _inside(folder: Path) -> str:
    """Where it may lie instead."""
    inner = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    return f"; did you mean {folder / inner[-1]}?" if inner else ""


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the path and who may read it") from error
    except ValueError as error:
        raise ModelError(f"{path}: cannot be read ({error}); get the checkpoint again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: is no config (a JSON {type(config).__name__}); get the checkpoint again")
    return config


def _without_cuda() -> str | None:
    """Why this torch cannot use CUDA here, where its own files or a missing driver say so."""
    spec = find_spec("torch")
    said = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    built = said.read_text(encoding="utf-8") if said is not None and said.is_file() else ""
    if all(re.search(rf"^{name}\b[^=]*= None$", built, re.MULTILINE) for name in ("cuda", "hip")):
        return "as torch is installed without CUDA"
    if re.search(r"^cuda\b[^=]*= '", built, re.MULTILINE) and sys.platform == "linux":
        try:
            ctypes.CDLL("libcuda.so.1", mode=os.RTLD_LAZY)
        except OSError:
            return "as there is no NVIDIA driver (libcuda.so.1)"
    return None


def check_files(folder: Path) -> None:
    """Raise ModelError for a weight file of `folder` that is missing, cut short, or a Git LFS pointer."""
    for path in weight_files(folder):
        if not path.exists():
            raise ModelError(f"{path} is missing, and {INDEX} names it; download the checkpoint again")
        check_weight_file(path)
