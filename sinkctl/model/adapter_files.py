"""PEFT adapters as the disk tells of them: where they are, over which base, and whether they can be merged.

Importing this imports neither torch nor peft.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError, validate_repo_id

from sinkctl.errors import ModelError, UsageError
from sinkctl.model.settings import ModelSettings
from sinkctl.model.weight_file import check_weight_file

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
TENSORS = ("*.safetensors", "pytorch_model*.bin")
# As peft calls them: those that are no change of weights.
VIRTUAL = {
    "PREFIX_TUNING": "puts keys of its own in the cache, where a stream keeps those of tokens",
    "CARTRIDGE": "puts keys of its own in the cache, where a stream keeps those of tokens",
    "PROMPT_TUNING": "puts embeddings that are no tokens in front of a text",
    "MULTITASK_PROMPT_TUNING": "puts embeddings that are no tokens in front of a text",
    "P_TUNING": "puts embeddings that are no tokens in front of a text",
    "CPT": "puts embeddings that are no tokens in front of a text",
    "ADAPTION_PROMPT": "adds keys of its own to attention",
    "XLORA": "mixes its parts anew for every token",
    "POLY": "mixes its parts anew for every task",
}


def resolved(settings: ModelSettings) -> ModelSettings:
    """The same by its base: an adapter named as the model becomes the first over the base that its config names.

    ModelError where that base is not here, or the folder is a checkpoint and an adapter at once; UsageError for names
    that are empty, which as paths would be the folder one is in.
    """
    if not all((settings.name, *settings.adapters)):
        raise UsageError(
            f"model.{'adapters' if settings.name else 'name'}: is empty; name a folder, a file or a Hub id"
        )
    passed: list[str] = []
    while (folder := _adapter_at(settings.name)) is not None:
        if str(folder) in passed:
            raise ModelError(f"{folder / CONFIG}: its base (base_model_name_or_path) is itself; {_asked_for(folder)}")
        passed.append(str(folder))
        said = read_config(folder)
        base = _base(said.get("base_model_name_or_path"), folder)
        revision = settings.revision or (None if Path(base).exists() else said.get("revision"))
        adapters = (str(folder), *settings.adapters)
        settings = settings.model_copy(update={"name": base, "revision": revision, "adapters": adapters})
    return settings


def check_adapters(settings: ModelSettings) -> None:
    """Raise ModelError for an adapter that is not there, not whole, of no use to a stream, or has no peft to load it.

    UsageError for one that is named twice (the model's name may be its first). `settings` are `resolved`.
    """
    folders = [folder_of(name).resolve() for name in settings.adapters]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise UsageError(f"--adapter {twice}: is named twice, and would change the weights twice; leave one out")
    for name in settings.adapters:
        folder = folder_of(name)
        kind = str(read_config(folder).get("peft_type"))
        if kind in VIRTUAL:
            raise ModelError(
                f"{folder}: {kind.replace('_', ' ').lower()} {VIRTUAL[kind]}; LoRA and what else changes weights works"
            )
        _check_weights(folder, settings.allow_pickle)
        if find_spec("peft") is None:
            raise ModelError(f"{folder} is an adapter, which takes peft; pip install 'sinkctl[lora]'")


def folder_of(name: str) -> Path:
    """Where an adapter is: a folder, or that of a Hub id in the Hub's cache, fetched if need be."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    try:
        validate_repo_id(name)
        return Path(snapshot_download(name, allow_patterns=["adapter_*", "*token*", "*.jinja", "vocab*", "merges*"]))
    except (HFValidationError, OSError, ValueError) as error:  # offline, no such id, out of reach
        said = "is a file, not a folder" if folder.exists() else "no such folder, and no such id in the Hub's cache"
        raise ModelError(f"--adapter {name}: {said}; give a folder that peft wrote ({CONFIG})") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter_config.json; ModelError where there is none, or nothing that peft wrote."""
    try:
        said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        whole = "; it is a checkpoint: name it as --model" if (folder / "config.json").exists() else ""
        raise ModelError(f"--adapter {folder}: no {CONFIG}, so this is no PEFT adapter{whole}") from error
    except OSError as error:
        raise ModelError(f"{folder / CONFIG}: cannot be read ({error.strerror}); check who may read it") from error
    except ValueError as error:
        raise ModelError(f"{folder / CONFIG}: cannot be read ({error}); get the adapter again") from error
    if not isinstance(said, dict) or "peft_type" not in said:
        raise ModelError(f"{folder / CONFIG}: says no peft_type; get the adapter again")
    return said


def other_base(name: str, folder: Path) -> str | None:
    """What an adapter was trained over, as it says, where that is called otherwise than the model it changes here."""
    trained = read_config(folder).get("base_model_name_or_path")
    return trained if trained and Path(trained).name != Path(name).name else None


def over(name: str, folder: Path) -> str:
    """The model that an adapter is to change, and that which it was trained over."""
    trained = other_base(name, folder)
    return name if trained is None else f"{name}, as it is of {trained}"


def tokenizer_folder(settings: ModelSettings) -> Path | None:
    """The last adapter's that was saved with a tokenizer; None where the base's serves. `settings` are `resolved`."""
    folders = [folder_of(name) for name in reversed(settings.adapters)]
    return next((folder for folder in folders if any((folder / name).exists() for name in TOKENIZER)), None)


def tokenizer_source(settings: ModelSettings) -> str:
    """Where the tokenizer's files are: that folder, or the base."""
    settings = resolved(settings)
    return str(tokenizer_folder(settings) or settings.name)


def _adapter_at(name: str) -> Path | None:
    """The folder where `name` is an adapter; UsageError where it is a whole checkpoint too."""
    folder = Path(name)
    if not folder.is_dir():
        return None if folder.exists() else _cached(name)
    if not (folder / CONFIG).exists():
        return None
    own = [path.name for pattern in TENSORS for path in folder.glob(pattern) if not path.name.startswith("adapter_")]
    if own:
        raise UsageError(
            f"{folder}: holds a checkpoint ({own[0]}) and an adapter ({CONFIG}); put the adapter into a folder of its "
            "own, and say --model or --adapter"
        )
    return folder


def _cached(name: str) -> Path | None:
    """The folder of a Hub id in the Hub's cache, where it holds an adapter."""
    try:
        kept = try_to_load_from_cache(name, CONFIG)
    except HFValidationError:
        return None
    return Path(kept).parent if isinstance(kept, str) else None


def _base(said: str | None, folder: Path) -> str:
    """What the config calls the base: a folder beside it or from here, demo, or a Hub id that can be had."""
    if said and (folder / said).exists():
        return str((folder / said).resolve())
    if said and (said == "demo" or Path(said).exists()):
        return said
    if said and _is_on_hub(said):
        return said
    named = f"its base {said} is not here" if said else f"{CONFIG} names no base"
    raise ModelError(f"{folder}: {named}; {_asked_for(folder)}")


def _asked_for(folder: Path) -> str:
    return f"say which: --model BASE --adapter {folder}"


def _is_on_hub(name: str) -> bool:
    """Whether it may be had from there: kept in the cache, or the Hub may be asked."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    kept = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    return kept.is_dir() or not constants.HF_HUB_OFFLINE


def _check_weights(folder: Path, allow_pickle: bool) -> None:
    if (folder / WEIGHTS).exists():
        check_weight_file(folder / WEIGHTS)
    elif not (folder / PICKLED).exists():
        raise ModelError(f"{folder}: no weights ({WEIGHTS}) beside {CONFIG}; get the adapter again")
    elif not allow_pickle:
        raise ModelError(f"{folder}: weights are pickled ({PICKLED}), which can run code; --allow-pickle loads them")
