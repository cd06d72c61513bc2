"""What gives a stock causal language model the designed sinks that its config.json describes.

Needs torch and transformers alone: sinkctl copies this file into the checkpoints it writes.

Shapes: B batch, H query heads, G key/value heads, T tokens, D width of a head, C hidden width.
"""

import copy

import torch
from torch import Tensor, nn

from .sink_attention import NAME, AttentionSink

# Of attention modules, the projection that writes, and the one that makes queries, keys and values where it is one.
OUTPUTS, FUSED = ("o_proj", "dense"), "query_key_value"
# At which module a sink acts in its layer: the first that is there.
PLACES = {
    "output": OUTPUTS,
    "value": (FUSED, "v_proj"),
    "queries": (FUSED, "q_norm", "q_proj"),
    "lost keys": (FUSED, "k_norm", "k_proj"),
    "lost values": (FUSED, "v_proj"),
}


class SinkModel:
    """In front of a stock class: gives each of its attention layers an `AttentionSink`, by `config.sink`."""

    # In bfloat16 a sink would lose its small updates; the second is what quantizers leave alone.
    _keep_in_fp32_modules_strict = ["sink"]
    _keep_in_fp32_modules = ["sink", r".*\.sink"]  # the second for quantizers, which match from a name's beginning
    norms_by_head = False  # whether q_norm and k_norm take [B, H, T, D] (Gemma-3), not [B, T, H, D]

    def __init__(self, config):
        if config.sink["kind"] != "gate":  # so that transformers refuses what would not see the sink
            self._supports_flash_attn = self._supports_flex_attn = False
        super().__init__(config)
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        layers = attention_layers(self)
        rotary = next(module for module in self.modules() if type(module).__name__.endswith("RotaryEmbedding"))
        for attention in [layers[number] for number in config.sink.get("layers", range(len(layers)))]:
            attention.sink = AttentionSink(config.sink, heads, groups, width, config.hidden_size)
            if attention.sink.gate is None:  # these attend by their own function, whatever the masks are made for
                attention.config = copy.copy(attention.config)
                attention.config._attn_implementation_internal = NAME
            if attention.sink.position is not None:
                block = next(m for m in self.modules() if any(child is attention for child in m.children()))
                _Placed(block, attention)
            places = _places(attention.sink, config.sink)
            attention.wires = [_Wire(attention, rotary, place, self.norms_by_head) for place in places]


def _places(sink: AttentionSink, config: dict) -> list[str]:
    """Where a sink acts in its layer, besides in the attention itself."""
    if sink.gate is not None:
        return [config["place"]]
    held = {"queries": sink.key, "lost keys": sink.lost_key, "lost values": sink.lost_value}
    return [place for place, parameter in held.items() if parameter is not None]


def attention_layers(model: nn.Module) -> list[nn.Module]:
    """The attention modules of a decoder, in order."""
    return [m for m in model.modules() if type(m).__name__.endswith("Attention") and output_of(m) is not None]


def output_of(attention: nn.Module) -> nn.Linear | None:
    """The projection that takes what attention gave."""
    return next((getattr(attention, name) for name in OUTPUTS if hasattr(attention, name)), None)


class _Placed:
    """Adds the vector of its position to each token that a block gets."""

    def __init__(self, block: nn.Module, attention: nn.Module):
        self.attention = attention
        block.register_forward_pre_hook(self.place, with_kwargs=True)

    def place(self, block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        x_BTC, table_TC = args[0], self.attention.sink.position
        return (x_BTC + table_TC[kwargs["position_ids"]].to(x_BTC.dtype), *args[1:]), kwargs


class _Wire:
    """Brings a gate, a sink key, or what keys or values lose, to where it acts in its layer.

    What tools put in a projection's place (LoRA, quantization) is found before every pass, and hooks are methods, so
    that a copied model has its own.
    """

    def __init__(self, attention: nn.Module, rotary: nn.Module, place: str, norms_by_head: bool):
        self.attention, self.rotary, self.place, self.norms_by_head = attention, rotary, place, norms_by_head
        self.fused = hasattr(attention, FUSED)
        self.projection: nn.Module | None = None  # the one whose hook counts
        self.hooked: list[nn.Module] = []  # all that have one: a merged adapter gives the projection's place back
        self.shown: Tensor | None = None  # the layer's input, while it runs
        attention.register_forward_pre_hook(self.before, with_kwargs=True)
        self.tie()

    def tie(self) -> None:
        """Act on whatever is now in the projection's place."""
        if self.place == "input":
            return
        found = next(getattr(self.attention, name) for name in PLACES[self.place] if hasattr(self.attention, name))
        if found is not self.projection:
            self.projection = found
            if any(found is module for module in self.hooked):
                return
            self.hooked.append(found)
            if self.place == "output":
                found.register_forward_pre_hook(self.gate_output)
            else:
                acts = {"value": self.gate_value, "queries": self.keep_queries}
                found.register_forward_hook(acts.get(self.place, self.lessen))

    def before(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Ahead of the layer's attention. An input gate: queries, keys and values from x ⊙ σ(W x)."""
        self.tie()
        x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        if self.place != "input":
            self.shown = x if self.place == "output" else None
            return None
        gated = self._times(x, x)
        return (args, kwargs | {"hidden_states": gated}) if "hidden_states" in kwargs else ((gated, *args[1:]), kwargs)

    def gate_output(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        """out ⊙ σ(W x), and a constant, before the output projection, x the layer's input (arXiv 2505.06708, G1)."""
        if module is not self.projection:
            return None
        shown, self.shown = self.shown, None
        return (self.attention.sink.added(self._times(inputs[0], shown)),)

    def gate_value(self, module: nn.Module, inputs: tuple[Tensor], out: Tensor) -> Tensor | None:
        """v ⊙ σ(W x), x the layer's input (the same, G2)."""
        if module is not self.projection:
            return None
        if not self.fused:
            return self._times(out, inputs[0])
        width = self.attention.sink.width
        qkv_BTH3D = out.unflatten(-1, (-1, 3 * width))
        values = self._times(qkv_BTH3D[..., 2 * width :].flatten(-2), inputs[0])
        return qkv_BTH3D.slice_scatter(values.unflatten(-1, (-1, width)), -1, 2 * width).flatten(-2)

    def keep_queries(self, module: nn.Module, inputs: tuple, queries: Tensor) -> None:
        """The queries as rotary embedding would leave them at position 0, [B, T, H, D]."""
        if module is not self.projection:
            return
        width = self.attention.sink.width
        each = 3 * width if self.fused else width
        if self.norms_by_head:
            queries = queries.transpose(1, 2)
        self.attention.sink.raw_BTHD = self._lengthened(queries.reshape(*queries.shape[:2], -1, each)[..., :width])

    def lessen(self, module: nn.Module, inputs: tuple, out: Tensor) -> Tensor | None:
        """Keys before their rotation, or values, less what they lose."""
        if module is not self.projection:
            return None
        sink, keys = self.attention.sink, self.place == "lost keys"
        lost_GD = self._lengthened(sink.lost_key, -1) if keys else sink.lost_value
        if self.fused:
            zeros = torch.zeros_like(lost_GD)
            lost = torch.cat([zeros, lost_GD, zeros] if keys else [zeros, zeros, lost_GD], dim=-1).flatten()
        elif out.dim() == 3:
            lost = lost_GD.flatten()
        else:
            lost = lost_GD[:, None] if self.norms_by_head else lost_GD
        return (out - lost).to(out.dtype)

    def _lengthened(self, x: Tensor, power: int = 1) -> Tensor:
        """Queries or keys as rotary embedding lengthens them where it turns them (YaRN), by that power; [..., D]."""
        of = f"{getattr(self.attention, 'layer_type', None)}_"  # where kinds of layers have tables of their own
        of = of if hasattr(self.rotary, f"{of}inv_freq") else ""
        turned, scale = 2 * len(getattr(self.rotary, f"{of}inv_freq")), getattr(self.rotary, f"{of}attention_scaling")
        return x if scale == 1 else torch.cat([scale**power * x[..., :turned], x[..., turned:]], dim=-1)

    def _times(self, x: Tensor, shown: Tensor) -> Tensor:
        """x ⊙ σ(W shown), in as many equal parts as there are scores; as precisely as the gate is held."""
        gate = self.attention.sink.gate
        score = gate(shown.to(gate.weight.dtype) if gate.weight.is_floating_point() else shown)
        parts = x.unflatten(-1, (score.shape[-1], -1))
        return (parts * score.sigmoid().to(x.dtype)[..., None]).flatten(-2)
