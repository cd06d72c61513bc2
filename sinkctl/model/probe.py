"""The position probe: one pass at position 0, one reaching far, and what maps one onto the other in every layer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.model.attention import AttentionCall, Handler, attached, hidden_states
from sinkctl.model.positions import Rotation, rotate

# Farther than any trained window; beyond it a window counts as none.
FAR = 1 << 20


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
    sink_logit: bool
    softcap: float | None
    module: nn.Module = field(repr=False)


@dataclass
class _Recorder(Handler):
    """Records each call and answers with the token's own value, so that layer inputs do not depend on positions."""

    calls: list[AttentionCall] = field(default_factory=list)
    masks: list[tuple[Tensor, int | None]] = field(default_factory=list)  # kept alive: each address means one mask

    def attend(self, call: AttentionCall) -> Tensor:
        self.calls.append(call)
        return call.v_BGTE.repeat_interleave(call.q_BHTD.shape[1] // call.v_BGTE.shape[1], dim=1)

    def mask(self, mask_function: Callable, device: torch.device) -> Tensor:
        token = super().mask(mask_function, device)
        self.masks.append((token, past_keys(mask_function)))
        return token


def past_keys(mask_function: Callable) -> int | None:
    """How many past keys a transformers mask lets a far query see; None for all of them."""
    widths = set()
    for query in (1 << 24, (1 << 24) + 12_345):
        distance = torch.arange(FAR)
        visible = mask_function(0, 0, torch.tensor(query), query - distance).expand(FAR)
        width = FAR if bool(visible.all()) else int(visible.logical_not().int().argmax())
        if bool(visible[width:].any()):
            raise ModelError("an attention mask of this model is no plain window")
        widths.add(width)
    if len(widths) > 1:
        raise ModelError("this model attends within fixed chunks of its input, not within a window")
    width = widths.pop()
    return None if width == FAR else width - 1


@torch.inference_mode()
def probe(model: PreTrainedModel, reach: int) -> list[LayerFacts]:
    """Find how every attention layer of `model` uses positions 0 … `reach`.

    Frequencies are those the model uses when it sees position `reach` (dynamic and long-context scalings change them
    with length); its buffers are put back afterwards. Raises ModelError, naming the model, for whatever no single
    rotation explains: learned positions, layers that bypass the attention interface, position-dependent scales.
    """
    kind = model.config.model_type
    vocabulary = model.get_input_embeddings().num_embeddings
    far = torch.tensor([sorted({1, 2, 3, 7, reach // 3, reach // 2, max(reach - 1, 0), reach})])
    ids = torch.randint(0, vocabulary, far.shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if "inv_freq" in name}
    try:
        at_zero, at_far = _Recorder(), _Recorder()
        with attached(model, at_zero):
            hidden_states(model, ids)
        with attached(model, at_far):
            hidden_states(model, ids, far.to(model.device))
        tables = [
            b.detach().double().cpu() for n, b in model.named_buffers() if "inv_freq" in n and "original" not in n
        ]
    except ModelError as error:
        raise ModelError(f"{kind}: {error}") from None
    except IndexError as error:
        raise LearnedPositions(
            f"{kind} knows no position {reach}: it encodes positions as learned embeddings"
        ) from error
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise ModelError(
            f"{kind} cannot be run with its attention replaced ({type(error).__name__}: {error})"
        ) from error
    finally:
        for name, buffer in model.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])
    _check_calls(model, at_zero.calls)
    windows = {token.data_ptr(): window for token, window in at_zero.masks}
    names = {id(module): name for name, module in model.named_modules()}
    return [
        _facts(zero, moved, names[id(zero.module)], tables, far[0], windows, kind)
        for zero, moved in zip(at_zero.calls, at_far.calls, strict=True)
    ]


def _check_calls(model: PreTrainedModel, calls: list[AttentionCall]) -> None:
    kind, layers = model.config.model_type, model.config.get_text_config().num_hidden_layers
    if not calls:
        raise ModelError(
            f"{kind} never calls transformers' attention interface (its attention is its own, or it has none), "
            "so its cache cannot be streamed; no adapter for it exists yet"
        )
    if len({id(call.module) for call in calls}) < len(calls):
        raise ModelError(
            f"{kind} attends more than once a layer (a difference of two softmaxes); this is not supported"
        )
    if len(calls) != layers:
        raise ModelError(
            f"{kind}: {layers - len(calls)} of {layers} layers are not softmax attention (a recurrent state, which is "
            "not carried between chunks yet)"
        )


def _facts(zero, moved, name, tables, far_T, windows, kind) -> LayerFacts:
    if not torch.equal(zero.v_BGTE, moved.v_BGTE):
        raise LearnedPositions(f"{kind} encodes positions as learned embeddings, which cannot be shifted")
    dtype_error = 3e-2 if zero.q_BHTD.dtype in (torch.float16, torch.bfloat16) else 2e-3
    for rotation in _candidates(zero.q_BHTD.shape[-1], tables):
        table = rotation and rotation.table(far_T, zero.q_BHTD)
        pairs = [(zero.q_BHTD, moved.q_BHTD), (zero.k_BGTD, moved.k_BGTD)]
        if all(_error(rotate(still, rotation, table), turned) < dtype_error for still, turned in pairs):
            break
    else:
        raise ModelError(
            f"{kind}: no rotation explains how {name} uses positions up to {int(far_T[-1])} "
            "(a scale by position, or an unknown position encoding)"
        )
    if zero.mask is not None and zero.mask.data_ptr() not in windows:
        raise ModelError(f"{kind}: {name} changes its attention mask in a way that is not understood")
    return LayerFacts(
        name=name,
        heads=zero.q_BHTD.shape[1],
        kv_heads=zero.k_BGTD.shape[1],
        width=zero.q_BHTD.shape[-1],
        value_width=zero.v_BGTE.shape[-1],
        window=None if zero.mask is None else windows[zero.mask.data_ptr()],
        rotation=rotation,
        sink_logit=zero.sink_logit_H is not None,
        softcap=zero.softcap,
        module=zero.module,
    )


def _candidates(width: int, tables: list[Tensor]) -> Iterator[Rotation | None]:
    yield None
    for table in tables:
        for start in sorted({0, width - 2 * len(table)}):
            if start >= 0:
                yield Rotation("half", start, table)
                yield Rotation("interleaved", start, table)


def _error(found: Tensor, expected: Tensor) -> float:
    """Largest error of a row, relative to the row's length."""
    found, expected = found.double(), expected.double()
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)).max())
