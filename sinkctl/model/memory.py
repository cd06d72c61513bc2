"""How much memory a model leaves, and the block size that fits it."""

import torch

from sinkctl.model.load import LoadedModel
from sinkctl.model.recurrent import recurrent_cache


def device_bytes(device: torch.device, peak: bool = False) -> int | None:
    """Bytes held on all accelerators of its kind by this process, now or at the most; None on a CPU."""
    if device.type == "cuda":
        held = torch.cuda.max_memory_reserved if peak else torch.cuda.memory_reserved
        return sum(held(number) for number in range(torch.cuda.device_count()))
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return None


def auto_chunk(loaded: LoadedModel) -> tuple[int, str]:
    """Tokens a forward takes: where throughput has levelled off, and activations stay a small part of memory."""
    if loaded.device.type == "cpu":
        return 1024, "1024: CPU throughput levels off there"
    if recurrent_cache(loaded.model) is not None:
        return 1024, "1024: the stock scans of recurrent layers hold much for every token"
    config = loaded.model.config.get_text_config()
    widths = 16 * config.hidden_size + 4 * getattr(config, "intermediate_size", 4 * config.hidden_size)
    bytes_a_token = 4 * widths
    free = torch.cuda.mem_get_info(loaded.device)[0] if loaded.device.type == "cuda" else 4 << 30
    chunk = 16384
    while chunk > 256 and chunk * bytes_a_token > free // 4:
        chunk //= 2
    return chunk, f"{chunk}: activations of about {bytes_a_token * chunk / 2**30:.1f} GiB"
