"""Test-time registers."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class TestTimeRegisters(BaseModel):
    """Added tokens that take what register neurons would put at patches (Jiang et al. 2025, arXiv 2506.08010).

    Register neurons are those of the MLPs whose activations make patches of outlying norm. Nothing is trained.
    """

    __test__: ClassVar[bool] = False  # no test of pytest's, whatever its name
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    kind: Literal["test_time_registers"] = "test_time_registers"
    count: int = Field(1, ge=1, le=64, description="Tokens added behind [CLS]; all take the same.")
    neurons: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Register neurons moved; auto: the fewest, doubled from 1, that leave few outliers."
    )
    outlier_norm: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="Norm from which a patch is an outlier; auto: 3 times the median patch of all images."
    )
    layer: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="Last layer (from 0) to look for register neurons in; auto: where outliers appear."
    )
