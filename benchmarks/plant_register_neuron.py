"""Plants a register neuron in a DINOv2 that has none, so that moving it can be held against the truth.

usage: plant_register_neuron.py CHECKPOINT PHOTOS OUT
       plant_register_neuron.py --compare PHOTOS CHECKPOINT OTHER…      each beside the first

The least used neuron of layer 5 is made to fire at about 1.5 % of the patches of the photographs, along the principal
component of the MLP's input that the most photographs share, and to write one random direction there, about 40 times
the norm of a patch. Every second photograph is used: `sinkctl convert` judges by the others.
"""

import argparse
from pathlib import Path


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", action="store_true", help="PHOTOS and checkpoints, each beside the first")
    parser.add_argument("given", nargs="+", metavar="NAME")
    options = parser.parse_args()
    if len(options.given) < 3 or (len(options.given) > 3 and not options.compare):
        parser.error("name CHECKPOINT PHOTOS OUT, or with --compare PHOTOS CHECKPOINT OTHER…")
    return options


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

LAYER, SHARE, SIZE, COMPONENTS = 5, 0.015, 25.0, 40


@torch.no_grad()
def plant(checkpoint: str, photos: str, out: str) -> None:
    torch.manual_seed(0)
    model = AutoModel.from_pretrained(checkpoint).eval()
    processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
    block, seen = model.encoder.layer[LAYER], {}
    block.norm2.register_forward_hook(lambda _, __, out: seen.update(read=out[0, 1:]))
    block.mlp.fc2.register_forward_pre_hook(lambda _, inputs: seen.update(used=inputs[0][0].abs().mean(0)))
    read, used = [], []
    for path in sorted(Path(photos).glob("*.png"))[::2]:
        model(processor(images=Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"])
        read.append(seen["read"])
        used.append(seen["used"])
    x_XC = torch.cat(read)
    mean_C, neuron = x_XC.mean(0), int(torch.stack(used).mean(0).argmin())
    axes_KC = torch.linalg.svd((x_XC - mean_C)[::4], full_matrices=False).Vh[:COMPONENTS]

    def shared(axis_C: torch.Tensor) -> int:
        along_X = (x_XC - mean_C) @ axis_C
        counts = (along_X.view(len(read), -1) > along_X.quantile(1 - SHARE)).sum(1)
        return int((counts >= 4).sum()) * 1000 - int(counts.max())

    axis_C = max([*axes_KC, *-axes_KC], key=shared)
    along_X = (x_XC - mean_C) @ axis_C
    least, most = along_X.quantile(1 - SHARE), along_X.quantile(0.998)
    scale = 8 / (most - least)
    block.mlp.fc1.weight[neuron] = scale * axis_C
    block.mlp.fc1.bias[neuron] = -scale * (mean_C @ axis_C + least)
    direction_C = torch.nn.functional.normalize(torch.randn(len(mean_C)), dim=0)
    block.mlp.fc2.weight[:, neuron] = SIZE * direction_C / block.layer_scale2.lambda1.abs().clamp(min=1e-3)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    print(f"neuron {neuron} of layer {LAYER}")


def compare(photos: str, *checkpoints: str) -> None:
    import sinkctl  # noqa: F401  so that its classes are known
    from sinkctl.tasks.convert.registers.judge import judged

    processor, first = AutoImageProcessor.from_pretrained(checkpoints[0], backend="pil"), None
    images = [
        processor(images=Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"][0]
        for path in sorted(Path(photos).glob("*.png"))[1::2]
    ]
    for name in checkpoints:
        line, shown = judged(name, AutoModel.from_pretrained(name).eval(), images, 129.0, first, lambda share: None)
        first = first or shown
        print(line.model_dump())


if __name__ == "__main__":
    options = flags()
    (compare if options.compare else plant)(*options.given)
