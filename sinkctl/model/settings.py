"""What a recipe says of the model."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

PLACE = r"^(cpu|disk|mps|\d+)$"  # of memory, as accelerate calls it: a number is a GPU
SIZE = r"^\d+(\.\d+)?([KMG]i?B)?$"  # of memory
DTYPES = ("float32", "bfloat16", "float16", "float64")
ALSO_CALLED = {
    "bf16": "bfloat16", "fp16": "float16", "half": "float16", "float": "float32", "fp32": "float32",
    "double": "float64", "fp64": "float64",
}  # fmt: skip


def _own_name(dtype: Any) -> Any:
    return ALSO_CALLED.get(dtype, dtype) if isinstance(dtype, str) else dtype


class ModelSettings(BaseModel):
    """Which checkpoint, and how it is loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: str = Field(
        "demo",
        description="A folder, a GGUF file, a Hub id, or demo: the built-in model; a PEFT folder names its base.",
    )
    adapters: tuple[str, ...] = Field(
        (), description="PEFT adapters merged into it, in this order: folders or Hub ids."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub id.")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, mps, cuda or cuda:N.")
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16", "float64"], BeforeValidator(_own_name)] = Field(
        "auto", description="auto: float32 on a CPU, the checkpoint's own elsewhere; bf16, fp16, half … too."
    )
    parallel: Literal["tensor"] | None = Field(
        None, description="tensor: the processes that torchrun starts share every layer's heads and weights."
    )
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = Field(
        None,
        description="Layers over the GPUs, the memory and, last, the disk, as accelerate lays them out.",
    )
    max_memory: dict[Annotated[str, Field(pattern=PLACE)], Annotated[str, Field(pattern=SIZE)]] = Field(
        {}, description="With device_map, what each may take: {0: 20GiB, cpu: 8GiB}; accelerate's max_memory."
    )
    offload_folder: str | None = Field(
        None, description="Where layers on the disk are put that cannot be read from the checkpoint as they stand."
    )
    dequantize: bool = Field(False, description="Write quantized weights out in the dtype, once they are loaded.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the checkpoint.")
    allow_pickle: bool = Field(False, description="Load weights that are not safetensors; a pickle can run code.")
    tokenizer: Literal["file", "class"] = Field(
        "file",
        description="tokenizer.json as it stands; or, where AutoTokenizer builds another one, the class it takes.",
    )
    special_tokens: Literal["parse", "text"] = Field(
        "parse", description="Special tokens that a text spells: read as such, or as ordinary text."
    )
