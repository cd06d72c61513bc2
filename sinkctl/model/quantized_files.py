"""How a checkpoint's weights are quantized, by its config.json, and what that takes; no torch is imported."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from sinkctl.errors import ModelError

EXTRA = ("bitsandbytes", "torchao", "compressed_tensors")  # what the extra `quant` brings


class Needs(NamedTuple):
    """What transformers asks for before it loads a method (its `validate_environment`)."""

    modules: dict[str, str] = {}  # to be imported → package
    gpu: bool = False
    kernels: bool = False  # runs by kernels of the Hub on a GPU; written out at load where these cannot be had


METHODS = {
    "bitsandbytes": Needs({"bitsandbytes": "bitsandbytes"}),
    "torchao": Needs({"torchao": "torchao"}),
    "compressed-tensors": Needs({"compressed_tensors": "compressed-tensors"}),
    "gptq": Needs({"optimum": "optimum", "gptqmodel": "gptqmodel"}),
    "awq": Needs({"gptqmodel": "gptqmodel"}),
    "fp8": Needs(kernels=True),
    "mxfp4": Needs(kernels=True),
    "auto-round": Needs({"auto_round": "auto-round"}),
    "quanto": Needs({"optimum.quanto": "optimum-quanto"}),
    "hqq": Needs({"hqq": "hqq"}, gpu=True),
    "aqlm": Needs({"aqlm": "aqlm"}),
    "quark": Needs({"quark": "amd-quark"}),
    "fbgemm_fp8": Needs({"fbgemm_gpu": "fbgemm-gpu"}, gpu=True),
    "eetq": Needs({"kernels": "kernels"}, gpu=True),
    "vptq": Needs({"vptq": "vptq"}, gpu=True),
    "spqr": Needs({"spqr_quant": "spqr_quant"}, gpu=True),
}


class Quantized(NamedTuple):
    """Weights in fewer bits."""

    method: str  # as transformers calls it
    bits: int | None
    form: str  # what else there is to say: nf4, pack-quantized, Int8WeightOnlyConfig
    activations: bool = False  # are rounded too

    @property
    def words(self) -> str:
        """bitsandbytes 4 bit (nf4)."""
        bits = "" if self.bits is None else f" {self.bits} bit"
        return f"{self.method}{bits}{f' ({self.form})' if self.form else ''}"

    @property
    def needs(self) -> Needs:
        """Nothing known of other methods: transformers says it."""
        return METHODS.get(self.method, Needs())


def quantized_by(config: dict[str, Any]) -> Quantized | None:
    """What a config.json says of it; None for plain weights."""
    parts = (config, config.get("text_config") or {})
    said = next((p[key] for p in parts for key in ("quantization_config", "compression_config") if p.get(key)), None)
    if not isinstance(said, dict):
        return None
    method = str(said.get("quant_method") or ("bitsandbytes" if _bits_of_flags(said) else "unnamed"))
    method = method.replace("_", "-") if method.startswith("compressed") else method
    if method == "bitsandbytes":
        bits = _bits_of_flags(said)
        return Quantized(method, bits, said.get("bnb_4bit_quant_type", "fp4") if bits == 4 else "LLM.int8", bits == 8)
    if method == "compressed-tensors":
        groups = list((said.get("config_groups") or {}).values())
        bits = next((group["weights"].get("num_bits") for group in groups if group.get("weights")), None)
        activations = any(group.get("input_activations") for group in groups)
        return Quantized(method, bits, str(said.get("format") or ""), activations)
    if method == "torchao":
        kind = (said.get("quant_type") or {}).get("default")
        kind = str(kind.get("_type") if isinstance(kind, dict) else kind or "")
        bits = re.search(r"(?:Int|Float|int|float)(\d)(?=Weight|_weight|Dynamic|_dynamic)", kind)
        return Quantized(method, int(bits[1]) if bits else None, kind, "Activation" in kind)
    of_name = {"fp8": 8, "mxfp4": 4, "fbgemm_fp8": 8, "mxfp8": 8, "nvfp4": 4}
    bits = said.get("bits", said.get("nbits", of_name.get(method)))
    return Quantized(method, bits if isinstance(bits, int) else None, "", method in ("fp8", "fbgemm_fp8", "mxfp8"))


def check_quantized(name: str | Path, config: dict[str, Any], on_cpu: bool) -> None:
    """Raise ModelError for quantized weights whose method's package or GPU is missing here."""
    found = quantized_by(config)
    if found is None:
        return
    missing = {module: package for module, package in found.needs.modules.items() if not is_installed(module)}
    if missing:
        extra = set(missing) <= set(EXTRA)
        how = "'sinkctl[quant]'" if extra else " ".join(missing.values())
        raise ModelError(
            f"{name}: weights are {found.words}, which takes {' and '.join(missing.values())}; pip install {how}"
        )
    if found.needs.gpu and on_cpu:
        raise ModelError(f"{name}: weights are {found.words}, which runs on a GPU alone; take another form of it")


def _bits_of_flags(said: dict[str, Any]) -> int | None:
    flags = {4: ("load_in_4bit", "_load_in_4bit"), 8: ("load_in_8bit", "_load_in_8bit")}
    return next((bits for bits, names in flags.items() if any(said.get(name) for name in names)), None)


def is_installed(module: str) -> bool:
    """Whether it can be imported; a folder that only bears its name has no file of its own."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # the package around it
        return False
    return spec is not None and spec.origin is not None
