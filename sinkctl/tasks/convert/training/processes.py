"""One process or several, under `accelerate launch`."""

from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from sinkctl.errors import UsageError
from sinkctl.launched import processes
from sinkctl.model.placement import own_device
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.recipe.training import TrainingSettings

# One process evaluates while the others wait.
PATIENCE = timedelta(hours=6)


def place(recipe: ConvertRecipe) -> ConvertRecipe:
    """The recipe with this process's own device, where there are several; UsageError for what one alone does."""
    count = processes()
    if count == 1:
        return recipe
    if not recipe.steps:
        raise UsageError("--steps 0 computes the start alone, which takes one process; leave accelerate launch out")
    if recipe.training.batch % count:
        raise UsageError(f"--batch {recipe.training.batch}: cannot be shared among {count} processes equally")
    return recipe.model_copy(update={"model": own_device(recipe.model)})


def check_spread(accelerator: Accelerator, settings: TrainingSettings, mechanism: str) -> None:
    """UsageError for ways to spread a model over processes that training cannot follow."""
    kind = accelerator.distributed_type
    if kind not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU, DistributedType.FSDP):
        raise UsageError(f"accelerate launch with {kind.value}: not known here; launch for several GPUs, or with FSDP")
    if kind != DistributedType.FSDP:
        return
    whole = {
        "training.probe": settings.probe,
        "--trained lora": settings.trained == "lora",
        "--trained new": settings.trained == "new" and mechanism == "sink_token",
    }
    needless = next((what for what, asked in whole.items() if asked), None)
    if needless is not None:
        raise UsageError(f"{needless}: takes whole weights, which FSDP divides; leave it out, or launch without FSDP")


def accelerator_on(device: torch.device, half: bool) -> Accelerator:
    """For models that are on `device` already."""
    if processes() == 1:  # what an earlier run of this process settled does not bind this one
        AcceleratorState._reset_state(reset_partial_state=True)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Accelerator(
        mixed_precision="bf16" if half else "no", cpu=device.type == "cpu", step_scheduler_with_optimizer=False,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )  # fmt: skip
