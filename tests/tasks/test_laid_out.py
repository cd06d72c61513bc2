"""Layers in memory and on the disk: what is found is what a model in memory finds, in less of it."""

import json
import sys

import numpy as np
import pytest
import torch
from families import STREAMED
from places import DATA
from processes import SERVER
from results import numbers, store

from sinkctl.metrics.sink_rate import sink_rate
from sinkctl.model.load import load
from sinkctl.model.memory import process_peak
from sinkctl.model.settings import ModelSettings

TEXT = str(DATA / "stories.txt")
WORDS = {
    "stream": ["stream", TEXT, "--limit", 300, "-p", "4+60", "-p", "recompute:4+20"],
    "generate": ["stream", "-g", 8, "--prompt", "Once", "-p", "2+9"],
    "measure": ["measure", "--text", TEXT, "--samples", 5, "--set", "cost.samples=2", "--set", "cost.window=40"],
}  # fmt: skip


CASES = [("mixtral", "stream", "400KB"), ("qwen2", "generate", "320KB"), ("granite_swa", "measure", "250KB")]


@pytest.mark.parametrize(("shape", "task", "memory"), CASES)
def test_layers_on_the_disk_find_what_a_model_in_memory_finds(shape, task, memory, tmp_path, sinkctl):
    folder = store(tmp_path / shape, *STREAMED[shape])
    words = [*WORDS[task], "--model", folder, "--device", "cpu", "--dtype", "float64", "-q"]
    assert sinkctl(*words, "-o", tmp_path / "whole")[0] == 0
    laid = ["--device-map", "auto", "--max-memory", f"cpu={memory}", "--offload-folder", tmp_path]
    code, _, said = sinkctl(*words, *laid, "-o", tmp_path / "laid")
    assert code == 0, said
    assert "meta" not in said
    whole, laid = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "laid"))
    assert "on cpu" in laid["choices"]["device_map"]
    assert "on disk" in laid["choices"]["device_map"]
    assert numbers(laid) == numbers(whole)
    for path in (tmp_path / "whole").glob("*.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / "laid" / path.name), np.load(path))
    assert not list(tmp_path.glob("sinkctl-*")), "nothing is left of what was put there"


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is counted anew on Linux alone")
def test_layers_on_the_disk_take_no_memory_when_they_do_not_run(tmp_path):
    """Each in a process of its own: in this one, what earlier tests hold may be let go of meanwhile."""
    sizes = dict(hidden_size=512, intermediate_size=1024, num_hidden_layers=16, num_attention_heads=8)
    folder = store(tmp_path / "llama", "llama", sizes)  # 137 MB in 16 layers
    held = []
    for settings in ({}, {"device_map": "auto", "max_memory": {"cpu": "12MB"}}):
        with SERVER.Pool(1) as pool:
            held.append(pool.apply(bytes_held, (str(folder), settings)))
    assert held[0] > 100 << 20
    assert held[1] < held[0] / 3


def bytes_held(folder: str, settings: dict) -> int:
    """The most that running the model takes."""
    before = process_peak(reset=True)
    loaded = load(ModelSettings(name=folder, device="cpu", **settings))
    process_peak(reset=True)  # the fingerprint of a file this small reads all of it
    sink_rate(loaded.model, torch.arange(64)[None])
    return process_peak() - before


def test_what_a_device_map_cannot_do_is_said_in_a_line(tmp_path, sinkctl):
    folder = store(tmp_path / "llama", *STREAMED["llama"])
    words, auto = ["measure", folder, "--device", "cpu"], ["--device-map", "auto"]
    refused = {
        "--max-memory: says more of a --device-map; give --device-map auto": ["--max-memory", "cpu=1GiB"],
        "--max-memory 8GiB: say cpu=8GiB or cpu=500MB, or the number of a GPU": [*auto, "--max-memory", "8GiB"],
        "--offload-folder nowhere: no such folder": [*auto, "--offload-folder", "nowhere"],
        "--parallel tensor": [*auto, "--parallel", "tensor"],
    }
    for said, more in refused.items():
        code, out, heard = sinkctl(*words, *more)
        assert (code, out, heard.count("\n")) == (2, "", 1), heard
        assert said in heard
    brief = ["stream", TEXT, "--limit", 20, "--model", folder, "--device", "cpu", *auto]
    assert sinkctl(*brief)[0] == 0, "where it fits, all of it is in memory"
    code, _, heard = sinkctl(*words, *auto, "--max-memory", "cpu=much")
    assert (code, heard.count("\n")) == (2, 1)
    assert heard.startswith("sinkctl: --max-memory")
