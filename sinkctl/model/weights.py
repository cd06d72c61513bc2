"""Whether a checkpoint's weights are whole, fit its config and are finite: one line names the first that is not."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.model.fits import WRONG, Differs, missing, more, no_head, too_deep
from sinkctl.model.parallel import local

PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # weights that are what they say


def check_weights(
    name: str, model: PreTrainedModel, report: dict[str, Any], unused: Sequence[str] = (), by: str = "config.json"
) -> str | None:  # fmt: skip
    """Raise ModelError for weights that do not fit the config, or are not finite; returns what was left out, if any.

    `report` is transformers' `output_loading_info`, of a load that ignored mismatched sizes: it fills what is missing
    or mismatched with random numbers, and only logs it. Modules named in `unused` may miss theirs. `by` says what the
    model is made: config.json, or the header of a GGUF.
    """
    differing = sorted(each for each in report["mismatched_keys"] if not _within(each[0], unused))
    if differing:
        raise ModelError(f"{name}: {Differs(*differing[0]).said(by, more(differing))}; {WRONG[by]}")
    _check_missing(name, model, sorted(key for key in map(str, report["missing_keys"]) if not _within(key, unused)), by)
    left = sorted(map(str, report["unexpected_keys"]))
    _check_depth(name, model, left)
    check_finite(name, model)
    if not left:
        return None
    modules = {path for path, _ in model.named_modules()}
    parts = list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", _outermost(key, modules)) for key in left))
    shown = ", ".join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")
    return f"{len(left)} tensors left out: {type(model).__name__} has no place for {shown}"


def _outermost(key: str, modules: set[str]) -> str:
    """As much of a name as tells what the model lacks: a whole part, or one tensor of a part that it has."""
    ends = [place.start() for place in re.finditer(r"\.", key)]
    return next((key[:end] for end in ends if key[:end] not in modules), key)


def _check_missing(name: str, model: PreTrainedModel, keys: list[str], by: str) -> None:
    if not keys:
        return
    head = model.get_output_embeddings() if model.can_generate() else None
    if head is not None and keys == [f"{path}.weight" for path, module in model.named_modules() if module is head]:
        raise ModelError(no_head(name, keys[0]))
    raise ModelError(missing(name, keys[0], keys, by))


def _check_depth(name: str, model: PreTrainedModel, keys: list[str]) -> None:
    """Layers beyond those that the config counts: the model would run without its last ones."""
    config = model.config.get_text_config()
    ahead = getattr(config, "num_nextn_predict_layers", None) or 0  # stored behind the last: to predict further tokens
    lists = {path: len(module) for path, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    for key in keys:
        for place in re.finditer(r"\.(\d+)\.", key):
            path, number = key[: place.start()], int(place[1])
            # Weights of a bare decoder lack what its class puts in front of their names.
            held = next((n for own, n in lists.items() if own == path or own.endswith(f".{path}")), None)
            if held is not None and number >= held + ahead:
                said = " (num_hidden_layers)" if held == getattr(config, "num_hidden_layers", None) else ""
                raise ModelError(too_deep(name, path, number, held, said))


def check_finite(name: str, model: PreTrainedModel) -> None:
    """Raise ModelError for parameters that hold NaN or ±∞; those quantized or not in memory are not looked at.

    A sum a tensor, without a copy of it, tells where to count.
    """
    sound: dict[torch.device, list[Tensor]] = defaultdict(list)
    weights: dict[torch.device, list[tuple[str, nn.Parameter]]] = defaultdict(list)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            weight = local(weight)
            if type(weight) in (nn.Parameter, Tensor) and weight.dtype in PLAIN and not weight.is_meta:
                weights[weight.device].append((key, weight))
                sound[weight.device].append(weight.sum().isfinite())
        suspects = [
            each
            for device, found in weights.items()
            for each, finite in zip(found, torch.stack(sound[device]).tolist(), strict=True)
            if not finite
        ]
        broken = [(key, weight) for key, weight in suspects if not bool(weight.isfinite().all())]
    if not broken:  # a sum of finite numbers can leave the range of its dtype
        return
    key, weight = broken[0]
    nan, infinite = int(weight.isnan().sum()), int(weight.isinf().sum())
    what = " and ".join(f"{count:,} {word}" for count, word in ((nan, "NaN"), (infinite, "infinite")) if count)
    narrow = infinite and weight.dtype == torch.float16
    hint = "the checkpoint is damaged; take another one"
    hint = f"float16 ends at 65,504, try --dtype float32; if that says the same, {hint}" if narrow else hint
    raise ModelError(f"{name}: {key} has {what} of {weight.numel():,} values{more(broken)}; {hint}")


def _within(key: str, modules: Sequence[str]) -> bool:
    return not set(str(key).split(".")).isdisjoint(modules)
