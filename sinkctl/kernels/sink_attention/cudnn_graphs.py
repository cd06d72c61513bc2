"""Windows by cuDNN's own graphs, which torch's operator does not offer. Shapes as in `reference.py`.

A graph is built for each layout of its tensors, and kept; the nvidia-cudnn-frontend package builds it, for the cuDNN
that comes with torch.
"""

from functools import lru_cache
from threading import local

import cudnn
import torch
from torch import Tensor

from sinkctl.kernels.sink_attention.stock import Stock

TYPES = {
    torch.bfloat16: cudnn.data_type.BFLOAT16,
    torch.float16: cudnn.data_type.HALF,
    torch.float32: cudnn.data_type.FLOAT,
}
Layout = tuple[torch.Size, tuple[int, ...], torch.dtype]
_of_thread = local()  # a handle serves one thread at a time, and autograd has threads of its own


class CudnnWindow(Stock):
    """cuDNN with a window: half precision, causal, no documents; D ≤ 128."""

    def forward(self, q_BHTD, k_BGTD, v_BGTD):
        assert self.documents_N is None
        out_BHTD = torch.empty_like(q_BHTD)
        lse_BHT1 = q_BHTD.new_empty(*q_BHTD.shape[:3], 1, dtype=torch.float32)
        self._run("sdpa", (q_BHTD, k_BGTD, v_BGTD), (out_BHTD, lse_BHT1))
        return out_BHTD, lse_BHT1[..., 0]

    def backward(self, grad_BHTD, q_BHTD, k_BGTD, v_BGTD, out_BHTD, lse_BHT):
        if grad_BHTD.stride() != out_BHTD.stride():  # it may be of any layout, one number for all included
            grad_BHTD = torch.empty_like(out_BHTD).copy_(grad_BHTD)
        grads = tuple(map(torch.empty_like, (q_BHTD, k_BGTD, v_BGTD)))
        lse_BHT1 = lse_BHT.contiguous()[..., None]
        self._run("sdpa_backward", (q_BHTD, k_BGTD, v_BGTD, out_BHTD, grad_BHTD, lse_BHT1), grads)
        return grads

    def _run(self, name: str, given: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> None:
        device, tensors = given[0].device, (*given, *found)
        layouts = tuple((x.shape, x.stride(), x.dtype) for x in tensors)
        with torch.cuda.device(device):
            handle = _handle(device.index)
            graph, places = _graph(device.index, name, layouts, len(given), self.scale, self.window)
            cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream().cuda_stream)
            workspace = torch.empty(graph.get_workspace_size(), dtype=torch.uint8, device=device)
            graph.execute(dict(zip(places, tensors, strict=True)), workspace, handle=handle)


def _handle(device: int):
    kept = vars(_of_thread)
    if device not in kept:
        kept[device] = cudnn.create_handle()
    return kept[device]


@lru_cache(maxsize=64)
def _graph(device: int, name: str, layouts: tuple[Layout, ...], given: int, scale: float, window: int | None):
    """(the graph, its tensors in the order of `layouts`, of which the first `given` are inputs)."""
    graph = cudnn.pygraph(
        io_data_type=TYPES[layouts[0][2]], intermediate_data_type=cudnn.data_type.FLOAT,
        compute_data_type=cudnn.data_type.FLOAT, handle=_handle(device),
    )  # fmt: skip
    inputs = [
        graph.tensor(dim=list(shape), stride=list(stride), data_type=TYPES[dtype])
        for shape, stride, dtype in layouts[:given]
    ]
    outputs = getattr(graph, name)(
        **dict(zip(("q", "k", "v", "o", "dO", "stats"), inputs, strict=False)),
        **({"generate_stats": True} if name == "sdpa" else {}),
        attn_scale=scale,
        diagonal_alignment=cudnn.diagonal_alignment.TOP_LEFT,
        diagonal_band_right_bound=0,
        diagonal_band_left_bound=None if window is None else window + 1,  # cuDNN counts the query itself
    )
    for tensor, (shape, stride, dtype) in zip(outputs, layouts[given:], strict=True):
        tensor.set_output(True).set_dim(list(shape)).set_stride(list(stride)).set_data_type(TYPES[dtype])
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans()
    return graph, (*inputs, *outputs)
