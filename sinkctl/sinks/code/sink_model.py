"""What gives a stock causal language model the designed sinks that its config.json describes.

Needs torch and transformers alone: sinkctl copies this file into the checkpoints it writes.

Shapes: B batch, H query heads, G key/value heads, T tokens, D width of a head, C hidden width.
"""

import copy

import torch
from torch import Tensor, nn

from .sink_attention import NAME, AttentionSink

# Of attention modules, the projection that writes, and those that make values and queries: apart or in one.
OUTPUTS, VALUE, QUERIES, FUSED = ("o_proj", "dense"), "v_proj", ("q_norm", "q_proj"), "query_key_value"


class SinkModel:
    """In front of a stock class: gives each of its attention layers an `AttentionSink`, by `config.sink`."""

    _keep_in_fp32_modules_strict = ["sink"]  # in bfloat16 a sink would lose its small updates

    def __init__(self, config):
        if config.sink["kind"] != "gate":  # so that transformers refuses what would not see the sink
            self._supports_flash_attn = self._supports_flex_attn = False
        super().__init__(config)
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        layers = attention_layers(self)
        rotary = next(module for module in self.modules() if hasattr(module, "attention_scaling"))
        for attention in [layers[number] for number in config.sink.get("layers", range(len(layers)))]:
            attention.sink = AttentionSink(config.sink, heads, groups, width, config.hidden_size)
            if attention.sink.gate is None:
                _attend(attention, rotary)
            else:
                _GATES[config.sink["place"]](attention)


def attention_layers(model: nn.Module) -> list[nn.Module]:
    """The attention modules of a decoder, in order."""
    return [m for m in model.modules() if type(m).__name__.endswith("Attention") and output_of(m) is not None]


def output_of(attention: nn.Module) -> nn.Linear | None:
    """The projection that takes what attention gave."""
    return next((getattr(attention, name) for name in OUTPUTS if hasattr(attention, name)), None)


def _attend(attention: nn.Module, rotary: nn.Module) -> None:
    """Make the layer attend by `sink_attention`, whichever of the stock functions the masks are made for."""
    attention.config = copy.copy(attention.config)
    attention.config._attn_implementation_internal = NAME
    sink = attention.sink
    if sink.key is None:
        return

    def keep(module: nn.Module, inputs: tuple, queries: Tensor) -> None:
        """The queries as rotary embedding would leave them at position 0, [B, T, H, D]."""
        each = 3 * sink.width if fused else sink.width
        raw_BTHD = queries.reshape(*queries.shape[:2], -1, each)[..., : sink.width]
        turned, scale = 2 * len(rotary.inv_freq), rotary.attention_scaling
        if scale != 1:  # YaRN makes queries longer where it turns them
            raw_BTHD = torch.cat([scale * raw_BTHD[..., :turned], raw_BTHD[..., turned:]], dim=-1)
        sink.raw_BTHD = raw_BTHD

    fused = hasattr(attention, FUSED)
    source = FUSED if fused else next(name for name in QUERIES if hasattr(attention, name))
    getattr(attention, source).register_forward_hook(keep)


def _gate_output(attention: nn.Module) -> None:
    """out ⊙ σ(W x) before the output projection, x the layer's input (arXiv 2505.06708, G1)."""
    shown = _watched(attention)

    def gated(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (_times(inputs[0], attention.sink.gate, shown.pop()),)

    output_of(attention).register_forward_pre_hook(gated)


def _gate_value(attention: nn.Module) -> None:
    """v ⊙ σ(W x), x the layer's input (the same, G2)."""
    sink = attention.sink

    def gated(module: nn.Module, inputs: tuple[Tensor], out: Tensor) -> Tensor:
        if module is not fused:
            return _times(out, sink.gate, inputs[0])
        qkv_BTH3D = out.unflatten(-1, (-1, 3 * sink.width))
        values = qkv_BTH3D[..., 2 * sink.width :].flatten(-2)
        values = _times(values, sink.gate, inputs[0]).unflatten(-1, (-1, sink.width))
        return qkv_BTH3D.slice_scatter(values, -1, 2 * sink.width).flatten(-2)

    fused = getattr(attention, FUSED, None)
    (getattr(attention, VALUE) if fused is None else fused).register_forward_hook(gated)


def _gate_input(attention: nn.Module) -> None:
    """Queries, keys and values from x ⊙ σ(W x)."""

    def gated(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if "hidden_states" in kwargs:
            x = kwargs["hidden_states"]
            return args, kwargs | {"hidden_states": _times(x, module.sink.gate, x)}
        return (_times(args[0], module.sink.gate, args[0]), *args[1:]), kwargs

    attention.register_forward_pre_hook(gated, with_kwargs=True)


_GATES = {"output": _gate_output, "value": _gate_value, "input": _gate_input}


def _times(x: Tensor, gate: nn.Linear, shown: Tensor) -> Tensor:
    """x ⊙ σ(W shown), in as many equal parts as there are scores; computed as precisely as the gate is held."""
    score = gate(shown.to(gate.weight.dtype))
    parts = x.unflatten(-1, (score.shape[-1], -1))
    return (parts * score.sigmoid().to(x.dtype)[..., None]).flatten(-2)


def _watched(attention: nn.Module) -> list[Tensor]:
    """Holds the layer's input while the layer runs."""
    shown: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, kwargs: dict) -> None:
        shown[:] = [kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]]

    attention.register_forward_pre_hook(keep, with_kwargs=True)
    return shown
