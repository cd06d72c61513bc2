"""Learnable registers, trained so that patch features stay the original's, without its outliers.

Shapes: B images, P patches of R rows and W columns, C channels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.metrics.patch_maps import patch_maps
from sinkctl.model.kinds import leading_tokens
from sinkctl.recipe.training import TrainingSettings
from sinkctl.tasks.convert.registers.build import LEFT_OUT, check_own
from sinkctl.tasks.convert.training.optimizers import optimizers, schedule
from sinkctl.tasks.measure.images import patch_columns

INIT = 0.02  # standard deviation of registers at the beginning, as of other tokens
LR, ALONE = 2e-5, 1e-3  # where `training.lr` is auto: of every weight; of registers alone


class Target(NamedTuple):
    """What an image's features are to be."""

    image: Tensor
    patch_PC: Tensor
    cls_C: Tensor
    known_P: Tensor  # False: an outlier in every view, which teaches nothing


def check_stock(model: PreTrainedModel, name: str) -> None:
    """ModelError for a model that no stock class with registers is there for."""
    check_own(model, name)
    if model.config.model_type != "dinov2" or type(model).__name__ != "Dinov2Model":
        raise ModelError(
            f"{name} ({type(model).__name__}) cannot be given registers: transformers has a class with registers for "
            "Dinov2Model; --to test_time_registers takes ViT and classifiers too"
        )


def with_registers(model: PreTrainedModel, count: int, seed: int) -> PreTrainedModel:
    """A copy of a DINOv2 in the stock class, with `count` random registers."""
    kept = {key: value for key, value in model.config.to_dict().items() if key not in LEFT_OUT}
    built = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**kept, num_register_tokens=count))
    tokens = INIT * torch.randn(1, count, model.config.hidden_size, generator=torch.Generator().manual_seed(seed))
    weights = model.state_dict() | {"embeddings.register_tokens": tokens}
    built.load_state_dict(weights, strict="embeddings.mask_token" in weights)
    return built.to(model.device, model.dtype).eval()


@torch.no_grad()
def targets(
    model: PreTrainedModel, images: Sequence[Tensor], views: int, threshold: float, told: Callable[[float], None]
) -> list[Target]:
    """Features of each image [C, H, W], means over views rolled by whole patches; outliers of a view are left out."""
    found = []
    size, first = model.config.patch_size, len(leading_tokens(model))
    for number, image in enumerate(images):
        columns, total, seen, cls = patch_columns(model, image), 0.0, 0.0, 0.0
        rows = image.shape[1] // size
        for view in range(views):
            down, across = (view * rows // views), (view * columns // views)
            maps = patch_maps(model, image.roll((down * size, across * size), (1, 2))[None])
            norm_RW1 = maps.norm_LBT[-1, 0, first:].unflatten(0, (-1, columns))[..., None]
            keep_RW1 = (norm_RW1 <= threshold).float()
            feature_RWC = maps.last_BTC[0, first:].float().unflatten(0, (-1, columns)) * keep_RW1
            total = total + feature_RWC.roll((-down, -across), (0, 1))
            seen = seen + keep_RW1.roll((-down, -across), (0, 1))
            cls = maps.last_BTC[0, 0].float() if view == 0 else cls
        patch_PC = (total / seen.clamp(min=1)).flatten(0, 1)
        found.append(Target(image, patch_PC, cls, (seen > 0).flatten()))
        told((number + 1) / len(images))
    return found


def loss_of(model: PreTrainedModel, one: Target, first: int) -> Tensor:
    """1 − cosine and mean squared error of patch features, and of [CLS]; `first`: tokens in front of the patches."""
    out_TC = model(one.image[None].to(model.device, model.dtype)).last_hidden_state[0].float()
    patch_PC, target_PC = out_TC[first:][one.known_P], one.patch_PC[one.known_P]
    patches = (1 - cosine_similarity(patch_PC, target_PC, dim=-1)).mean() + mse_loss(patch_PC, target_PC)
    return patches + (1 - cosine_similarity(out_TC[0], one.cls_C, dim=-1)) + mse_loss(out_TC[0], one.cls_C)


def rate_of(settings: TrainingSettings) -> float:
    """The highest learning rate."""
    if settings.lr != "auto":
        return settings.lr
    return ALONE if settings.trained == "new" else LR


def distil(
    model: PreTrainedModel, teaching: Sequence[Target], settings: TrainingSettings, steps: int,
    told: Callable[[float], None],
) -> list[float]:  # fmt: skip
    """Train in place; the loss of every step. Images are drawn with the seed, so that a control sees the same."""
    first, draw = len(leading_tokens(model)), torch.Generator().manual_seed(settings.seed)
    settings = settings.model_copy(update={"lr": rate_of(settings)})
    named = dict(model.named_parameters())
    new = [named.pop("embeddings.register_tokens")] if "embeddings.register_tokens" in named else []
    rest = {} if settings.trained == "new" else named
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    trained = [*new, *rest.values()]
    for parameter in trained:
        parameter.requires_grad_(True)
    made = optimizers(settings, new, rest, set(), fused=False)
    rates = [schedule(each, settings, steps) for each in made]
    losses = []
    for step in range(steps):
        chosen = torch.randint(len(teaching), (settings.batch,), generator=draw).tolist()
        whole = 0.0
        for number in chosen:
            loss = loss_of(model, teaching[number], first) / len(chosen)
            loss.backward()
            whole += float(loss)
        torch.nn.utils.clip_grad_norm_(trained, settings.clip)
        for each, rate in zip(made, rates, strict=True):
            each.step()
            rate.step()
            each.zero_grad()
        losses.append(whole)
        told((step + 1) / steps)
    model.requires_grad_(False)
    return losses
