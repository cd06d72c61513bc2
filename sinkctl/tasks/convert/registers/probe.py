"""Whether features still tell digits apart: scikit-learn's 1,797 of 8×8, as a labelled set that is always at hand.

N images, C channels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkctl.metrics.patch_maps import patch_maps
from sinkctl.model.load import LoadedModel

NEIGHBOURS = 5


class Digits(NamedTuple):
    pixels: list[Tensor]  # [1, C, H, W], as the checkpoint's processor makes them
    label_N: np.ndarray

    @property
    def asked(self) -> int:
        """How many are to be named."""
        return len(self.label_N) // 2


def digits(count: int, loaded: LoadedModel) -> Digits | None:
    """A tenth of so many of each class, spread over it; of each, every second is learned from. None for 0."""
    if not count:
        return None
    from PIL import Image
    from sklearn.datasets import load_digits

    held = load_digits()
    each = count // 10  # an even number: every second place of a class after a class is every second of each
    classes = (np.flatnonzero(held.target == label) for label in range(10))
    chosen = np.concatenate([own_n[np.linspace(0, len(own_n) - 1, each).astype(int)] for own_n in classes])
    pictures = [Image.fromarray((held.images[n] / 16 * 255).astype(np.uint8)).convert("RGB") for n in chosen]
    pixels = [loaded.processor(images=picture, return_tensors="pt")["pixel_values"] for picture in pictures]
    return Digits(pixels, held.target[chosen])


def told_apart(model: PreTrainedModel, asked: Digits | None, told: Callable[[float], None]) -> dict[str, float]:
    """`knn` and `linear`: percent of every second digit that [CLS] of the last layer names rightly, by the others."""
    if asked is None:
        return {}
    features = []
    for number, pixels in enumerate(asked.pixels):
        features.append(patch_maps(model, pixels).last_BTC[0, 0].float().cpu())
        told((number + 1) / len(asked.pixels))
    return scores(torch.stack(features).numpy(), asked.label_N)


def scores(feature_NC: np.ndarray, label_N: np.ndarray) -> dict[str, float]:
    """Five neighbours by cosine; logistic regression on standardized channels: percent right."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    ways = {
        "knn": KNeighborsClassifier(NEIGHBOURS, metric="cosine"),
        "linear": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
    }
    known, asked = slice(0, None, 2), slice(1, None, 2)
    return {
        name: 100 * float(way.fit(feature_NC[known], label_N[known]).score(feature_NC[asked], label_N[asked]))
        for name, way in ways.items()
    }
