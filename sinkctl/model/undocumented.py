"""All that sinkctl takes from transformers without its documentation's word, each with the versions it was seen in.

Where a new version renames or moves something, this file is the place to mend: nothing else in sinkctl touches such a
name (`tests/test_house.py` reads the sources), but for `families`, which stand in for single classes, and `sinks/code`,
which is written into checkpoints. `TAKEN` lists them; a test walks it on every version that sinkctl is tested with.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import transformers
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)
from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin
from transformers.masking_utils import sdpa_mask
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import ModelOutput

from sinkctl.model.parts import device_of

Say = Callable[[str], None]  # told what takes time

# What a module may call its cache: the first since 5.24, the last in Mamba's layers before.
CACHE_NAMES = ("cache", "past_key_values", "cache_params")


def cached(module: nn.Module, cache: Cache) -> dict[str, Any]:
    """The arguments that make `module` go on from `cache` and keep what it sees in it."""
    name = next((name for name in CACHE_NAMES if name in _parameters(module)), "past_key_values")
    return {name: cache, "use_cache": True}


def _parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(module).forward).parameters


def cache_given(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Cache | None:
    """The cache among the arguments of a call of `module`, without its `self`, whatever it is called."""
    given = inspect.signature(type(module).forward).bind_partial(module, *args, **kwargs).arguments
    given |= given.get("kwargs", {})  # an old name that a decorator takes
    return next((given[name] for name in CACHE_NAMES if given.get(name) is not None), None)


@contextmanager
def attending_by(configs: list[PreTrainedConfig], name: str) -> Iterator[None]:
    """Inside, models with these configs attend by the implementation of this name."""
    before = [config._attn_implementation_internal for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation_internal = implementation


def attends_by(config: PreTrainedConfig) -> str:
    """The implementation that models with this config attend by."""
    return config._attn_implementation_internal


def runs_by(model: PreTrainedModel) -> list[str]:
    """The fused implementations of attention that the class of `model` says it works with."""
    says = {"sdpa": model._supports_sdpa, "flex_attention": model._supports_flex_attn}
    return [name for name, supported in says.items() if supported]


def logits_processors(model: PreTrainedModel, config: GenerationConfig, prompt: int) -> list[LogitsProcessor]:
    """Those that `generate()` would run, in its order, after a prompt of so many tokens."""
    model._prepare_special_tokens(config, device=device_of(model))
    empty = LogitsProcessorList()
    return list(model._get_logits_processor(config, prompt, logits_processor=empty, device=device_of(model)))


def whisper_prompt(model: PreTrainedModel, config: GenerationConfig, read: ModelOutput) -> Tensor | None:
    """What Whisper has its decoder go on from, [N, T], after what its encoder `read`; None for another class."""
    own = getattr(model, "_retrieve_init_tokens", None)
    return own and own(None, len(read[0]), config, model.config, None, {"encoder_outputs": read})


def keep_post_processor(tokenizer: PreTrainedTokenizerBase, adds_bos: bool) -> None:
    """Say that it adds BOS, or not; the public setter replaces the whole post-processor, and what else it adds."""
    tokenizer._add_bos_token = adds_bos
    tokenizer._should_update_post_processor = False


def shared_among(processes: int) -> dict[str, Any]:
    """The arguments of `from_pretrained` that share a model's heads and weights out by the plan of its class."""
    from transformers.distributed import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_size=processes)}


class _Asked(dict):
    """Names of a GGUF file's tensors → those of a model; counts how often it is asked for one that it has."""

    times = 0

    def __contains__(self, name: object) -> bool:
        found = super().__contains__(name)
        self.times += found
        return found

    def __getitem__(self, name: str) -> str:
        self.times += 1
        return super().__getitem__(name)

    def items(self) -> Any:  # by which stacked experts are looked for
        self.times += 1
        return super().items()


@contextmanager
def gguf_told(say: Say) -> Iterator[list[str]]:
    """Inside, `say` is told how far a GGUF file is dequantized, in place of a bar that nothing else turns off.

    Yields a list, to which is added each tensor that transformers takes no notice of. Names are mapped once: it makes
    the same table of hundreds of names anew for every module of the model.
    """
    import gguf as names  # an extra

    here = modeling_gguf_pytorch_utils
    before = here.tqdm, here.get_gguf_hf_weights_map, names.get_tensor_name_map
    left, asked = [], _Asked()

    def told(tensors: list[Any], **_: Any) -> Iterator[Any]:
        for number, tensor in enumerate(tensors):
            say(f"dequantizing tensor {number + 1} of {len(tensors)}")
            times = asked.times
            yield tensor
            if asked.times == times:
                left.append(tensor.name)

    def mapped(*arguments: Any, qual_name: str = "", **keywords: Any) -> dict[str, str]:
        nonlocal asked
        found = before[1](*arguments, qual_name=qual_name, **keywords)
        if qual_name:  # of a part of the model
            return found
        asked = _Asked(found)
        return asked

    here.tqdm, here.get_gguf_hf_weights_map = told, mapped
    names.get_tensor_name_map = cache(names.get_tensor_name_map)
    try:
        yield left
    finally:
        here.tqdm, here.get_gguf_hf_weights_map, names.get_tensor_name_map = before


class _Read(dict):
    """What is read of a GGUF file: its config is there, the rest once it is asked for."""

    def __init__(self, config: dict[str, Any], whole: Callable[[], dict[str, Any]]):
        super().__init__(config=config)
        self._whole = whole

    def __missing__(self, name: str) -> Any:
        self.update(self._whole() | self)
        return self[name]


@contextmanager
def gguf_config_of(copy: Path) -> Iterator[None]:
    """Inside, a GGUF file's config is read from its `copy` without the vocabulary, all of which costs seconds to read.

    Looking for a tokenizer's class, which the config tells, transformers reads the whole file for it.
    """
    here = modeling_gguf_pytorch_utils
    before = here.load_gguf_checkpoint

    def quick(path: Any, return_tensors: bool = False, **keywords: Any) -> dict[str, Any]:
        if return_tensors:
            return before(path, return_tensors, **keywords)
        return _Read(before(str(copy))["config"], lambda: before(path, **keywords))

    here.load_gguf_checkpoint = quick
    try:
        yield
    finally:
        here.load_gguf_checkpoint = before


def as_ordinary(model: PreTrainedModel) -> None:
    """Forget that a model was quantized before it was loaded: since 5.24 transformers refuses to save one that was."""
    for name in ("hf_quantizer", "quantization_method"):
        vars(model).pop(name, None)
    if hasattr(model, "is_quantized"):
        model.is_quantized = False
    vars(model.config).pop("quantization_config", None)


def image_processor_class() -> type:
    """AutoImageProcessor; 5.17 hides it at the top of transformers where torchvision is missing."""
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    return AutoImageProcessor


def warmed_cosine(optimizer: Optimizer, warmup: int, steps: int, last: float) -> LRScheduler:
    """A rate that rises over `warmup` steps and falls along a cosine to `last` of itself."""
    from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup_lr_rate as schedule

    return schedule(optimizer, warmup, steps, min_lr_rate=last)


def stock(module: nn.Module) -> ModuleType:
    """Where the class of `module` is defined, with the functions beside it."""
    return sys.modules[type(module).__module__]


class Taken(NamedTuple):
    """Something undocumented, the first and last version it was seen in, and whether it is there."""

    what: str
    oldest: str
    newest: str
    there: Callable[[], bool]


def _tiny() -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    return LlamaForCausalLM(LlamaConfig(**sizes))


def _goes_by_its_name() -> bool:
    model = _tiny()
    with attending_by([model.config], "eager"):
        return model.config._attn_implementation == "eager"


def _post_processor_is_kept() -> bool:
    from transformers import LlamaTokenizer

    return {"_add_bos_token", "_should_update_post_processor"} <= set(vars(LlamaTokenizer()))


def _schedule_takes() -> bool:
    from torch.optim import SGD

    rates = warmed_cosine(SGD([nn.Parameter(nn.Linear(1, 1).weight)], lr=1.0), 2, 10, last=0.1)
    return rates.get_last_lr()[0] < 1.0


TAKEN = (
    Taken("a decoder's cache: `cache` (5.24), `past_key_values`", "5.15.0", "5.24.0",
          lambda: set(CACHE_NAMES[:2]) & set(_parameters(_tiny().get_decoder()))),
    Taken("config._attn_implementation_internal", "5.15.0", "5.24.0", _goes_by_its_name),
    Taken("model._supports_sdpa, _supports_flex_attn", "5.15.0", "5.24.0", lambda: "sdpa" in runs_by(_tiny())),
    Taken("tokenizer._add_bos_token, _should_update_post_processor", "5.15.0", "5.24.0", _post_processor_is_kept),
    Taken("model._get_logits_processor, _prepare_special_tokens", "5.15.0", "5.24.0",
          lambda: len(logits_processors(_tiny(), GenerationConfig(repetition_penalty=1.5), 1)) == 1),
    Taken("DistributedConfig; base_model_tp_plan of a config; tp_size of a model", "5.15.0", "5.24.0",
          lambda: shared_among(2) and "colwise" in (_tiny().config.base_model_tp_plan or {}).values()
          and _tiny().tp_size is None),
    Taken("arguments of a mask function", "5.15.0", "5.24.0",
          lambda: {"batch_size", "q_length", "kv_length", "mask_function", "device"}
          <= set(inspect.signature(sdpa_mask).parameters)),
    Taken("CacheLayerMixin, LinearAttentionCacheLayerMixin; cache.layers", "5.15.0", "5.24.0",
          lambda: all(isinstance(layer, CacheLayerMixin) for layer in DynamicCache(config=_tiny().config).layers)),
    Taken("conv_states, recurrent_states of a recurrent layer, by number; has_previous_state", "5.15.0", "5.24.0",
          lambda: all(word in inspect.getsource(LinearAttentionCacheLayerMixin)
                      for word in ("conv_states", "recurrent_states", "has_previous_state", "state_idx"))),
    Taken("CONFIG_MAPPING_NAMES, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "5.15.0", "5.24.0",
          lambda: "llama" in CONFIG_MAPPING_NAMES and "llama" in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    Taken("AutoImageProcessor, where no torchvision is", "5.15.0", "5.24.0",
          lambda: callable(image_processor_class().from_pretrained)),
    Taken("modeling_gguf_pytorch_utils.tqdm, get_gguf_hf_weights_map", "5.15.0", "5.24.0",
          lambda: callable(modeling_gguf_pytorch_utils.tqdm)
          and callable(modeling_gguf_pytorch_utils.get_gguf_hf_weights_map)),
    Taken("modeling_gguf_pytorch_utils.load_gguf_checkpoint, its config; where it is not asked, nothing is gained",
          "5.15.0", "5.24.0", lambda: "return_tensors"
          in inspect.signature(modeling_gguf_pytorch_utils.load_gguf_checkpoint).parameters),
    Taken("WhisperForConditionalGeneration._retrieve_init_tokens", "5.15.0", "5.24.0",
          lambda: callable(transformers.WhisperForConditionalGeneration._retrieve_init_tokens)),
    Taken("get_cosine_with_min_lr_schedule_with_warmup_lr_rate", "5.15.0", "5.24.0", _schedule_takes),
)  # fmt: skip
