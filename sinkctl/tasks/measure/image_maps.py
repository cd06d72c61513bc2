"""The first images of a vision model, patch by patch."""

import math

from torch import Tensor
from transformers import PreTrainedModel

from sinkctl.metrics.patch_maps import patch_maps
from sinkctl.model.kinds import leading_tokens
from sinkctl.result.measure import ImageMap
from sinkctl.tasks.measure.images import patch_columns
from sinkctl.tasks.measure.input_set import InputSet

SHOWN = 4


def image_maps(model: PreTrainedModel, shown: InputSet) -> list[ImageMap]:
    """Norms of patches after the last block, and where [CLS] looks in it, a mean over heads."""
    leading, found = leading_tokens(model), []
    first = len(leading)
    for name, image in list(zip(shown.names, shown.samples, strict=True))[:SHOWN]:
        maps, columns = patch_maps(model, image[None]), patch_columns(model, image)
        cls_S = None if maps.cls_LBHS is None or leading[:1] != ["[CLS]"] else maps.cls_LBHS[-1, 0].mean(0).cpu()
        registers = [place for place, token in enumerate(leading) if token.startswith("[REG")]
        found.append(
            ImageMap(
                name=name,
                norm=_rows(maps.norm_LBT[-1, 0, first:].cpu(), columns),
                cls=None if cls_S is None else _rows(cls_S[first:], columns),
                cls_registers=None if cls_S is None or not registers else float(cls_S[registers].sum()),
            )
        )
    return found


def _rows(value_P: Tensor, columns: int) -> list[list[float | None]]:
    """Four figures of each, which a picture shows; None for what is not finite."""
    values = [float(f"{x:.4g}") if math.isfinite(x) else None for x in value_P.tolist()]
    return [values[first : first + columns] for first in range(0, len(values), columns)]
