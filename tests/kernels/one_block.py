"""CUDA C++ on a CPU: the threads of one block in turns, instructions of the tensor cores by their definition."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from sinkctl.kernels.rounded_decode import cuda

HERE = Path(__file__).parent
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def emulate(monkeypatch, folder: Path) -> None:
    """`cuda.launched` runs here, blocks one after another; what is compiled goes to `folder`."""

    def launched(variant, grid, arguments):
        options = cuda.options(*variant, False)
        library = folder / f"span{''.join(options)}.so"
        if not library.exists():
            source = library.with_suffix(".cu")
            source.write_text(cuda.source(1), encoding="utf-8")
            command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", *options, f'-DSOURCE="{source}"', "-x", "c++"]
            subprocess.run([*command, HERE / "one_block.hpp", "-o", library], check=True)
        values = [ctypes.c_void_p(x.data_ptr()) if isinstance(x, torch.Tensor) else x for x in arguments]
        fields = [(f"argument_{i}", type(x)) for i, x in enumerate(values)]
        packed = type("Arguments", (ctypes.Structure,), {"_fields_": fields})(*values)
        ctypes.CDLL(str(library)).run(ctypes.byref(packed), *grid)

    monkeypatch.setattr(cuda, "launched", launched)
