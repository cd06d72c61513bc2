"""Run a model once over some samples, and hand every attention layer and every block to whoever measures.

The model computes what it always computes; no T×T map is built (but for the few classes that have no other way).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, modeling_outputs

from sinkctl.errors import ModelError, out_of_memory
from sinkctl.kernels.column_sums import AttentionSums, Visible, select
from sinkctl.metrics.cross import CrossView
from sinkctl.metrics.samples import Part, Samples
from sinkctl.metrics.shown import by_head, view_of, weighing_of
from sinkctl.metrics.views import AttentionView, BlockView, Known
from sinkctl.model.attention import attached, hidden_states
from sinkctl.model.handler import AttentionCall, Handler, SinkKey
from sinkctl.model.masks import visible
from sinkctl.model.parts import attending_part, side_by_side, stack_of, streams_axis, text_modules


class Measurer(Protocol):
    """What is told about a pass; layers come in order, a block's attention before the block."""

    def attention(self, layer: int, view: AttentionView) -> None: ...

    def block(self, layer: int, view: BlockView) -> None: ...

    def routed(self, layer: int, chosen_NTk: Tensor, experts: int, real_NT: Tensor) -> None: ...


@dataclass
class Attending(Handler):
    """Answers with exact attention and keeps its sums; `also` hides more keys from the queries of every layer."""

    samples: Samples
    also: Callable[[Tensor, Tensor], Tensor] | None = None
    choices: dict[str, str] = field(default_factory=dict)
    _patterns: list[Visible] = field(default_factory=list)
    _last: tuple[AttentionCall, AttentionSums, Visible] | None = None

    def attend(self, call: AttentionCall) -> Tensor:
        seen, weighed_by = self._pattern(call), weighing_of(call)
        if call.sink_key is not None:
            call = replace(call, sink_logit_H=call.sink_key.logit_BHT)
        kernel, reason = select(call.q_BHTD, call.v_BGTE, seen, call.sink_logit_H, weighed_by)
        self.choices["column_sums"] = f"{kernel.name}: {reason}"
        sums = kernel(
            call.q_BHTD, call.k_BGTD, call.v_BGTE, scale=call.scale, visible=seen, sink_logit_H=call.sink_logit_H,
            softcap=call.softcap, slope_H=call.slope_H, **({} if call.weigh is None else {"weigh": call.weigh}),
        )  # fmt: skip
        if call.sink_key is not None and call.sink_key.v_GE is not None:
            sums = sums._replace(out_BHTE=sums.out_BHTE + _of_sink_key(call.sink_key, sums))
        self.seen(call, sums, seen)
        return sums.out_BHTE

    def seen(self, call: AttentionCall, sums: AttentionSums, pattern: Visible) -> None:
        """Told of every layer's attention."""

    def mask(self, mask_function: Callable, tokens: int, device: torch.device) -> Tensor:
        seeing = "pixel_values" in self.samples.inputs  # images may see all of themselves, wherever they stand
        self._patterns.append(visible(mask_function, tokens, device, whole=seeing))
        # Its value says which mask it is: layers may be handed a copy. A GPU would have to be waited for to read it.
        return torch.full((1, 1, 1, 1), len(self._patterns) - 1)

    def _pattern(self, call: AttentionCall) -> Visible:
        if call.mask is None:  # families that bypass the interface are causal; vision models make no mask
            pattern = Visible(causal=getattr(call.module, "is_causal", True))
        else:
            number = int(call.mask.flatten()[0]) if call.mask.numel() == 1 and not call.mask.is_floating_point() else -1
            if not 0 <= number < len(self._patterns):
                raise ModelError(f"{type(call.module).__name__} changes its attention mask in a way not understood")
            pattern = self._patterns[number]
        if pattern.also is not None and self.samples.shifted:
            raise ModelError("this model's own mask goes by place, which padding moves; --set layout=right")
        both = [f for f in (pattern.also, self.also) if f is not None]
        also = both[0] if len(both) == 1 else (lambda q, k: both[0](q, k) & both[1](q, k)) if both else None
        segment_BL = self.samples.segment_BL
        return replace(pattern, segment_BT=None if segment_BL is None else segment_BL.to(call.q_BHTD.device), also=also)


@dataclass
class _Observer(Attending):
    """Collects what one block shows while it runs, and tells the measurer when it is done."""

    measurer: Measurer | None = None
    streams: int | None = None  # the axis of several residual streams
    _shown: list[dict[str, Any]] = field(default_factory=list)
    _tokens: dict[tuple, tuple[Tensor, Known]] = field(default_factory=dict)  # which there are, by how many and where

    def seen(self, call: AttentionCall, sums: AttentionSums, pattern: Visible) -> None:
        again = next((shown for shown in self._shown if shown["call"].module is call.module), None)
        if again is None:
            self._shown.append({"call": call, "sums": sums, "pattern": pattern})
        else:  # the same attention over more values (DiffLlama): what heads write is in neither call alone
            again |= {"kept": None, "weight": None}

    def projecting(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Before a linear layer: which one takes what attention gave, all heads together.

        Inside the attention module the last one that fits (an output gate comes before it), else the first after it.
        """
        if not self._shown or not inputs or not isinstance(inputs[0], Tensor):
            return
        shown = self._shown[-1]
        B, H, T, E = shown["sums"].out_BHTE.shape
        if inputs[0].shape[-1] != H * E or inputs[0].numel() != B * H * T * E:
            return
        if "kept" in shown and not any(part is module for part in shown["call"].module.modules()):
            return
        if "kept" not in shown or shown["kept"] is not None:
            shown["kept"] = inputs[0].detach().reshape(B, T, H, E).transpose(1, 2)
            shown["weight"] = by_head(module, H, E)

    def done(self, layer: int, output: Any) -> None:
        """After a block: everything about it is known."""
        h_BTC = output[0] if isinstance(output, (tuple, list)) else output
        if not isinstance(h_BTC, Tensor) or h_BTC.dim() != (3 if self.streams is None else 4):
            raise ModelError("its blocks do not give one row of channels a token (a hierarchy of patches, say)")
        crosses, channels = self.samples.part == "cross-attention", h_BTC.shape[-1]
        for shown in self._of_part():
            real_NT, shared = self._real(shown["call"].k_BGTD.shape[2], h_BTC.device)
            kind = CrossView if crosses else AttentionView
            self.measurer.attention(layer, view_of(kind, shown, real_NT, shared, self.samples, channels, self.sharers))
        self._shown.clear()
        if not crosses:
            h_NTC = self.samples.apart(side_by_side(h_BTC.detach(), self.streams))
            self.measurer.block(layer, BlockView(h_NTC, *self._real(h_NTC.shape[1], h_NTC.device)))

    def _of_part(self) -> list[dict[str, Any]]:
        """A decoder that an encoder stands beside attends to itself, then to the encoder."""
        if self.samples.part in (None, "encoder") or not self._shown:
            return self._shown
        if len(self._shown) != 2:
            raise ModelError(f"its decoder's blocks attend {len(self._shown)} times, not to themselves and the encoder")
        return self._shown[1:] if self.samples.part == "cross-attention" else self._shown[:1]

    def _real(self, tokens: int, device: torch.device) -> tuple[Tensor, Known]:
        if (tokens, device) not in self._tokens:
            self._tokens[tokens, device] = self.samples.real(tokens, device), Known()
        return self._tokens[tokens, device]

    def routing(self, layer: int, module: nn.Module, output: Any) -> None:
        """After a router: which experts each token goes to."""
        found = _chosen(module, output)
        if found is None:
            return
        chosen, experts = found
        rows, columns = self.samples.inputs["input_ids"].shape
        if chosen.numel() % (rows * columns) == 0:
            chosen_NTk = self.samples.apart(chosen.view(rows, columns, -1))
            self.measurer.routed(layer, chosen_NTk, experts, self.samples.real(chosen_NTk.shape[1], chosen.device))


def observe(model: PreTrainedModel, samples: Samples, measurer: Measurer) -> dict[str, str]:
    """Run `model` over the samples and tell `measurer` of every layer; returns the choices made, with reasons.

    Raises ModelError for a model whose blocks are not found. A model that never calls transformers' attention
    interface is told of its blocks alone; `observe_maps` reads its attention.
    """
    name = model.config.model_type
    observer = _Observer(samples, measurer=measurer, streams=streams_axis(model))
    answered = nullcontext() if biased(model) else attached(attending_part(model, samples.inputs), observer)
    try:
        with answered, _hooked(model, observer):
            run(model, samples)
    except ModelError as error:
        raise ModelError(f"{name} cannot be measured: {error}") from None
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
        if out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{name} cannot be measured with its attention replaced ({type(error).__name__}: {said})"
        ) from error
    return observer.choices


@torch.no_grad()
def run(model: PreTrainedModel, samples: Samples, **options: Any) -> Any:
    """The model's own forward pass, without its head; returns its output object."""
    if samples.part is not None:
        options |= {} if samples.part == "encoder" else {"use_cache": False}
        return stack_of(model, samples.part)(**samples.inputs, **options)
    if "input_ids" not in samples.inputs:
        return model(**samples.inputs, **options)
    if "pixel_values" in samples.inputs:  # beside text; without the head
        whole = model.base_model(**samples.inputs, use_cache=False, **options)
        return modeling_outputs.BaseModelOutputWithPast(  # as the decoder alone gives it
            last_hidden_state=whole.last_hidden_state, attentions=getattr(whole, "attentions", None)
        )
    inputs = samples.inputs
    if model.can_generate():
        return hidden_states(
            model, inputs["input_ids"], inputs["position_ids"], real_BT=inputs["attention_mask"], **options
        )
    return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **options)


def biased(model: PreTrainedModel) -> bool:
    """Whether its scores have a bias that no handler knows of (T5 and its kin): it attends as it is."""
    return any(hasattr(module, "has_relative_attention_bias") for module in model.modules())


def blocks_of(model: PreTrainedModel, part: Part | None = None) -> nn.ModuleList:
    """The decoder's or encoder's blocks: the first list of modules as long as the config says the model is deep.

    Of an encoder-decoder those of one part.
    """
    if part is None:
        depth, inside = getattr(model.config.get_text_config(), "num_hidden_layers", None), text_modules(model).values()
    else:
        stack = stack_of(model, part)
        depth = _depth(stack.config, "encoder" if part == "encoder" else "decoder")
        inside = (*stack.children(), *stack.modules())  # convolutions in front of a speech model's lie deeper
    for module in inside:
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ModelError(f"no list of {depth} blocks was found in it (layers that share weights, or a hierarchy)")


def _depth(config: PreTrainedConfig, side: str) -> int | None:
    """Of an encoder or a decoder, by the config of its stack."""
    names = (f"{side}_layers", f"{side}_num_hidden_layers", f"num_{side}_layers", "num_layers", "num_hidden_layers")
    return next((depth for name in names if (depth := getattr(config, name, None)) is not None), None)


@contextmanager
def _hooked(model: PreTrainedModel, observer: _Observer) -> Iterator[None]:
    with ExitStack() as hooks:
        for layer, block in enumerate(blocks_of(model, observer.samples.part)):
            for module in block.modules():
                name = type(module).__name__
                if isinstance(module, nn.Linear) or name == "Conv1D":
                    hooks.enter_context(module.register_forward_pre_hook(observer.projecting))
                if "router" in name.lower() or name.endswith("Gating"):
                    hooks.enter_context(
                        module.register_forward_hook(lambda m, _, out, layer=layer: observer.routing(layer, m, out))
                    )
            hooks.enter_context(block.register_forward_hook(lambda _, __, out, layer=layer: observer.done(layer, out)))
        yield


def _of_sink_key(key: SinkKey, sums: AttentionSums) -> Tensor:
    """What a sink key of value v adds to the output: exp(its score − lse) v; nothing where no key is seen."""
    lse_BHT = sums.lse_BHT
    mass_BHT = (key.logit_BHT - lse_BHT).exp().where(lse_BHT.isfinite(), 0.0)
    v_HE = key.v_GE.repeat_interleave(lse_BHT.shape[1] // len(key.v_GE), dim=0)
    return (mass_BHT[..., None] * v_HE[:, None]).to(sums.out_BHTE.dtype)


def _chosen(module: nn.Module, output: Any) -> tuple[Tensor, int] | None:
    """(experts chosen, tokens first; how many there are), from whatever a router returns."""
    tensors = [x for x in (output if isinstance(output, tuple) else (output,)) if isinstance(x, Tensor)]
    experts = max((x.shape[-1] for x in tensors if x.is_floating_point() and x.dim() > 1), default=0)
    whole = next((x for x in tensors if not x.is_floating_point() and x.dim() > 1), None)
    if whole is None:
        count = next(
            (n for name in ("top_k", "num_experts_per_tok") if isinstance(n := getattr(module, name, None), int)), 0
        )
        logits = next((x for x in tensors if x.is_floating_point() and x.dim() > 1), None)
        if logits is None or not 0 < count <= experts:
            return None
        whole = logits.topk(count, dim=-1).indices
    named = next(
        (n for name in ("num_experts", "n_routed_experts") if isinstance(n := getattr(module, name, None), int)), 0
    )
    return whole.flatten(0, -2), max(experts, named, int(whole.max()) + 1)
