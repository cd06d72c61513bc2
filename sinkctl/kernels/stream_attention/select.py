"""Which implementation of `stream_attention` runs, and why."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from sinkctl.kernels.stream_attention import reference, tiled


@dataclass(frozen=True)
class Implementation:
    """A named `stream_attention`, called as `reference.stream_attention` is."""

    name: str
    run: Callable[..., Tensor]

    def __call__(self, *args, **kwargs) -> Tensor:
        return self.run(*args, **kwargs)


IMPLEMENTATIONS = {
    implementation.name: implementation
    for implementation in (
        Implementation("reference", reference.stream_attention),
        Implementation("tiled", partial(tiled.tiled, tiled.matmul_partial)),
        Implementation("tiled_cpu_flash", partial(tiled.tiled, tiled.cpu_flash_partial)),
    )
}


def select(q_BHTD: Tensor, v_BGSE: Tensor, softcap: float | None = None) -> tuple[Implementation, str]:
    """The fastest implementation for this device, dtype and shape, and the reason."""
    device = q_BHTD.device.type
    if device == "cpu" and softcap is None and q_BHTD.shape[-1] == v_BGSE.shape[-1]:
        return IMPLEMENTATIONS["tiled_cpu_flash"], "torch's CPU flash operator, in tiles of queries"
    if device == "cpu":
        lacks = "softcap" if softcap is not None else "values of another width than keys"
        return IMPLEMENTATIONS["tiled"], f"matrix products in tiles: the CPU flash operator has no {lacks}"
    return IMPLEMENTATIONS["tiled"], f"matrix products in tiles: no kernel for {device}"
