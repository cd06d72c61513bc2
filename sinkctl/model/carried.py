"""Whether recurrent layers go on from block to block as if the text had come at once; found by running them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.model.parts import text_modules
from sinkctl.model.recurrent import RecurrentCache

# Cuts of the text that is run in parts; a token by itself takes another path through most recurrent layers.
PARTS = ((37, 42), (1, 42, 1, 35))
TOKENS = 79  # prime, as no width or number of heads is: it tells which dimension of an output is time


class _Seen(NamedTuple):
    took: Tensor  # [B, T, width]
    gave: list[Tensor]  # all that came out


def check_carried(model: PreTrainedModel, run: Callable[[Tensor, RecurrentCache | None], Any]) -> list[nn.Module]:
    """The modules that carry a state; ModelError where a text in parts comes out of one otherwise than whole.

    `run(ids, cache)` runs `model`. In parts each module gets what it got of the whole text, so that rounding in the
    layers before it (in half precision it sends tokens to other experts) is not taken for a lost state.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    ids_BT = torch.randint(0, vocabulary, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    numbers = set(RecurrentCache(model).recurrent)
    carriers = _innermost([m for m in text_modules(model).values() if getattr(m, "layer_idx", None) in numbers])
    with _fed(carriers, {}) as whole:
        run(ids_BT, None)
    try:
        for parts in PARTS:
            cache, pieces = RecurrentCache(model), []
            for part_T in torch.arange(TOKENS).split(parts):
                with _fed(carriers, {module: seen.took[:, part_T] for module, seen in whole.items()}) as piece:
                    run(ids_BT[:, part_T], cache)
                pieces.append(piece)
            carriers = [module for module in whole if module.layer_idx in cache.holding]
            if not carriers:
                raise ValueError("its cache stays empty")
            for module in carriers:
                if not _agree(whole[module].gave, [piece[module].gave for piece in pieces]):
                    raise ValueError(f"a text in parts comes out of {type(module).__name__} otherwise than whole")
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
        version = transformers.__version__
        raise ModelError(
            f"its recurrent state cannot be carried between chunks by transformers {version} ({error})"
        ) from error
    return carriers


@contextmanager
def held(modules: list[nn.Module]) -> Iterator[None]:
    """Each module answers every call with what it answered first."""
    answers: dict[nn.Module, Any] = {}
    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(lambda module, _, out: answers.setdefault(module, out)))
        yield


@contextmanager
def _fed(modules: list[nn.Module], inputs: dict[nn.Module, Tensor]) -> Iterator[dict[nn.Module, _Seen]]:
    """Feed `inputs` to modules in place of what they get; yields what went into each and came out."""
    seen: dict[nn.Module, _Seen] = {}

    def feed(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        took = inputs.get(module, args[0] if args else kwargs["hidden_states"])
        seen[module] = _Seen(took, [])
        return ((took, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": took})

    def see(module: nn.Module, _, out: Any) -> None:
        seen[module].gave.extend([out] if isinstance(out, Tensor) else [x for x in out if isinstance(x, Tensor)])

    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_pre_hook(feed, with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(see))
        yield seen


def _innermost(modules: list[nn.Module]) -> list[nn.Module]:
    """Decoder layers are numbered too, sometimes."""
    return [one for one in modules if not any(two in modules for two in one.modules() if two is not one)]


def _agree(whole: list[Tensor], pieces: list[list[Tensor]]) -> bool:
    """Whether the pieces add up but for rounding: by the length of the difference, relative to the whole's own."""
    for expected, *parts in zip(whole, *pieces, strict=True):
        if TOKENS in expected.shape:
            found = torch.cat(parts, dim=expected.shape.index(TOKENS)).double()
            tolerance = 3e-2 if expected.dtype in (torch.float16, torch.bfloat16) else 2e-3
            if not (found - expected.double()).norm() <= tolerance * expected.double().norm():
                return False
    return True
