"""Whether the matrices that a LoRA changes are of its base's sizes, by the headers of both; no torch is imported."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from sinkctl.errors import ModelError
from sinkctl.model.adapter_files import WEIGHTS, folder_of, over, read_config
from sinkctl.model.gguf.header import Header, read_header
from sinkctl.model.named import CONFIG, Named
from sinkctl.model.quantized_files import quantized_by
from sinkctl.model.settings import ModelSettings
from sinkctl.model.weight_file import shapes_in, weight_files

PART = re.compile(r"base_model\.model\.(?:model\.|transformer\.)?(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
WEIGHT = re.compile(r"(?:model\.|transformer\.)?(?P<module>.+)\.weight$")
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
CHOSEN = ("layers_to_transform", "layers_pattern", "exclude_modules")  # by which a LoRA leaves layers out on purpose
HEADS = ("lm_head", "embed_out")  # which an adapter with tokens of its own gives more rows

Shape = tuple[int, ...]
Sizes = dict[str, Shape]  # module → rows and columns of its matrix
Parts = dict[tuple[str, str], Shape]  # module and A or B → the same


def check_shapes(settings: ModelSettings, base: Named) -> None:
    """Raise ModelError for a LoRA of other sizes than its base, or with layers that one of the two lacks.

    `settings` are `resolved`. What no header tells, loading does: of other adapters, of a base that is quantized or
    not here, of modules that are called otherwise in its files.
    """
    for folder in map(folder_of, settings.adapters):
        held = shapes_in(folder / WEIGHTS) if (folder / WEIGHTS).exists() else []
        parts = {(found["module"], found["side"]): shape for key, shape in held if (found := PART.match(key))}
        sizes = _sizes(base, {module for module, _ in parts})
        config = read_config(folder)
        partly = any(config.get(name) for name in CHOSEN) or isinstance(config.get("target_modules"), str)
        said = next(_faults(parts, sizes, partly), None)
        if said is not None:
            what = f"does not fit {over(settings.name, folder)}: {said}"
            raise ModelError(f"{folder}: {what}; name the model that it was trained on as --model")


def _faults(parts: Parts, sizes: Sizes, partly: bool) -> Iterator[str]:
    modules = sorted({module for module, _ in parts}, key=_place)
    known = {_kind(module) for module in modules if module in sizes}
    for module in modules:
        a, b = parts.get((module, "A")), parts.get((module, "B"))
        if module not in sizes and _kind(module) in known:
            yield f"there is no place for its {module}.lora_{'B' if a is None else 'A'}.weight"
        elif a is None or b is None:
            yield f"it lacks {module}.lora_{'A' if a is None else 'B'}.weight"
        elif len(a) != 2 or len(b) != 2:  # of convolutions
            continue
        elif a[0] != b[1]:
            yield f"{module}.lora_A.weight is of rank {a[0]}, and its lora_B.weight of {b[1]}"
        elif (
            module not in HEADS and module in sizes and sizes[module] not in ((b[0], a[1]), (a[1], b[0]))
        ):  # GPT-2 keeps its own turned
            own, its = ("×".join(map(str, shape)) for shape in (sizes[module], (b[0], a[1])))
            yield f"{module} is {own} there, and the adapter changes one of {its}"
    last = max((_place(module) for module in modules), default=None)
    between = [module for module in sizes if _kind(module) in known and module not in modules and _place(module) < last]
    if between and not partly:
        yield f"it lacks {between[0]}.lora_A.weight"


def _place(module: str) -> tuple[list[int], str]:
    return [int(number) for number in NUMBER.findall(module)], module


def _kind(module: str) -> str:
    return NUMBER.sub("*", module)


def _sizes(base: Named, modules: Iterable[str]) -> Sizes:
    """Of the base's matrices, as far as its files say; of a GGUF those of the kinds that `modules` are of."""
    if base.form == "gguf":
        return _sizes_in_gguf(read_header(base.path), {_kind(module) for module in modules}) if base.local else {}
    folder = base.path if base.local else _cached(base.source)
    if folder is None or quantized_by(json.loads((folder / CONFIG).read_text(encoding="utf-8"))) is not None:
        return {}
    held = [pair for path in weight_files(folder) if path.exists() for pair in shapes_in(path)]
    return {found["module"]: shape for key, shape in held if len(shape) == 2 and (found := WEIGHT.match(key))}


def _sizes_in_gguf(header: Header, kinds: set[str]) -> Sizes:
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map  # an extra

    arch = next((arch for arch, name in MODEL_ARCH_NAMES.items() if name == header.architecture), None)
    if arch is None:
        return {}
    blocks = header.fields[f"{header.architecture}.block_count"]
    names, sizes = get_tensor_name_map(arch, blocks), {}
    shapes = {each.name: each.shape[::-1] for each in header.tensors}
    for kind in sorted(kinds):
        for module in [kind.replace("*", str(number), 1) for number in range(blocks)] if "*" in kind else [kind]:
            own = next(
                (found for front in ("model.", "transformer.", "") if (found := names.get_name(front + module))), None
            )
            if (shape := shapes.get(f"{own}.weight")) is not None:
                sizes[module] = shape
    return sizes


def _cached(name: str) -> Path | None:
    kept = try_to_load_from_cache(name, CONFIG)
    return Path(kept).parent if isinstance(kept, str) else None
