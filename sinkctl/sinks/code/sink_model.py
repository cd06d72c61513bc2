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

    # In bfloat16 a sink would lose its small updates; the second is what quantizers leave alone.
    _keep_in_fp32_modules_strict = ["sink"]
    _keep_in_fp32_modules = ["sink", r".*\.sink"]  # the second for quantizers, which match from a name's beginning
    norms_by_head = False  # whether q_norm takes queries as [B, H, T, D] (Gemma-3), not [B, T, H, D]

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
            if attention.sink.gate is not None or attention.sink.key is not None:
                _Wire(attention, rotary, config.sink.get("place", "queries"), self.norms_by_head)


def attention_layers(model: nn.Module) -> list[nn.Module]:
    """The attention modules of a decoder, in order."""
    return [m for m in model.modules() if type(m).__name__.endswith("Attention") and output_of(m) is not None]


def output_of(attention: nn.Module) -> nn.Linear | None:
    """The projection that takes what attention gave."""
    return next((getattr(attention, name) for name in OUTPUTS if hasattr(attention, name)), None)


class _Wire:
    """Brings a gate or a sink key to where it acts in its layer.

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
        self._tie()

    def _tie(self) -> None:
        if self.place == "input":
            return
        names = {"output": OUTPUTS, "value": (FUSED, VALUE), "queries": (FUSED, *QUERIES)}[self.place]
        found = next(getattr(self.attention, name) for name in names if hasattr(self.attention, name))
        if found is not self.projection:
            self.projection = found
            if any(found is module for module in self.hooked):
                return
            self.hooked.append(found)
            if self.place == "output":
                found.register_forward_pre_hook(self.gate_output)
            else:
                found.register_forward_hook(self.gate_value if self.place == "value" else self.keep_queries)

    def before(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Ahead of the layer's attention. An input gate: queries, keys and values from x ⊙ σ(W x)."""
        self._tie()
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
        raw_BTHD = queries.reshape(*queries.shape[:2], -1, each)[..., :width]
        of = f"{getattr(self.attention, 'layer_type', None)}_"  # where kinds of layers have tables of their own
        of = of if hasattr(self.rotary, f"{of}inv_freq") else ""
        turned, scale = 2 * len(getattr(self.rotary, f"{of}inv_freq")), getattr(self.rotary, f"{of}attention_scaling")
        if scale != 1:  # YaRN makes queries longer where it turns them
            raw_BTHD = torch.cat([scale * raw_BTHD[..., :turned], raw_BTHD[..., turned:]], dim=-1)
        self.attention.sink.raw_BTHD = raw_BTHD

    def _times(self, x: Tensor, shown: Tensor) -> Tensor:
        """x ⊙ σ(W shown), in as many equal parts as there are scores; as precisely as the gate is held."""
        gate = self.attention.sink.gate
        score = gate(shown.to(gate.weight.dtype) if gate.weight.is_floating_point() else shown)
        parts = x.unflatten(-1, (score.shape[-1], -1))
        return (parts * score.sigmoid().to(x.dtype)[..., None]).flatten(-2)
