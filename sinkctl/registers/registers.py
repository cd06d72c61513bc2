"""Learned registers."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Registers(BaseModel):
    """Learnable tokens behind [CLS] (Darcet et al. 2023, arXiv 2309.16588), trained by distilling the original.

    The original's patch features are the teacher, a mean over views shifted by whole patches with outliers left out, so
    that patches need not be outliers any more (after Chen et al. 2025, arXiv 2505.21501).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    kind: Literal["registers"] = "registers"
    count: int = Field(4, ge=1, le=64, description="Tokens added behind [CLS].")
    views: int = Field(4, ge=1, description="Shifted views of an image that the teacher's features are a mean of.")
    outlier_norm: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="Norm from which a patch is an outlier; auto: 3 times the median patch of all images."
    )
