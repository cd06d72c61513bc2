"""The position probe: one pass at position 0, one reaching far, and what maps one onto the other in every layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.model.attention import attached, hidden_states, sink_of
from sinkctl.model.carried import check_carried, held
from sinkctl.model.families import known
from sinkctl.model.handler import AttentionCall, Handler
from sinkctl.model.masks import past_keys
from sinkctl.model.parts import device_of, text_modules
from sinkctl.model.positions import Rotation, rotate
from sinkctl.model.recurrent import RecurrentCache, recurrent_cache


class LearnedPositions(ModelError):
    """Positions enter as learned embeddings (GPT-2, OPT)."""


@dataclass(frozen=True, eq=False)
class LayerFacts:
    """One softmax attention layer, as it showed itself."""

    name: str
    heads: int
    kv_heads: int
    width: int  # of queries and keys
    value_width: int
    window: int | None  # past keys it was trained to see, the query itself not counted; None: all
    rotation: Rotation | None
    pinned: bool  # its frequencies are not those of a short text: they change with length (see `lengths`)
    sink_logit: bool
    sink: str | None  # kind of its designed sink, where it has one
    sink_key: bool  # every query sees a key of the layer's own
    weighed: bool  # its weights are no plain softmax
    softcap: float | None
    alibi: bool  # scores fall with distance, by slopes that come with each call
    dtype: torch.dtype  # of keys and values, whatever weights are stored in
    device: torch.device
    module: nn.Module = field(repr=False)

    @property
    def number(self) -> int:
        """Which of the model's layers it is in."""
        return next((int(part) for part in self.name.split(".") if part.isdigit()), 0)

    @property
    def in_blocks(self) -> bool:
        """Whether a single token goes through as a block does: no kernel of decoding has what the layer does."""
        return self.sink_key or self.weighed


@dataclass
class _Recorder(Handler):
    """Records each call and answers with the token's own value, so that layer inputs do not depend on positions."""

    calls: list[AttentionCall] = field(default_factory=list)
    masks: list[Callable] = field(default_factory=list)
    hidden: Tensor | None = None  # after the last layer

    def attend(self, call: AttentionCall) -> Tensor:
        self.calls.append(call)
        return call.v_BGTE.repeat_interleave(call.q_BHTD.shape[1] // call.v_BGTE.shape[1], dim=1)

    def mask(self, mask_function: Callable, tokens: int, device: torch.device) -> Tensor:
        self.masks.append(mask_function)
        # Its value says which mask it is: layers may be handed a copy, on another device.
        return torch.full((1, 1, 1, 1), len(self.masks) - 1, device=device)


@torch.no_grad()
def probe(model: PreTrainedModel, reach: int) -> list[LayerFacts]:
    """Find how every attention layer of `model` uses positions 0 … `reach`.

    Frequencies are those the model uses when it sees position `reach` (dynamic and long-context scalings change them
    with length); its buffers are put back afterwards. Raises ModelError, naming the model, for whatever no single
    rotation explains: learned positions, layers that bypass the attention interface, position-dependent scales.
    Where a stock class ends at some position, the rotation found up to there is taken to go on.
    """
    kind = model.config.model_type
    vocabulary = model.get_input_embeddings().num_embeddings
    ends = [family.farthest(module) for module, family in known(model)]
    reach = min([reach, *(end for end in ends if end is not None)])
    far = torch.tensor([sorted({1, 2, 3, 7, reach // 3, reach // 2, max(reach - 1, 0), reach})])
    ids = torch.randint(1, vocabulary, far.shape, generator=torch.Generator().manual_seed(0))
    other = torch.cat([ids[:, :1] - 1, ids[:, 1:]], dim=1)  # another first token
    with restored(model):
        try:
            for family in {family for _, family in known(model)}:
                family.check(model)
            carried = recurrent_cache(model)
            with held(_carriers(model, carried)):
                zero, apart = _record(model, ids), _record(model, other)
            windows = [past_keys(mask) for mask in zero.masks]
            near = _tables(model)
            _check_calls(model, zero.calls, carried)
            if not getattr(model, "is_loaded_in_8bit", False):  # LLM.int8 takes a channel by all tokens of a block
                _check_tokens_apart(model, zero.calls, apart.calls)
            placed = _record(model, ids, torch.arange(far.shape[1])[None])
            if carried is None:
                _check_not_learned(model, zero.calls, placed.calls)
            else:
                _check_recurrence_unplaced(zero, placed)
            moved = _record(model, ids, far)
        except ModelError as error:
            raise type(error)(f"{kind}: {error}") from None
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
            raise ModelError(
                f"{kind} cannot be run with its attention replaced ({type(error).__name__}: {error})"
            ) from error
        tables = list(zip(near, _tables(model), strict=True))
    names = {id(module): name for name, module in model.named_modules()}
    candidates = {width: list(_candidates(width, tables)) for width in {call.q_BHTD.shape[-1] for call in zero.calls}}
    return [
        _facts(still, turned, names[id(still.module)], candidates, far[0], windows, kind)
        for still, turned in zip(zero.calls, moved.calls, strict=True)
    ]


def _record(
    model: PreTrainedModel, ids: Tensor, positions: Tensor | None = None, past: RecurrentCache | None = None
) -> _Recorder:
    recorder = _Recorder()
    with attached(model, recorder):
        positions = None if positions is None else positions.to(device_of(model))
        recorder.hidden = hidden_states(model, ids.to(device_of(model)), positions, past).last_hidden_state
    return recorder


def _carriers(model: PreTrainedModel, carried: RecurrentCache | None) -> list[nn.Module]:
    """The modules through which tokens may reach each other, as their state is carried between blocks."""
    if carried is None:
        return []
    if not carried.softmax:
        raise ModelError("has no softmax attention, only recurrent layers: it has no KV cache to stream with")
    return check_carried(model, lambda ids, past: _record(model, ids, past=past))


def _tables(model: PreTrainedModel) -> list[Tensor]:
    """Every table of rotary frequencies the model holds now, or its family knows."""
    held = [
        buffer.detach().double().cpu().clone()
        for module in text_modules(model).values()
        for name, buffer in module.named_buffers(recurse=False)
        if "inv_freq" in name and "original" not in name
    ]
    one_a_family = {family: module for module, family in known(model)}
    told = [family.frequencies(module) for family, module in one_a_family.items()]
    return held + [table for table in told if table is not None]


@contextmanager
def restored(model: PreTrainedModel) -> Iterator[None]:
    """Put rotary modules back as they were: scalings that change with length keep what they last saw."""
    owners = [m for m in model.modules() if any("inv_freq" in name for name, _ in m.named_buffers(recurse=False))]
    buffers = [(m, name, b.clone()) for m in owners for name, b in m.named_buffers(recurse=False)]
    plain = [(m, {k: v for k, v in vars(m).items() if not isinstance(v, dict)}) for m in owners]
    try:
        yield
    finally:
        for module, name, value in buffers:
            module.register_buffer(name, value, persistent=name not in module._non_persistent_buffers_set)
        for module, before in plain:
            for name in [name for name, value in vars(module).items() if not isinstance(value, dict)]:
                if name in before:
                    setattr(module, name, before[name])
                else:
                    delattr(module, name)


def _check_tokens_apart(model: PreTrainedModel, calls: list[AttentionCall], others: list[AttentionCall]) -> None:
    """With every token answered by its own value, nothing may pass from one token to the next."""
    for call, other in zip(calls, others, strict=True):
        for one, two in ((call.q_BHTD, other.q_BHTD), (call.k_BGTD, other.k_BGTD), (call.v_BGTE, other.v_BGTE)):
            if _error(one[:, :, 1:], two[:, :, 1:]) > _tolerance(one):
                raise ModelError(
                    "tokens also reach each other outside softmax attention (a recurrent state or a convolution), "
                    "in a way that transformers' cache does not carry between chunks"
                )


def _check_not_learned(model: PreTrainedModel, calls: list[AttentionCall], moved: list[AttentionCall]) -> None:
    if _error(calls[0].v_BGTE, moved[0].v_BGTE) > _tolerance(calls[0].v_BGTE):
        raise LearnedPositions("positions are learned embeddings, which cannot be shifted")


def _check_recurrence_unplaced(zero: _Recorder, placed: _Recorder) -> None:
    """Nothing but the turn of queries and keys may come from positions: recurrent layers would need true ones."""
    values = [(one.v_BGTE, two.v_BGTE) for one, two in zip(zero.calls, placed.calls, strict=True)]
    if any(_error(one, two) > _tolerance(one) for one, two in [*values, (zero.hidden, placed.hidden)]):
        raise ModelError("positions act outside softmax attention (in recurrent layers, say); this is not supported")


def _tolerance(x: Tensor) -> float:
    return 3e-2 if x.dtype in (torch.float16, torch.bfloat16) else 2e-3


def _check_calls(model: PreTrainedModel, calls: list[AttentionCall], carried: RecurrentCache | None) -> None:
    layers = model.config.get_text_config().num_hidden_layers if carried is None else len(carried.softmax)
    if not calls:
        raise ModelError(
            "never calls transformers' attention interface (its attention is its own, or it has none), "
            "so its cache cannot be streamed; no adapter for it exists yet"
        )
    if len({id(call.module) for call in calls}) < len(calls) or len(calls) > layers:
        raise ModelError("attends more than once a layer (a difference of two softmaxes, say); this is not supported")
    if len(calls) != layers:
        raise ModelError(f"{layers - len(calls)} of {layers} layers do not call transformers' attention interface")
    if any(getattr(sink_of(call.module), "kind", None) == "score_bias" for call in calls):
        raise ModelError(
            "score_bias acts on the first token, which a stream leaves behind; use --policy recompute, or another sink"
        )


def _facts(zero, moved, name, candidates, far_T, windows, kind) -> LayerFacts:
    pairs = [(zero.q_BHTD, moved.q_BHTD), (zero.k_BGTD, moved.k_BGTD)]
    for rotation, pinned in candidates[zero.q_BHTD.shape[-1]]:  # layers that turn alike share one Rotation
        table = rotation and _stock_table(rotation, far_T, zero.q_BHTD)
        if all(_error(rotate(still, rotation, table), turned) < _tolerance(still) for still, turned in pairs):
            found = rotation, pinned
            break
    else:
        raise ModelError(
            f"{kind}: no rotation explains how {name} uses positions up to {int(far_T[-1])} "
            "(a scale by position, or an unknown position encoding)"
        )
    mask = None if zero.mask is None else int(zero.mask.flatten()[0])
    if mask is not None and not 0 <= mask < len(windows):
        raise ModelError(f"{kind}: {name} changes its attention mask in a way that is not understood")
    return LayerFacts(
        name=name,
        heads=zero.q_BHTD.shape[1],
        kv_heads=zero.k_BGTD.shape[1],
        width=zero.q_BHTD.shape[-1],
        value_width=zero.v_BGTE.shape[-1],
        window=None if mask is None else windows[mask],
        rotation=found[0],
        pinned=found[1],
        sink_logit=zero.sink_logit_H is not None,
        sink=getattr(sink_of(zero.module), "kind", None),
        sink_key=zero.sink_key is not None,
        weighed=zero.weigh is not None,
        softcap=zero.softcap,
        alibi=zero.slope_H is not None,
        dtype=zero.k_BGTD.dtype,
        device=zero.k_BGTD.device,
        module=zero.module,
    )


def _candidates(width: int, tables: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[Rotation | None, bool]]:
    """(rotation, whether its frequencies moved with length), the likeliest first."""
    yield None, False
    for near, far in tables:
        moved = not torch.equal(near, far)
        # A class may keep other frequencies than it turns by (Phi-3.5-MoE).
        for table, pinned in ((far, moved), (near, False)) if moved else ((far, False),):
            for start in sorted({0, width - 2 * len(table)}):
                if 0 <= start <= width - 2 * len(table):
                    for frequencies in (table, -table):
                        yield Rotation("half", start, frequencies), pinned
                        yield Rotation("interleaved", start, frequencies), pinned


def _stock_table(rotation: Rotation, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """With float32 angles, as the stock classes compute them; far out these are not the true ones."""
    angle_Tn = (positions.float()[:, None] * rotation.inv_freq_n.float()).to(like.device)
    dtype = torch.promote_types(like.dtype, torch.float32)
    return angle_Tn.cos().to(dtype), angle_Tn.sin().to(dtype)


def _error(found: Tensor, expected: Tensor) -> float:
    """Largest error of a row, relative to the row's length."""
    found, expected = found.double(), expected.double()
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)).max())
