"""Views over samples made by hand, and their attention maps by torch's softmax.

N samples, H query heads, G key/value heads, T queries, S keys, D query/key width, E value width, C channels.
"""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sinkctl.kernels.column_sums.reference import Visible, column_sums
from sinkctl.metrics.views import AttentionView, BlockView

H, G, D, E, C = 4, 2, 8, 6, 12


def real(lengths) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def attention_view(q_NHTD, k_NGTD, v_NGTE, lengths=None, *, visible=Visible(), scale=1.0, **extra) -> AttentionView:
    real_NT = real(lengths or [q_NHTD.shape[2]] * len(q_NHTD))
    options = {name: extra[name] for name in ("softcap", "sink_logit_H", "slope_H") if name in extra}
    inside = Visible(visible.causal, visible.window, real_NT.long(), visible.also)
    sums = column_sums(q_NHTD, k_NGTD, v_NGTE, scale=scale, visible=inside, **options)
    return AttentionView(q_NHTD, k_NGTD, v_NGTE, sums, real_NT, visible, scale, **extra)


def random_view(lengths=(9, 17), dtype=torch.float64, **extra) -> AttentionView:
    """Samples drawn one by one, so that each is the same alone as beside another."""
    parts = []
    for n, length in enumerate(lengths):
        draw = torch.Generator().manual_seed(n)
        parts.append([torch.randn(length, *s, generator=draw).double() for s in ((H, D), (G, D), (G, E))])
    q, k, v = (pad_sequence(list(x), batch_first=True).transpose(1, 2).to(dtype) for x in zip(*parts, strict=True))
    projection_CHE = torch.randn(C, H, E, generator=torch.Generator().manual_seed(99)).to(dtype)
    return attention_view(q, k, v, lengths, scale=0.7, **{"projection_CHE": projection_CHE, **extra})


def planted_view(scores, T, lengths=None, value=1.0, **extra) -> AttentionView:
    """Heads whose queries score the first key as given and all others 0; all values the same."""
    lengths = lengths or [T]
    k_NHTD = torch.zeros(len(lengths), len(scores), T, 1, dtype=torch.float64)
    k_NHTD[:, :, 0, 0] = torch.tensor(scores, dtype=torch.float64)
    return attention_view(torch.ones_like(k_NHTD), k_NHTD, torch.full_like(k_NHTD, value), lengths, **extra)


def attention_map(view: AttentionView, n: int) -> Tensor:
    """The attention map of a sample, the sink logit its last column if there is one: [H, T, S or S + 1]."""
    length = int(view.length_N[n])
    groups = view.q_NHTD.shape[1] // view.k_NGTD.shape[1]
    q_HTD, k_HSD = view.q_NHTD[n, :, :length], view.k_NGTD[n, :, :length].repeat_interleave(groups, 0)
    score_HTS = torch.einsum("htd,hsd->hts", q_HTD, k_HSD) * view.scale
    if view.softcap:
        score_HTS = view.softcap * torch.tanh(score_HTS / view.softcap)
    for t in range(length):
        for s in range(length):
            if view.slope_H is not None:
                score_HTS[:, t, s] -= view.slope_H * abs(t - s)
            if not sees(view.visible, t, s):
                score_HTS[:, t, s] = -torch.inf
    if view.sink_logit_H is not None:
        score_HTS = torch.cat([score_HTS, view.sink_logit_H[:, None, None].expand(-1, length, 1)], dim=-1)
    return score_HTS.softmax(-1)


def sees(visible: Visible, t: int, s: int) -> bool:
    near = visible.window is None or abs(t - s) <= visible.window
    also = visible.also is None or bool(visible.also(torch.tensor([[t]]), torch.tensor([s])))
    return near and also and (s <= t or not visible.causal)


def block_view(lengths=(9, 17), dtype=torch.float64) -> BlockView:
    draws = [torch.Generator().manual_seed(n) for n in range(len(lengths))]
    samples = [torch.randn(n, C, generator=d, dtype=torch.float64) for n, d in zip(lengths, draws, strict=True)]
    return BlockView(pad_sequence(samples, batch_first=True).to(dtype), real(lengths))
