"""Which heads look farthest, by a kept run of `sinkctl measure`."""

from pathlib import Path

from sinkctl.errors import UsageError

ARRAYS = "arrays.safetensors"
REST = 2  # of `mass_split`: mass on keys neither among the first nor near


def far_heads(run: str, share: float) -> list[tuple[int, int]]:
    """[layer, key/value head] of the `share` whose keenest query head puts most mass on keys neither first nor near.

    The first input of the first checkpoint counts. How far "far" is, its sample length says: `measure --length 2048`.
    """
    from safetensors.numpy import load_file

    path = Path(run) / ARRAYS
    if not path.is_file():
        raise UsageError(f"--policy heads: {path}: no such file; give the folder of `sinkctl measure -o FOLDER`")
    arrays = load_file(path)
    first = next((name.removesuffix("mass_split") for name in arrays if name.endswith("/mass_split")), None)
    if first is None:
        raise UsageError(f"--policy heads: {path} has no mass_split, so no head of softmax attention was measured")
    rest_RH, groups = arrays[f"{first}mass_split"][..., REST], arrays[f"{first}value_drain"].shape[1]
    rest_RG = rest_RH.reshape(len(rest_RH), groups, -1).max(-1)
    order = (-rest_RG).argsort(axis=None, kind="stable")[: max(1, round(share * rest_RG.size))]
    layers = arrays[f"{first}layer_of_row"]
    return sorted((int(layers[place // groups]), int(place % groups)) for place in order)
