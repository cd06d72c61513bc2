"""torch.compile for the decoder layers, around an attention that stays outside the graph."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from sinkctl.model.parallel import sharers
from sinkctl.model.probe import LayerFacts
from sinkctl.model.quantized import is_quantized
from sinkctl.model.recurrent import recurrent_cache

# Compiling takes about 10 s; it saves about a fifth of the time. Below this much work (tokens × parameters) it loses.
WORTH_IT = 1e16
# What Triton takes 5 to 20 s to compile runs a fifth faster than what torch brings, which a GPU also runs of a small
# model at more than 100,000 tokens a second.
KERNELS_WORTH_IT, TOKENS_WORTH_IT = 1e15, 500_000
LONG = 1024  # tokens of a sample whose attention maps take plain torch longer
# Where a config says how many experts there are.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def worth_compiling(model: PreTrainedModel, device: torch.device, tokens: float | None) -> tuple[bool, str]:
    """Whether to compile for a text of about `tokens` tokens, and why."""
    if (why := never_compiled(model, device)) is not None:
        return False, why
    if tokens is None:
        return False, "the length of the text is unknown"
    if tokens * model.num_parameters() < WORTH_IT:
        return False, f"about {tokens:,.0f} tokens are too few to repay compiling"
    return True, f"about {tokens:,.0f} tokens repay compiling"


def spared_kernels(model: PreTrainedModel, tokens: float | None, longest: int = 0) -> str | None:
    """Why kernels that are compiled as they first run do not pay for about `tokens` tokens; None: they do, or may.

    `longest`: tokens of the longest sample whose attention maps are looked at.
    """
    if tokens is None or tokens >= TOKENS_WORTH_IT or longest > LONG:
        return None
    if tokens * model.num_parameters() >= KERNELS_WORTH_IT:
        return None
    return f"about {tokens:,.0f} tokens are too few to repay compiling kernels"


def never_compiled(model: PreTrainedModel, device: torch.device) -> str | None:
    """Why compiling this model does not pay here or cannot be, however long the text; None: it may pay."""
    if device.type != "cuda":
        return "only pays on a GPU"
    if sharers(model) > 1:
        return "what processes add up is no part of a graph"
    if is_quantized(model):
        return "its quantized weights are run as transformers runs them"
    if recurrent_cache(model) is not None:
        return "recurrent layers are not compiled"
    if is_mixture(model):
        return "a mixture of experts does not compile into one graph"
    return None


def is_mixture(model: PreTrainedModel) -> bool:
    """Whether it is a mixture of experts."""
    return any(hasattr(model.config.get_text_config(), name) for name in EXPERTS)


def blocks_of(model: PreTrainedModel, layers: list[LayerFacts]) -> list[nn.Module]:
    """The decoder layers of these attention layers: their modules' parents."""
    return [model.get_submodule(facts.name.rpartition(".")[0]) for facts in layers]


class CompiledLayers:
    """Compiles each layer once, and uses the compiled forms only inside `with active()`."""

    def __init__(self, blocks: list[nn.Module], **options: bool):
        """`options` are torch.compile's."""
        self._blocks = blocks
        self._calls: list[Callable] | None = None
        self._options = options or None

    @contextmanager
    def active(self) -> Iterator[None]:
        # One graph a layer at worst; past the limit dynamo would silently run layers uncompiled.
        # Gates are hooks: unguarded, a model would run what was compiled for another of its class, without them.
        with torch._dynamo.config.patch(recompile_limit=8 + 4 * len(self._blocks), skip_nnmodule_hook_guards=False):
            if self._calls is None:
                self._calls = self._compile()
            with called_as(self._blocks, self._calls):
                yield

    def _compile(self) -> list[Callable]:
        with called_as(self._blocks, [None] * len(self._blocks)):
            for block in self._blocks:
                block.compile(dynamic=False, options=self._options)
            return [block._compiled_call_impl for block in self._blocks]


@contextmanager
def called_as(blocks: Sequence[nn.Module], calls: Sequence[Callable | None]) -> Iterator[None]:
    """Inside it, to call a block is to call what stands in for it; afterwards it is as it was."""
    before = [block._compiled_call_impl for block in blocks]
    try:
        for block, call in zip(blocks, calls, strict=True):
            block._compiled_call_impl = call
        yield
    finally:
        for block, call in zip(blocks, before, strict=True):
            block._compiled_call_impl = call
