"""One model over several processes, each with its share of every layer's heads (tensor parallelism).

transformers shares the weights out by the plan its classes come with, and adds up what the processes find; what is
left for us is to put together what is known head by head. Processes run the same passes in the same order, so whatever
goes by a clock or by a signal, the first of them says.

Shapes: the heads of a process are consecutive ones, H or G of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from transformers import PreTrainedConfig

from sinkctl import launched
from sinkctl.errors import ModelError, UsageError
from sinkctl.model.shared_heads import check_heads_shared
from sinkctl.model.undocumented import shared_among

# Projections that give keys; the plan has each process compute its own part of what they give.
KEYS, SHARED = ("k_proj", "qkv_proj", "query_key_value"), "colwise"
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


def sharing(name: str, config: PreTrainedConfig, device: torch.device, choices: dict[str, str]) -> dict[str, Any]:
    """The arguments of `from_pretrained` that share a model out, in place of a device map; `choices` are told.

    Raises UsageError or ModelError for what cannot be shared out.
    """
    check_heads_shared(name, config.to_dict())
    text, processes = config.get_text_config(), launched.processes()
    plan = getattr(text, "base_model_tp_plan", None) or {}
    if not any(style == SHARED and where.rpartition(".")[2] in KEYS for where, style in plan.items()):
        raise ModelError(
            f"--parallel tensor: transformers has no plan that shares out the heads of {text.model_type}; "
            "leave the flag out"
        )
    if device.type == "cpu" and torch.cuda.is_available():
        raise UsageError("--device cpu: a model is shared out over the GPUs here; CUDA_VISIBLE_DEVICES= hides them")
    if device.type not in BACKENDS:
        raise UsageError(f"--parallel tensor: not on {device.type}; give --device cpu, or leave the flag out")
    _find_each_other(device)
    kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    choices["parallel"] = (
        f"tensor: {processes} processes, each with {text.num_attention_heads // processes} of "
        f"{text.num_attention_heads} heads and {kv_heads // processes} of {kv_heads} key/value heads"
    )
    return shared_among(processes)


def _find_each_other(device: torch.device) -> None:
    if distributed.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(launched.local_rank())  # as transformers places the model
    try:
        distributed.init_process_group(BACKENDS[device.type])
    except (ValueError, RuntimeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{launched.processes()} processes, which do not find each other ({why})") from error


def sharers(model: nn.Module) -> int:
    """How many processes have the model's heads between them; 1: it is whole here."""
    return getattr(model, "tp_size", None) or 1


def all_heads(x: Tensor, sharers: int, dim: int = 1) -> Tensor:
    """What every process knows of its heads, side by side in the model's order, in each process."""
    if sharers == 1:
        return x
    bytes_here = x.contiguous().view(torch.uint8)  # which every backend carries, whatever they stand for
    parts = [torch.empty_like(bytes_here) for _ in range(sharers)]
    distributed.all_gather(parts, bytes_here)
    return torch.cat([part.view(x.dtype) for part in parts], dim=dim)


def own_heads(x: Tensor, sharers: int, dim: int = 1) -> Tensor:
    """The part of it that is this process's."""
    return x if sharers == 1 else x.chunk(sharers, dim=dim)[distributed.get_rank()].contiguous()


def whole_state(state: dict[str, Tensor], sharers: int) -> dict[str, Tensor]:
    """What continues a cache, of all heads: [B, G, …] by name; what is no tensor of heads has two dimensions."""
    return {name: all_heads(x, sharers) if x.dim() > 2 else x for name, x in state.items()}


def own_state(state: dict[str, Tensor], sharers: int) -> dict[str, Tensor]:
    """Of a whole state, what this process continues from."""
    return {name: own_heads(x, sharers) if x.dim() > 2 else x for name, x in state.items()}


def local(weight: Tensor) -> Tensor:
    """Of a weight that is shared out, the part that is here."""
    return weight.to_local() if hasattr(weight, "to_local") else weight


def tell(values: Sequence[float], sharers: int) -> None:
    """In the first process: say these to the others, which are waiting for them with `told`."""
    if sharers > 1:
        distributed.broadcast(torch.tensor(values, dtype=torch.float64), 0)


def told(count: int) -> list[float]:
    """In the others: what the first one says."""
    values = torch.zeros(count, dtype=torch.float64)
    distributed.broadcast(values, 0)
    return values.tolist()


def as_the_first_says(value: float, sharers: int) -> float:
    """What the first process gives, in every one; a number or a truth value."""
    if sharers == 1:
        return value
    if launched.first():
        tell([value], sharers)
        return value
    return type(value)(told(1)[0])


def asked_of_the_first(stop: Callable[[], bool], sharers: int) -> Callable[[], bool]:
    """`stop` so that all processes stop at the same place."""
    return stop if sharers == 1 else lambda: as_the_first_says(bool(stop()), sharers)
