"""How much memory a model leaves, and the block size that fits it."""

import ctypes
import sys
from pathlib import Path

import psutil
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


def free_bytes(device: torch.device) -> int:
    """Bytes that may still be taken: on the GPU, or in memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def process_peak(reset: bool = False) -> int | None:
    """Most bytes this process has held in memory; with `reset` it is counted anew from here (Linux).

    None where the system does not say, or does not let it be counted anew.
    """
    status = Path("/proc/self/status")
    if reset:
        _give_back()
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return None
    lines = status.read_text().splitlines() if status.exists() else []
    peak = next((line for line in lines if line.startswith("VmHWM:")), None)
    if peak is not None:
        return int(peak.split()[1]) << 10
    return None if reset else _peak_of_all_time()


def _give_back() -> None:
    """Let the C library return what was freed, which would otherwise hide what is taken next (glibc)."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def _peak_of_all_time() -> int | None:
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else peak << 10) or None


def reset_device_peak(device: torch.device) -> None:
    """Count the peak of `device_bytes` anew from here."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        for number in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(number)


def auto_chunk(loaded: LoadedModel) -> tuple[int, str]:
    """Tokens a forward takes: where throughput has levelled off, and activations stay a small part of memory."""
    if loaded.device.type == "cpu":
        return 1024, "1024: CPU throughput levels off there"
    if recurrent_cache(loaded.model) is not None:
        return 1024, "1024: the stock scans of recurrent layers hold much for every token"
    config = loaded.model.config.get_text_config()
    inner = getattr(config, "intermediate_size", 4 * config.hidden_size)
    widest = max(inner) if isinstance(inner, list | tuple) else inner  # Gemma 3n says it for every layer
    bytes_a_token = 4 * (16 * config.hidden_size + 4 * widest)
    free = torch.cuda.mem_get_info(loaded.device)[0] if loaded.device.type == "cuda" else 4 << 30
    chunk = 16384
    if loaded.device.type == "cuda":
        chunk = in_waves(chunk, torch.cuda.get_device_properties(loaded.device).multi_processor_count)
    while chunk > 256 and chunk * bytes_a_token > free // 4:
        chunk //= 2
    return chunk, f"{chunk}: activations of about {bytes_a_token * chunk / 2**30:.1f} GiB"


def in_waves(tokens: int, processors: int, tile: int = 128) -> int:
    """About so many tokens: a multiple of what gives each multiprocessor of a GPU as many tiles of a product.

    So none of them is idle at a product's end; a token of 16,896 takes an H200 1.5 % less time than one of 16,384.
    """
    wave = tile * processors
    return round(tokens / wave) * wave or tokens
