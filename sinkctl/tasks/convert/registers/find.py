"""Register neurons: the neurons of MLPs whose activations make patches of outlying norm.

Shapes: L layers, B images, T tokens, P patches, F width of an MLP.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.metrics.patch_maps import patch_maps
from sinkctl.model.kinds import leading_tokens
from sinkctl.registers import Registers, TestTimeRegisters
from sinkctl.registers.code.register_model import mlp_outputs

OUTLYING = 3.0  # times the median patch: the published 150 of DINOv2-g and -L, whose median is about 50
LEFT = 0.1  # of the outliers, that few enough neurons leave at most
MOST = 256  # neurons tried
JUDGED = 4  # images on which a number of neurons is tried


@dataclass(frozen=True)
class Found:
    """Neurons, the likeliest first, as (layer, index, mean |activation| at outliers)."""

    neurons: list[tuple[int, int, float]]
    threshold: float  # norm after the last block
    layer: int  # the last one looked into
    outliers: int  # patches of all images
    judged: list[Tensor]  # images that have most of them,
    before: int  # and how many


def threshold_of(settings: TestTimeRegisters | Registers, norm_BP: Tensor) -> float:
    """The norm from which a patch is an outlier."""
    return OUTLYING * float(norm_BP.median()) if settings.outlier_norm == "auto" else settings.outlier_norm


@torch.no_grad()
def find(
    model: PreTrainedModel, name: str, images: Sequence[Tensor], settings: TestTimeRegisters,
    told: Callable[[float], None],
) -> Found:  # fmt: skip
    """Register neurons from images [C, H, W] (algorithm 1 of arXiv 2506.08010); ModelError where no patch is outlying.

    A neuron's score is its mean |activation| at outliers, of each image that has some, then over images.
    """
    first = len(leading_tokens(model))
    norm_LBP = []
    for number, image in enumerate(images):
        norm_LBP.append(patch_maps(model, image[None]).norm_LBT[:, 0, first:].cpu())
        told((number + 1) / (2 * len(images)))
    last_BP = [norm_LP[-1] for norm_LP in norm_LBP]
    threshold = threshold_of(settings, torch.cat(last_BP))
    outlying_BP = [norm_P > threshold for norm_P in last_BP]
    counts = [int(outlying_P.sum()) for outlying_P in outlying_BP]
    if not sum(counts):
        most, median = max(float(x.max()) for x in last_BP), float(torch.cat(last_BP).median())
        raise ModelError(
            f"{name} has no outlier patches in these {len(images)} images: the largest norm is {most:.4g}, the median "
            f"{median:.4g}, and {threshold:.4g} is asked; it needs no registers, or name a norm: --set "
            "sink.outlier_norm=N"
        )
    layer = _appear(norm_LBP, outlying_BP) if settings.layer == "auto" else settings.layer
    outputs = mlp_outputs(model.base_model, model.config.hidden_size)
    if layer not in outputs:
        raise ModelError(f"--set sink.layer={layer}: {name} has layers 0 to {max(outputs)}")
    looked = {number: module for number, module in outputs.items() if number <= layer}
    score_LF, seen = 0, 0
    for number, (image, outlying_P) in enumerate(zip(images, outlying_BP, strict=True)):
        if outlying_P.any():
            score_LF = score_LF + _at_outliers(model, looked, image, outlying_P, first)
            seen += 1
        told((len(images) + number + 1) / (2 * len(images)))
    score_LF = score_LF / seen
    order = score_LF.flatten().argsort(descending=True)[:MOST].tolist()
    width, layers = score_LF.shape[1], sorted(looked)
    neurons = [(layers[at // width], at % width, float(score_LF.flatten()[at])) for at in order]
    most = sorted(range(len(images)), key=lambda number: -counts[number])[:JUDGED]
    judged, before = [images[number] for number in most if counts[number]], sum(counts[number] for number in most)
    return Found(neurons, threshold, layer, sum(counts), judged, before)


def _appear(norm_LBP: list[Tensor], outlying_BP: list[Tensor]) -> int:
    """The first layer after which the outliers have, on average, half of the norm that they end with."""
    norm_LX = torch.cat([norm_LP[:, at_P] for norm_LP, at_P in zip(norm_LBP, outlying_BP, strict=True)], dim=1)
    mean_L = norm_LX.mean(1)
    return int((mean_L >= mean_L[-1] / 2).nonzero()[0])


def _at_outliers(model: PreTrainedModel, looked: dict, image: Tensor, outlying_P: Tensor, first: int) -> Tensor:
    """Mean |activation| at the outliers of an image, [L, F]."""
    acts = {}
    with ExitStack() as hooks:
        for number, module in looked.items():
            keep = lambda _, inputs, number=number: acts.__setitem__(number, inputs[0][0, first:].float())  # noqa: E731
            hooks.enter_context(module.register_forward_pre_hook(keep))
        model(image[None].to(model.device, model.dtype))
    return torch.stack([acts[number][outlying_P.to(model.device)].abs().mean(0).cpu() for number in sorted(looked)])


def fewest(
    found: Found, settings: TestTimeRegisters, built: Callable[[int], PreTrainedModel]
) -> tuple[int, dict[int, int]]:
    """How many neurons to move, and outliers of the judged images left by each number that was tried.

    `built(k)` is the model with the first k of them moved.
    """

    def left(count: int) -> int:
        model = built(count)
        first = len(leading_tokens(model))
        return sum(
            int((patch_maps(model, image[None]).norm_LBT[-1, :, first:] > found.threshold).sum())
            for image in found.judged
        )

    if settings.neurons != "auto":
        return min(settings.neurons, len(found.neurons)), {}
    tried, count = {}, 1
    while count <= min(MOST, len(found.neurons)):
        tried[count] = left(count)
        if tried[count] <= LEFT * found.before:
            return count, tried
        count *= 2
    return min(tried, key=tried.get), tried
