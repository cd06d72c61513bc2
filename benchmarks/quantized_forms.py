"""Quantized forms of a checkpoint: sinkctl's dense stream beside the stock forward of the same quantized model.

    python benchmarks/quantized_forms.py MODEL [--tokens 2000] [--device cuda] [--forms bnb4 fp8 …]

MODEL is a checkpoint folder with plain weights. Every form is made from it in a temporary folder, as the tests make
theirs, where its package is (`pip install 'sinkctl[quant]'`); others are named. Columns: |Δ| in nats a token between
ours and stock (largest, mean); the same between stock's own sdpa and eager attention, which is the noise of the form;
perplexity; tokens a second of ours.
"""

import argparse
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

# Form → (module, package, what makes it).
FORMS = {
    "plain": (None, None, lambda folder, model: None),
    "bnb4": ("bitsandbytes", "bitsandbytes", lambda folder, model: made.bitsandbytes(folder, 4, model)),
    "bnb8": ("bitsandbytes", "bitsandbytes", lambda folder, model: made.bitsandbytes(folder, 8, model)),
    "fp8": (None, None, lambda folder, model: made.fp8(folder, model, size=64)),
}
FORMS |= {
    kind: ("torchao", "torchao", lambda folder, model, kind=kind: made.torchao(folder, kind, model))
    for kind in ("Int8WeightOnlyConfig", "Float8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig")
}
FORMS |= {
    preset: (
        "compressed_tensors", "compressed-tensors",
        lambda folder, model, preset=preset: made.compressed_tensors(folder, preset, model),
    )
    for preset in ("W4A16", "W8A16", "W8A8", "FP8_DYNAMIC")
}  # fmt: skip


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--device", help="default: a GPU, where one is")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/model"))
import quantized_forms as made
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, FineGrainedFP8Config
from transformers.utils import logging

import sinkctl
from sinkctl.model.load import DEMO


def losses(folder: Path, ids_T: torch.Tensor, attention: str, **options) -> torch.Tensor:
    """Stock NLL of all tokens but the first, one forward, float64 [T − 1]."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, dtype="auto", **options)
    with torch.no_grad():
        logits_TV = model(ids_T[None, :-1].to(model.device), use_cache=False).logits[0].float()
    return cross_entropy(logits_TV, ids_T[1:].to(logits_TV.device), reduction="none").double().cpu()


def apart(one: torch.Tensor, two: torch.Tensor) -> str:
    difference = (one - two).abs()
    return f"{difference.max():.1e} {difference.mean():.1e}"


def row(form: str, folder: Path, ids_T: torch.Tensor, text: Path, device: str) -> str:
    loaded = sinkctl.load(str(folder), device=device)
    settings = dict(model=loaded, policies="dense", limit=len(ids_T), chunk=len(ids_T), progress=lambda _: None)
    for _ in range(2):  # the first brings in kernels
        began = time.perf_counter()
        ours = torch.tensor(sinkctl.stream(text, **settings).nll["dense"]).double()
        seconds = time.perf_counter() - began
    said = loaded.choices.get("quantized", "plain")
    dtype = loaded.dtype
    del loaded, settings
    options = dict(device_map={"": device})
    if "written out at load" in said:
        options |= {"quantization_config": FineGrainedFP8Config(dequantize=True)}
    stock = [losses(folder, ids_T, attention, **options) for attention in ("sdpa", "eager")]
    ours = ours[~ours.isnan()][: len(stock[0])]  # without BOS the first token has none; with it there is one more
    perplexity = ours.mean().exp()
    return (
        f"{form:38} {apart(ours, stock[0]):16} {apart(*stock):16} {perplexity:8.3f} "
        f"{len(ours) / seconds:9,.0f} {str(dtype).removeprefix('torch.'):9} {said}"
    )


def main() -> None:
    given = flags()
    given.device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    text = DEMO / "text.txt"
    print(f"{'form':38} {'|Δ| max mean':16} {'stock’s own':16} {'perplex.':>8} {'tok/s':>9} {'dtype':9} weights")
    for form in given.forms:
        module, package, make = FORMS[form]
        if module is not None and find_spec(module) is None:
            print(f"{form:38} not here: {package}")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            source = sinkctl.load(given.model, device=given.device, dtype="auto", dequantize=True)
            source.model.save_pretrained(folder)
            source.tokenizer.save_pretrained(folder)
            try:
                make(folder, source.model if module is not None else source.model.cpu())
                ids = source.tokenizer(text.read_text(encoding="utf-8")).input_ids[: given.tokens]
                del source
                print(row(form, folder, torch.tensor(ids), text, given.device), flush=True)
            except Exception as error:  # the others go on
                print(f"{form:38} {type(error).__name__}: {' '.join(str(error).split())[:200]}", flush=True)
    for package in ("torch", "transformers", "bitsandbytes", "torchao", "compressed-tensors"):
        try:
            print(package, version(package))
        except PackageNotFoundError:
            print(package, "not here")


if __name__ == "__main__":
    main()
