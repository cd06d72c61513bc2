"""The part of a result that `convert` has where it gives a vision transformer registers. Layers are counted from 0."""

from typing import Any

from pydantic import Field

from sinkctl.result.record import Record

RANDOM = "random neurons"  # the control: as many others of the same layers, moved


class RegisterNeuron(Record):
    """A neuron of a layer's MLP."""

    layer: int
    index: int
    score: float = Field(description="Its mean |activation| at outlier patches, a mean over images.")


class RegisterLine(Record):
    """What a checkpoint shows of the images it is judged by; means over images unless said otherwise."""

    checkpoint: str = Field(description="original, converted, control, or random neurons")
    outliers: int = Field(description="Patches above the threshold, of all images;")
    outlier_percent: float = Field(description="of all patches.")
    patch_max: float = Field(description="Largest norm of a patch after the last block, of all images;")
    patch_median: float = Field(description="the median.")
    register_norm: float | None = Field(description="Norm of the registers there.")
    smoothness: float = Field(description="Mean cosine between the last features of neighbouring patches.")
    cls_outliers: float | None = Field(
        description="Attention of [CLS] in the last layer, a mean over heads, to the patches that are outliers in the "
        "original;"
    )
    cls_registers: float | None = Field(description="to the registers;")
    cls_max: float | None = Field(description="the largest to one patch.")
    cosine: float | None = Field(
        None, description="Cosine to the original's last features, a mean over patches that are no outliers there;"
    )
    cosine_outliers: float | None = Field(None, description="over those that are;")
    cosine_cls: float | None = Field(None, description="of [CLS].")
    kl: float | None = Field(
        None,
        description="KL from the original, nats: of the class probabilities; without a classifier, of the softmax over "
        "the channels of patch features.",
    )
    knn: float | None = Field(
        None, description="Labelled digits that [CLS] names rightly, percent: by its five nearest neighbours,"
    )
    linear: float | None = Field(None, description="and by a linear probe.")


class RegisterTraining(Record):
    """How learnable registers were trained; each list has one number a step."""

    steps: int
    batch: int = Field(description="Images a step.")
    images: int
    views: int
    trained: str = Field(description="new or all.")
    lr: float
    loss: list[float] = Field(description="Of the converted checkpoint;")
    control: list[float] = Field(description="of the one without registers; empty: there is none.")
    seconds: float


class RegistersDetail(Record):
    """What a vision transformer was given, how it is stored, and what it then does."""

    mechanism: str
    settings: dict[str, Any]
    model_type: str = Field(description="Of the written checkpoint.")
    classifies: bool = Field(description="Whether it has a classifier.")
    registers: int
    neurons: list[RegisterNeuron]
    layer: int = Field(description="The last one that neurons were looked for in.")
    threshold: float = Field(description="Norm from which a patch is an outlier.")
    tried: dict[int, int] = Field(description="Neurons moved → outliers left in the images they were found on.")
    found_on: int = Field(description="Images the neurons were found on;")
    training: RegisterTraining | None = None
    judged_on: int = Field(description="images they are judged by.")
    digits: int = Field(0, description="Labelled digits that were to be named; 0: none were shown.")
    lines: list[RegisterLine]
    files: dict[str, int] = Field(description="What was written, bytes.")
