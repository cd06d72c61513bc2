"""How an image's patches lie."""

from torch import Tensor
from transformers import PreTrainedModel


def columns_of(model: PreTrainedModel, image: Tensor) -> int:
    """Patches a row of an image [C, H, W]."""
    size = model.config.patch_size
    return image.shape[-1] // (size if isinstance(size, int) else size[1])
