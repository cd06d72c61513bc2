"""A checkpoint → `LoadedModel`, with the reason for every automatic choice."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import (
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sinkctl import launched
from sinkctl.clock import phase
from sinkctl.errors import ModelError, SinkctlError
from sinkctl.model.adapter_files import folder_of, resolved, tokenizer_folder
from sinkctl.model.adapters import with_adapters
from sinkctl.model.files import check_checkpoint
from sinkctl.model.fingerprint import folder_fingerprint
from sinkctl.model.foreign import is_denoiser
from sinkctl.model.kinds import WORDS, Kind, check_shared, kind_of
from sinkctl.model.named import DEMO as DEMO
from sinkctl.model.named import resolve
from sinkctl.model.parallel import sharers, sharing
from sinkctl.model.parts import device_of, towers_of
from sinkctl.model.placement import check_laid_out, exceeds_gpu, laid_out
from sinkctl.model.probe import LayerFacts, probe
from sinkctl.model.processors import class_of, processor_of, without_pooler
from sinkctl.model.quantized import as_asked, storage_of
from sinkctl.model.settings import ModelSettings
from sinkctl.model.tokenizer import check_rows, load_tokenizer, without_text
from sinkctl.model.undocumented import Say
from sinkctl.model.weights import check_weights

# Modules of encoders and vision models behind their last block, of which nothing here makes use.
AFTER_BLOCKS = ("pooler", "head")


@dataclass
class LoadedModel:
    """A model ready to run, what turns its input into tensors, and what was decided on the way."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    fingerprint: str  # commit of a Hub id, digest of a folder's files, or "in memory"
    choices: dict[str, str] = field(default_factory=dict)  # what was chosen → "value: reason"
    kind: Kind = "decoder"
    processor: Any | None = None  # of images or sound; None for text, without Pillow, and where none is brought
    stored_dtype: torch.dtype | None = None  # as its config says; None where it does not
    notes: list[str] = field(default_factory=list)  # for the result
    settings: ModelSettings | None = None  # it was loaded by; None for a model made in memory
    offloaded: TemporaryDirectory | None = None  # of layers that are read from the disk whenever they run
    _probed: dict[tuple, list[LayerFacts]] = field(default_factory=dict, repr=False)

    @property
    def context(self) -> int | None:
        """Tokens the model was trained to see at once, as its config says."""
        config = self.model.config.get_text_config()
        names = ("max_position_embeddings", "max_seq_len", "seq_length")  # the last two: MPT, BLOOM
        return next((length for name in names if (length := getattr(config, name, None)) is not None), None)

    @property
    def bos_id(self) -> int | None:
        """The beginning-of-sequence token; one that the embedding has no row for is none."""
        own = None if self.tokenizer is None else self.tokenizer.bos_token_id
        own = getattr(self.model.config.get_text_config(), "bos_token_id", None) if own is None else own
        return None if own is None or own >= self.rows else own

    @cached_property
    def uses_bos(self) -> bool:
        """Whether the tokenizer puts a BOS token in front of a text."""
        if self.tokenizer is None or self.bos_id is None:
            return False
        return self.tokenizer("a").input_ids[:1] == [self.bos_id]

    @property
    def rows(self) -> int:
        """Of the embedding matrix: the ids that it takes are those below."""
        if self.sharers > 1:  # of the matrix itself there may be a part here
            return self.model.config.get_text_config().vocab_size
        return self.model.get_input_embeddings().weight.shape[0]

    @cached_property
    def without_text(self) -> list[int]:
        """Ids that are no token of the tokenizer: rows that pad the embedding."""
        return [] if self.tokenizer is None else without_text(self.tokenizer, self.rows)

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def sharers(self) -> int:
        """How many processes have its heads between them; 1: it is whole here."""
        return sharers(self.model)

    @property
    def speaks(self) -> bool:
        """Whether this process says and keeps what the model's processes find."""
        return self.sharers == 1 or launched.first()

    def layers(self, reach: int) -> list[LayerFacts]:
        """The attention layers, with positions 0 … `reach` explained by the position probe; ModelError where not."""
        known = (reach, self.dtype, self.device)
        if known not in self._probed:
            self._probed[known] = probe(self.model, reach)
        return self._probed[known]


@phase("loading")
def load(
    settings: ModelSettings | str = "demo", kinds: Sequence[Kind] = ("decoder",), say: Say = lambda text: None,
    weights: bool = True,
) -> LoadedModel:  # fmt: skip
    """Load a model of one of `kinds` and its tokenizer or image processor.

    What writes text comes with its language-modelling head, the others without head or pooler. `say` is told what takes
    time. Without `weights`, those of a GGUF file, which take the most of it, are random: for a plan. ModelError says
    what is missing and what to do.
    """
    settings = ModelSettings(name=settings) if isinstance(settings, str) else settings
    check_checkpoint(settings)
    base = resolved(settings)  # without adapters, as it is
    named = resolve(base.name)
    if named.form == "gguf":
        from sinkctl.model.gguf.load import load_gguf

        return load_gguf(named, settings, base, kinds, say, weights)
    source = named.source
    if is_denoiser(named.path):
        if "diffusion" not in kinds:
            raise ModelError(f"{settings.name} is {WORDS['diffusion']}; `sinkctl measure` takes it")
        check_shared(settings.name, "diffusion", settings.parallel)
        from sinkctl.model.denoiser import load_denoiser

        return load_denoiser(base)
    choices: dict[str, str] = {}
    notes: list[str] = []
    offloaded: TemporaryDirectory | None = None
    device = chosen_device(settings.device, choices)
    common = dict(revision=base.revision, trust_remote_code=settings.trust_remote_code)
    with explained(settings.name):
        config = AutoConfig.from_pretrained(source, **common)
        kind = checked_kind(settings.name, config, kinds)
        check_shared(settings.name, kind, settings.parallel)
        stored = config.get_text_config().dtype or config.dtype
        storage = storage_of(config, settings, device, choices)
        dtype = wanted_dtype(settings.dtype, device, choices, storage.keeps_dtype)
        auto_class, writes = class_of(kind, config), kind in ("decoder", "encoder-decoder", "multimodal")
        if settings.parallel is not None:
            placed = sharing(settings.name, config, device, choices)
        elif settings.device_map is not None:
            placed, offloaded = laid_out(settings, device, choices)
        else:
            spread = settings.device == "auto" and device.type == "cuda"
            spread = spread and exceeds_gpu(auto_class, config, dtype, common, choices, storage.in_memory)
            placed = {"device_map": "auto" if spread else {"": device}}
        model, report = auto_class.from_pretrained(
            source,
            dtype=dtype,
            **placed,
            use_safetensors=None if settings.allow_pickle else True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **({"experts_implementation": "eager"} if dtype == torch.float64 else {}),
            **({} if writes else without_pooler(config)),
            **storage.options,
            **common,
        )
        if offloaded is not None:
            check_laid_out(settings.name, model, base, choices)
        left_out = check_weights(settings.name, model, report, unused=() if writes else AFTER_BLOCKS)
        if left_out is not None and writes:  # of the others, heads are left out
            choices["weights"] = left_out
        if kind == "decoder" and towers_of(config):
            choices["decoder"] = _beside(config, model)
        model = with_adapters(as_asked(model, settings, storage.form, choices, notes), base, choices, notes).eval()
        tokenizer = None
        if kind != "vision":
            tokenizer = own_tokenizer(base, settings, choices, notes)
            tokenizer = tokenizer or load_tokenizer(source, settings, choices, notes, **common)
        processor = processor_of(kind, config, source, common)
    fingerprints = [_fingerprint(source, base.revision), *adapter_fingerprints(base)]
    loaded = LoadedModel(
        model, tokenizer, settings.name, "+".join(fingerprints), choices, kind, processor, stored, notes, settings,
        offloaded,
    )  # fmt: skip
    beyond = None if tokenizer is None else check_rows(tokenizer, loaded.rows, settings.name)
    notes += [] if beyond is None else [beyond]
    return loaded


def own_tokenizer(
    base: ModelSettings, settings: ModelSettings, choices: dict[str, str], notes: list[str]
) -> PreTrainedTokenizerBase | None:
    """That which the last adapter was saved with; None where the base's serves."""
    folder = tokenizer_folder(base)
    if folder is None:
        return None
    choices["tokenizer files"] = f"{folder}: the adapter was saved with them"
    return load_tokenizer(str(folder), settings, choices, notes, trust_remote_code=settings.trust_remote_code)


def adapter_fingerprints(base: ModelSettings) -> list[str]:
    return [folder_fingerprint(folder_of(name)) for name in base.adapters]


def _fingerprint(source: str, revision: str | None) -> str:
    """Of a Hub id its commit, which names the folder of the Hub's cache that its files are in."""
    if Path(source).is_dir():
        return folder_fingerprint(Path(source))
    return Path(try_to_load_from_cache(source, "config.json", revision=revision)).parent.name


def chosen_device(asked: str, choices: dict[str, str]) -> torch.device:
    if asked == "auto":
        for kind, present in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
            if present:
                choices["device"] = f"{kind}: the first accelerator present"
                return torch.device(kind, 0) if kind == "cuda" else torch.device(kind)
        choices["device"] = "cpu: no accelerator"
        return torch.device("cpu")
    device = torch.device(asked)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"--device {asked}: {torch.cuda.device_count()} CUDA devices here; see `sinkctl doctor`")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("--device mps: not available here; see `sinkctl doctor`")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def wanted_dtype(asked: str, device: torch.device, choices: dict[str, str], kept: bool) -> torch.dtype | str:
    if asked != "auto":
        return getattr(torch, asked)
    if kept:
        choices["dtype"] = "auto: as the checkpoint is stored, as are the scales of its quantized weights"
        return "auto"
    if device.type == "cpu":
        choices["dtype"] = "float32: half precision is slower on a CPU"
        return torch.float32
    choices["dtype"] = "auto: as the checkpoint is stored"
    return "auto"


def checked_kind(name: str, config: PreTrainedConfig, kinds: Sequence[Kind]) -> Kind:
    kind = kind_of(config, seeing="multimodal" in kinds)
    if kind in kinds:
        return kind
    what = f"{name} is {WORDS[kind]} ({config.model_type})"
    if "decoder" in kinds:
        lacks = "is neither streamed nor converted" if kind == "encoder-decoder" else "predicts no next token"
        raise ModelError(f"{what} and {lacks}; `sinkctl measure` takes it")
    raise ModelError(f"{what}, not {' or '.join(WORDS[wanted] for wanted in kinds)}")


def _beside(config: PreTrainedConfig, model: PreTrainedModel) -> str:
    """Which part of a multimodal checkpoint counts, and what became of the others."""
    held = "loaded, and no text goes through it" if towers_of(model.config) else "not loaded"
    part = f"the {' and '.join(towers_of(config))} part of {config.model_type}"
    return f"{model.config.get_text_config().model_type}: {part} is {held}"


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what transformers raises into one line that says what to do."""
    try:
        yield
    except SinkctlError:
        raise
    except Exception as error:  # whatever a damaged checkpoint makes a library raise
        text = " ".join(str(error).split())
        if "couldn't connect" in text or "offline" in text.lower():
            raise ModelError(f"{name}: no such folder here, and the Hugging Face Hub cannot be reached") from error
        if "trust_remote_code" in text:
            raise ModelError(f"{name} brings code of its own; --trust-remote-code runs it") from error
        if unknown := re.search(r"model type `(.*?)` but Transformers does not recognize", text):
            raise ModelError(
                f"{name}: model type {unknown[1]} is unknown to the transformers that is installed "
                f"({version('transformers')}); a newer one may have it (pip install -U transformers)"
            ) from error
        if "safetensors" in text and "no file named" in text.lower():
            raise ModelError(f"{name}: no safetensors weights; --allow-pickle loads pickled ones") from error
        raise ModelError(f"{name} cannot be loaded ({type(error).__name__}): {text[:300]}") from error
