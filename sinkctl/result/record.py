"""What records of a result have in common."""

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """A frozen record; NaN and infinity are written as null."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")


class ModelReport(Record):
    """Which checkpoint ran, and how."""

    name: str
    fingerprint: str
    model_type: str
    parameters: int
    dtype: str
    device: str
    context: int | None
    layers: list[str] = Field(default_factory=list, description="What was done in each layer, one line a kind.")
