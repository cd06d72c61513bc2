"""Which kernel each kind of layer would get on this machine."""

import torch

from sinkctl.kernels import column_sums, linear, stream_attention
from sinkctl.kernels.column_sums import Visible

# What decides: dtype, width of keys, width of values, softcap.
_CASES = {
    "width 64": (64, 64, None),
    "width 128": (128, 128, None),
    "softcap": (128, 128, 50.0),
    "keys 192, values 128": (192, 128, None),
}


def kernels_here() -> dict[str, str]:
    """operator, device, dtype and shape → implementation: reason."""
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    found = {}
    for device in devices:
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        here = f"{device}, {str(dtype).removeprefix('torch.')}"
        implementation, reason = linear.select(torch.empty(1, 1, dtype=dtype, device=device))
        found[f"linear, {here}"] = f"{implementation.name}: {reason}"
        for case, (width, value_width, softcap) in _CASES.items():
            q, v = (torch.empty(1, 1, 1, w, dtype=dtype, device=device) for w in (width, value_width))
            implementation, reason = stream_attention.select(q, v, softcap=softcap)
            found[f"stream_attention, {here}, {case}"] = f"{implementation.name}: {reason}"
        for case, causal in {"causal": True, "both directions": False}.items():
            x = torch.empty(1, 1, 1, 128, dtype=dtype, device=device)
            implementation, reason = column_sums.select(x, x, Visible(causal=causal))
            found[f"column_sums, {here}, {case}"] = f"{implementation.name}: {reason}"
    return found
