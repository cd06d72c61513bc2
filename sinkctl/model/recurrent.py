"""What a model with recurrent layers carries from block to block besides keys and values.

Linear-attention, Mamba and convolution layers keep a state of fixed size. transformers' own cache carries it; here that
cache without keys and values, which are the handler's.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from sinkctl.model.parts import text_modules
from sinkctl.model.undocumented import CacheLayerMixin, LinearAttentionCacheLayerMixin


class RecurrentCache(DynamicCache):
    """The states of a model's recurrent layers; its softmax layers get back the keys and values of the block alone."""

    def __init__(self, model: PreTrainedModel):
        super().__init__(config=model.config)
        self.recurrent = [i for i, x in enumerate(self.layers) if isinstance(x, LinearAttentionCacheLayerMixin)]
        self.softmax = [i for i, layer in enumerate(self.layers) if isinstance(layer, CacheLayerMixin)]
        for index in self.softmax:  # some of them recurrent as well (Falcon-H1): the other half stays as it is
            self.layers[index].update = _passed
        self._devices = {
            module.layer_idx: next(module.parameters()).device
            for module in text_modules(model).values()
            if isinstance(getattr(module, "layer_idx", None), int) and any(True for _ in module.parameters())
        }

    def update_recurrent_state(self, recurrent_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Contiguous, so that a state that went through a file is multiplied in the same order."""
        return super().update_recurrent_state(recurrent_states.contiguous(), *args, **kwargs)

    def state(self) -> dict[str, Tensor]:
        """A copy of all that is carried: "layer.conv0" and "layer.recurrent0" → tensor, batch first."""
        return {f"{index}.{kind}{number}": states[number].clone() for index, kind, number, states in self._held()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Carry `state` on."""
        for name, tensor in state.items():
            index, _, part = name.partition(".")
            kind, number = part[:-1], int(part[-1])
            update = self.update_conv_state if kind == "conv" else self.update_recurrent_state
            update(tensor.to(self._devices[int(index)]), int(index), state_idx=number)

    def select(self, rows: Tensor) -> None:
        """Make row i continue what was row rows[i]; in the same memory, where there are as many rows as before."""
        for _, _, number, states in self._held():
            chosen = states[number].index_select(0, rows.to(states[number].device))
            states[number] = states[number].copy_(chosen) if len(chosen) == len(states[number]) else chosen

    @property
    def holding(self) -> set[int]:
        """Numbers of the layers that hold a state by now."""
        return {index for index, *_ in self._held()}

    def bytes_held(self) -> int:
        """Size of the carried states."""
        held = (states[number] for _, _, number, states in self._held())
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def _held(self) -> Iterator[tuple[int, str, int, dict[int, Tensor]]]:
        """(layer, kind, number, the layer's states of this kind by number) of every state there is."""
        for index in self.recurrent:
            for kind in ("conv", "recurrent"):
                states = getattr(self.layers[index], f"{kind}_states")
                yield from ((index, kind, number, states) for number in states if states[number] is not None)


def _passed(k: Tensor, v: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return k, v


def recurrent_cache(model: PreTrainedModel) -> RecurrentCache | None:
    """An empty cache for the recurrent layers of `model`; None where transformers knows of none."""
    try:
        cache = RecurrentCache(model)
    except KeyError:  # a kind of layer that no cache is made for: if it carries something, the probe finds out
        return None
    return cache if cache.recurrent else None
