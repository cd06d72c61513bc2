"""What registers change, on images: outliers, smoothness, where [CLS] looks, how far features move.

Shapes: T tokens, P patches, C channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel

from sinkctl.metrics.patch_maps import PatchMaps, patch_maps, smoothness
from sinkctl.model.kinds import leading_tokens
from sinkctl.result.registers import RegisterLine
from sinkctl.tasks.convert.registers.probe import Digits, told_apart
from sinkctl.tasks.measure.images import patch_columns


@dataclass
class Shown:
    """Of one image: what is compared with the same of another checkpoint."""

    norm_P: Tensor
    register_N: Tensor
    cls_P: Tensor | None
    cls_register: float | None
    feature_PC: Tensor
    cls_C: Tensor
    logits_C: Tensor | None
    smooth: float


def shown(model: PreTrainedModel, image: Tensor) -> Shown:
    """One pass over an image [C, H, W]."""
    maps, first = patch_maps(model, image[None]), len(leading_tokens(model))
    outside = maps.last_BTC.shape[1] == maps.norm_LBT.shape[2] - (first - 1)  # registers that the features leave out
    feature_PC = maps.last_BTC[0, 1 if outside else first :].float().cpu()
    return Shown(
        norm_P=maps.norm_LBT[-1, 0, first:].cpu(),
        register_N=maps.norm_LBT[-1, 0, 1:first].cpu(),
        cls_P=_looked(maps, first),
        cls_register=None if maps.cls_LBHS is None else float(maps.cls_LBHS[-1, 0, :, 1:first].sum(-1).mean()),
        feature_PC=feature_PC,
        cls_C=maps.last_BTC[0, 0].float().cpu(),
        logits_C=maps.output.logits[0].float().cpu() if "logits" in maps.output else None,
        smooth=float(smoothness(feature_PC[None], patch_columns(model, image))),
    )


def _looked(maps: PatchMaps, first: int) -> Tensor | None:
    return None if maps.cls_LBHS is None else maps.cls_LBHS[-1, 0, :, first:].mean(0).cpu()


def judged(
    checkpoint: str, model: PreTrainedModel, images: Sequence[Tensor], threshold: float,
    originals: list[Shown] | None, told: Callable[[float], None], asked: Digits | None = None,
) -> tuple[RegisterLine, list[Shown]]:  # fmt: skip
    """A line of the table, and what it is from; `originals` are those of the original, None for its own line."""
    each, last = [], 1.0 if asked is None else 0.3
    for number, image in enumerate(images):
        each.append(shown(model, image))
        told(last * (number + 1) / len(images))
    base = each if originals is None else originals
    outlying = [one.norm_P > threshold for one in base]
    norm_X = torch.cat([one.norm_P for one in each])
    looks = all(one.cls_P is not None for one in each)
    found = dict(cosine=None, cosine_outliers=None, cosine_cls=None, kl=None)
    if originals is not None:
        cosine_X = torch.cat([_cosine(a.feature_PC, b.feature_PC) for a, b in zip(base, each, strict=True)])
        at_X = torch.cat(outlying)
        found = dict(
            cosine=_mean(cosine_X[~at_X]),
            cosine_outliers=_mean(cosine_X[at_X]),
            cosine_cls=_mean(torch.stack([_cosine(a.cls_C, b.cls_C) for a, b in zip(base, each, strict=True)])),
            kl=_mean(torch.stack([_kl(a, b) for a, b in zip(base, each, strict=True)])),
        )
    registers_X = torch.cat([one.register_N for one in each])
    line = RegisterLine(
        checkpoint=checkpoint,
        outliers=int((norm_X > threshold).sum()),
        outlier_percent=100 * float((norm_X > threshold).double().mean()),
        patch_max=float(norm_X.max()),
        patch_median=float(norm_X.median()),
        register_norm=_mean(registers_X),
        smoothness=sum(one.smooth for one in each) / len(each),
        cls_outliers=_mean(torch.stack([one.cls_P[at].sum() for one, at in zip(each, outlying, strict=True)]))
        if looks
        else None,
        cls_registers=sum(one.cls_register for one in each) / len(each) if looks and len(registers_X) else None,
        cls_max=_mean(torch.stack([one.cls_P.max() for one in each])) if looks else None,
        **found,
        **told_apart(model, asked, lambda share: told(last + (1 - last) * share)),
    )
    return line, each


def _mean(x: Tensor) -> float | None:
    return float(x.double().mean()) if len(x) else None


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return cosine_similarity(a, b, dim=-1)


def _kl(a: Shown, b: Shown) -> Tensor:
    """Of classes where there is a classifier, else of the softmax over channels, a mean over patches; nats."""
    pair = (a.feature_PC, b.feature_PC) if a.logits_C is None else (a.logits_C[None], b.logits_C[None])
    log_p, log_q = (x.double().log_softmax(-1) for x in pair)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()
