"""Which parameters learn how fast."""

from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sinkctl.model.undocumented import warmed_cosine
from sinkctl.recipe.training import TrainingSettings

NUMBERS_LR = 0.01  # of one number a head, which must travel far in few steps


def optimizers(
    settings: TrainingSettings, new: Iterable[nn.Parameter], rest: dict[str, nn.Parameter], inner: set[str], fused: bool
) -> list[Optimizer]:
    """Optimizers over the mechanism's parameters (`new`, never decayed) and the others that are trained.

    Weight decay is for matrices alone. With `muon`, the matrices in `inner` (names of `rest`) are Muon's, scaled so
    that `lr` means what it means to AdamW.
    """
    groups = [
        {"params": [p], "lr": _sink_lr(settings, p), "weight_decay": 0.0} for p in new
    ]  # one each: 1-D and 2-D parameters learn at different rates
    muon = {name for name in rest if settings.optimizer == "muon" and name in inner and rest[name].dim() == 2}
    matrices = [p for name, p in rest.items() if p.dim() >= 2 and name not in muon]
    others = [p for p in rest.values() if p.dim() < 2]
    groups += [{"params": matrices, "weight_decay": settings.weight_decay}] if matrices else []
    groups += [{"params": others, "weight_decay": 0.0}] if others else []
    made = []
    if groups:
        made.append(AdamW(groups, lr=settings.lr, betas=settings.betas, fused=fused))
    if muon:
        made.append(
            Muon(
                [rest[name] for name in sorted(muon)], lr=settings.lr, weight_decay=settings.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )  # fmt: skip
    return made


def _sink_lr(settings: TrainingSettings, parameter: nn.Parameter) -> float:
    if settings.sink_lr != "auto":
        return settings.sink_lr
    return max(settings.lr, NUMBERS_LR) if parameter.dim() == 1 else settings.lr


def schedule(optimizer: Optimizer, settings: TrainingSettings, steps: int) -> LRScheduler:
    """Linear to the full rate, which step `warmup` has, then a cosine to `final_lr` of it, which the last step has."""
    warmup = max(1, steps // 20) if settings.warmup == "auto" else settings.warmup
    return warmed_cosine(optimizer, warmup, steps, settings.final_lr)
