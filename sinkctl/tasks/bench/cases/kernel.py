"""One operator alone: what `select` picks, every other implementation that runs here, and torch's own attention.

Shapes: B batch (1), H query heads, G key/value heads, T tokens, S the same as keys, D head width,
n rotated pairs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sinkctl.errors import UsageError
from sinkctl.kernels import column_sums, decode_attention, rotate, sink_attention, stream_attention
from sinkctl.kernels.column_sums import Visible
from sinkctl.kernels.decode_attention import Ring, Turn
from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.present import cudnn_graphs_run, fa3_runs, triton_runs
from sinkctl.kernels.stream_attention import Strip
from sinkctl.recipe.bench import KernelCase
from sinkctl.recipe.sizes import Size
from sinkctl.result.bench import OURS, Work
from sinkctl.tasks.bench.costs import visible
from sinkctl.tasks.bench.subject import Subject
from sinkctl.tasks.bench.way import Group, Way

STOCK = "stock"
CACHES, MOST_COPIES = 1 << 28, 64  # bytes: more than last-level caches hold
MOST = 2 << 30  # bytes of a float32 T×T map of every head; past that the references are left out
HALF = (torch.float16, torch.bfloat16)
# Floating-point operations a visible pair and a head's width: two a product. QKᵀ and PV; and QKᵀ again over columns;
# and five products backward, of which one is QKᵀ again.
FORWARD, SUMS, TRAINING = 4, 6, 14


def group(case: KernelCase, subject: Subject, size: Size) -> Group:
    """UsageError for an implementation that there is none of, and for heads that do not share key/value heads."""
    if case.heads % case.kv_heads:
        raise UsageError(f"{case.label}: {case.heads} heads cannot share {case.kv_heads} kv_heads equally")
    draw = Draw(subject.device, subject.dtype, subject.recipe.timing.seed)
    operator = OPERATORS[case.op](case, draw, int(size["tokens"]))
    cold = max(1, min(MOST_COPIES, math.ceil(CACHES / (operator.work.bytes or operator.work.read or CACHES))))
    copies = [operator, *(OPERATORS[case.op](case, draw, int(size["tokens"])) for _ in range(cold - 1))]
    unknown = [name for name in case.implementations if name not in operator.implementations]
    if unknown:
        known = ", ".join(operator.implementations)
        raise UsageError(f"{case.label}: {case.op} has no implementation {unknown[0]}; one of {known}")
    ways = {OURS: Way(_in_turn(copies, operator.selected), operator.work)}
    choices = {case.op: f"{operator.selected.name}: {operator.reason}"}
    if cold > 1:
        choices[f"{case.op} inputs"] = f"{cold} copies in turn: what is bound by memory is not read from caches"
    for name, implementation in operator.implementations.items():
        if name == operator.selected.name or (case.implementations and name not in case.implementations):
            continue
        missing = _missing(case.op, name, draw) or operator.too_large(name)
        if missing is None:
            ways[name] = Way(_in_turn(copies, implementation), operator.work)
        else:
            choices[f"{case.op}.{name}"] = f"left out: {missing}"
    if operator.stock is not None:
        stocks = cycle([copy.stock.run for copy in copies])
        ways[STOCK] = replace(operator.stock, run=lambda: next(stocks)())
    return Group("ms", ways, None if operator.stock is None else STOCK, choices=choices)


def _in_turn(copies: "list[Operator]", implementation: Implementation) -> Callable[[], Any]:
    runs = cycle([partial(copy.run, implementation) for copy in copies])
    return lambda: next(runs)()


@dataclass(frozen=True)
class Operator:
    """An operator and what it is given."""

    run: Callable[[Implementation], Any]
    implementations: dict[str, Implementation]
    choice: tuple[Implementation, str]  # what `select` says
    work: Work
    stock: Way | None = None  # torch's attention over the same keys
    map_bytes: float = 0  # of the scores that a reference builds

    @property
    def selected(self) -> Implementation:
        return self.choice[0]

    @property
    def reason(self) -> str:
        return self.choice[1]

    def too_large(self, name: str) -> str | None:
        if name != "reference" or self.map_bytes <= MOST:
            return None
        return f"its T×T map takes {self.map_bytes / 2**30:.0f} GiB"


@dataclass
class Draw:
    """Draws inputs, with one seed for all of them."""

    device: torch.device
    dtype: torch.dtype
    seed: int

    def __post_init__(self) -> None:
        self._generator = torch.Generator(self.device).manual_seed(self.seed)

    def __call__(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self.device, dtype=dtype or self.dtype)

    def rows(self, heads: int, tokens: int, width: int) -> Tensor:
        """[1, heads, tokens, width], as projections lay them out."""
        return self(1, tokens, heads, width).transpose(1, 2)

    def qkv(self, case: KernelCase, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        q_BHTD, k_BGTD, v_BGTD = (self.rows(n, tokens, case.width) for n in (case.heads, case.kv_heads, case.kv_heads))
        return q_BHTD, k_BGTD, v_BGTD

    @property
    def wide(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)


def _stream_attention(case: KernelCase, draw: Draw, tokens: int) -> Operator:
    """A chunk at the beginning of a stream: as many keys as queries, and the sinks, which every query sees."""
    q_BHTD, k_BGTD, v_BGTD = draw.qkv(case, tokens)
    strip = None
    if case.sinks:
        faced_BHTD = draw.rows(case.heads, tokens, case.width)
        strip = Strip(faced_BHTD, *(draw(1, case.kv_heads, case.sinks, case.width) for _ in range(2)))
    options = dict(scale=case.width**-0.5, window=case.window, strip=strip)
    pairs = tokens * (visible(tokens, case.window) + case.sinks)
    return Operator(
        lambda implementation: implementation(q_BHTD, k_BGTD, v_BGTD, **options),
        _by_softmax(stream_attention.IMPLEMENTATIONS),
        stream_attention.select(q_BHTD, v_BGTD),
        _work(case, FORWARD, pairs),
        Way(
            _sdpa(q_BHTD, k_BGTD, v_BGTD, is_causal=True),
            _causal_work(case, FORWARD, tokens),
            other=_other(case, tokens),
        ),
        _map_bytes(case, tokens),
    )


def _column_sums(case: KernelCase, draw: Draw, tokens: int) -> Operator:
    qkv, seen = draw.qkv(case, tokens), Visible(window=case.window)
    options = dict(scale=case.width**-0.5, visible=seen)
    return Operator(
        lambda implementation: implementation(*qkv, **options),
        _by_softmax(column_sums.IMPLEMENTATIONS),
        column_sums.select(qkv[0], qkv[2], seen),
        _work(case, SUMS, tokens * visible(tokens, case.window)),
        Way(_sdpa(*qkv, is_causal=True), _causal_work(case, FORWARD, tokens), other="attention alone, no sums"),
        _map_bytes(case, tokens),
    )


def _sink_attention(case: KernelCase, draw: Draw, tokens: int) -> Operator:
    """Forward and backward, with a logit a head."""
    qkv = [x.requires_grad_() for x in draw.qkv(case, tokens)]
    grad_BHTD = draw.rows(case.heads, tokens, case.width)
    logit_H = draw(case.heads, dtype=draw.wide).requires_grad_()
    options, stock = dict(scale=case.width**-0.5, window=case.window), _sdpa(*qkv, is_causal=True)
    return Operator(
        lambda implementation: _with_gradients(
            lambda: implementation(*qkv, logit_H, **options), [*qkv, logit_H], grad_BHTD
        ),
        sink_attention.IMPLEMENTATIONS,
        sink_attention.select(qkv[0], window=case.window),
        _work(case, TRAINING, tokens * visible(tokens, case.window)),
        Way(
            lambda: _with_gradients(stock, qkv, grad_BHTD),
            _causal_work(case, TRAINING, tokens),
            other=_other(case, tokens),
        ),
        _map_bytes(case, tokens),
    )


def _decode_attention(case: KernelCase, draw: Draw, tokens: int) -> Operator:
    """A token of one stream whose ring, of `tokens` slots, is full."""
    G, D = case.kv_heads, case.width
    ring = Ring(*(draw(1, G, slots, D) for slots in (tokens, tokens, case.sinks, case.sinks)))
    q_BHD, k_BGD, v_BGD = (draw(1, heads, D) for heads in (case.heads, G, G))
    t_B = torch.tensor([case.sinks + 2 * tokens], device=draw.device)
    # At a position far out; the query meets its sinks un-rotated then.
    angles = (draw(1, D // 2, dtype=draw.wide), torch.zeros(1, D // 2, dtype=draw.wide, device=draw.device))
    turn = Turn(*(table(angle) for angle in angles for table in (torch.cos, torch.sin)), start=0, interleaved=False)
    options = dict(turn=turn, scale=D**-0.5, full=True)
    ends = 2 * case.heads * D  # the query and the output
    itemsize = draw.dtype.itemsize
    return Operator(
        lambda implementation: implementation(q_BHD, k_BGD, v_BGD, ring, t_B, **options),
        decode_attention.IMPLEMENTATIONS,
        decode_attention.select(ring, D),
        Work(read=itemsize * (2 * G * D * (tokens + case.sinks) + ends)),
        Way(_sdpa(q_BHD[:, :, None], *ring[:2]), Work(read=itemsize * (2 * G * D * tokens + ends))),
    )


def _rotate(case: KernelCase, draw: Draw, tokens: int) -> Operator:
    x_BHTD, angle_Tn = draw.rows(case.heads, tokens, case.width), draw(tokens, case.width // 2, dtype=draw.wide)
    tables = angle_Tn.cos(), angle_Tn.sin()
    kernel, reason = rotate.select(x_BHTD)
    found = {
        name: Implementation(name, run) for name, run in (("reference", rotate.rotate), ("triton", _triton_rotate))
    }
    return Operator(
        lambda implementation: implementation(x_BHTD, *tables, start=0, interleaved=False),
        found,
        (found["reference" if kernel is rotate.rotate else "triton"], reason),
        Work(bytes=2 * x_BHTD.nbytes + sum(table.nbytes for table in tables)),
    )


OPERATORS: dict[str, Callable[[KernelCase, Draw, int], Operator]] = {
    "stream_attention": _stream_attention,
    "decode_attention": _decode_attention,
    "column_sums": _column_sums,
    "sink_attention": _sink_attention,
    "rotate": _rotate,
}


def _triton_rotate(*args, **kwargs) -> Tensor:
    from sinkctl.kernels.rotate.triton import rotate

    return rotate(*args, **kwargs)


def _by_softmax(implementations: dict[str, Implementation]) -> dict[str, Implementation]:
    """With a plain softmax for the implementation that asks for its weights."""
    weighed = implementations["weighed"]
    return implementations | {"weighed": replace(weighed, run=partial(weighed.run, weigh=_softmax))}


def _softmax(score_BHTS: Tensor, seen: Tensor) -> Tensor:
    return score_BHTS.masked_fill(~seen, -torch.inf).softmax(-1)


def _sdpa(q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, is_causal: bool = False) -> Callable[[], Tensor]:
    return partial(
        F.scaled_dot_product_attention, q_BHTD, k_BGTD, v_BGTD, is_causal=is_causal,
        enable_gqa=q_BHTD.shape[1] != k_BGTD.shape[1],
    )  # fmt: skip


def _with_gradients(attend: Callable[[], Tensor], leaves: Sequence[Tensor], grad_BHTD: Tensor) -> tuple[Tensor, ...]:
    """(the output, the gradient of each leaf)."""
    out_BHTD = attend()
    return out_BHTD.detach(), *torch.autograd.grad(out_BHTD, leaves, grad_BHTD)


def _work(case: KernelCase, products: int, pairs: float) -> Work:
    return Work(flops=products * case.heads * case.width * pairs)


def _causal_work(case: KernelCase, products: int, tokens: int) -> Work:
    """Of torch's attention, which sees all of the past."""
    return _work(case, products, tokens * visible(tokens, None))


def _other(case: KernelCase, tokens: int) -> str | None:
    return None if case.window is None or case.window >= tokens - 1 else "it sees all of the past"


def _map_bytes(case: KernelCase, tokens: int) -> float:
    return 4 * case.heads * tokens * tokens


def _missing(op: str, name: str, draw: Draw) -> str | None:
    """What an implementation asks for that is not here, as far as `select` knows; a call tells the rest."""
    if name == "tiled_cpu_flash":
        return None if draw.device.type == "cpu" else "an operator for CPUs"
    if name not in ("triton", "flex", "cuda_flash", "cudnn", "cudnn_window", "fa3"):
        return None
    if draw.device.type != "cuda":
        return "no kernel without a CUDA device"
    asks = {"fa3": fa3_runs, "cudnn_window": cudnn_graphs_run}.get(name, triton_runs)
    runs, reason = asks()
    if not runs and name not in ("cuda_flash", "cudnn"):
        return reason
    wide = op in ("decode_attention", "rotate")
    return None if wide or draw.dtype in HALF else f"no kernel in {draw.dtype}"
