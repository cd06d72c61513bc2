"""One model over two processes: what they find is what one process finds."""

import json
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from families import STREAMED, tiny
from places import DATA
from processes import launched, saving_often
from safetensors.torch import load_file

from sinkctl.result.store import RESULT

TEXT = (DATA / "stories.txt").read_text(encoding="utf-8")[:3000]
TIMED = ("second", "_ms", "ms_", "phases", "memory", "pace", "choices", "per_s")  # in names of what differs every time
# Two key/value heads, so that each process has one (Qwen, with biases; Llama); experts; sink logits, which are shared
# out with the heads, and layers with windows.
CASES = [
    ("qwen2", "generate"), ("qwen2", "measure"), ("mixtral", "stream"), ("mixtral", "measure"),
    ("granite_swa", "stream"), ("granite_swa", "measure"),
]  # fmt: skip
WORDS = {
    "stream": ["stream", "text.txt", "-p", "4+60", "-p", "heavy_hitter:4+28", "--chunk", 128, "--limit", 400],
    "generate": ["stream", "-g", 24, "--prompt", "Once upon a time", "--prompt", "The", "-p", "2+9"],
    "measure": [
        "measure", "--text", "text.txt", "--samples", 4, "--epsilon", 0.1, "--set", "cost.samples=2", "--set",
        "cost.window=40", "--set", "cost.tokens=1400",
    ],
}  # fmt: skip


@pytest.fixture
def stored(tmp_path):
    """A folder with a checkpoint of a shape, in float32, and the tokenizer of stories260K."""

    def store(model_type, settings):
        folder = tmp_path / model_type
        tiny(model_type, settings | {"vocab_size": 512}).float().save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(DATA / "stories260K" / name, folder)
        return folder

    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return store


def numbers(found, place=""):
    """Every number of a result but times and sizes of memory, by its place."""
    if isinstance(found, dict):
        name = str(found.get("name", ""))
        inner = {f"{place}.{key}": each for key, each in found.items() if not any(w in name + "." + key for w in TIMED)}
    elif isinstance(found, list):
        inner = {f"{place}.{number}": each for number, each in enumerate(found)}
    else:
        return {place: found} if isinstance(found, float) else {}
    return {own: x for key, each in inner.items() for own, x in numbers(each, key).items()}


def two(words):
    """The words in two processes that end well; the second one says nothing."""
    (code, _, said), second = (process.ended() for process in launched([*words, "--parallel", "tensor"]))
    assert (code, second) == (0, (0, "", "")), said + second[2]


@pytest.mark.parametrize(("shape", "task"), CASES)
def test_two_processes_find_what_one_finds(shape, task, stored, tmp_path, sinkctl, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*WORDS[task], "--model", stored(*STREAMED[shape]), "--device", "cpu", "--dtype", "float64"]
    assert sinkctl(*words, "-o", "one", "-q")[0] == 0
    two([*words, "-o", "two"])
    one, both = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    assert both["choices"]["parallel"].endswith("each with 2 of 4 heads and 1 of 2 key/value heads")
    truth, found = numbers(one), numbers(both)
    assert found.keys() == truth.keys()
    assert len(truth) > 3 or task == "generate"
    for place, x in truth.items():
        assert found[place] == pytest.approx(x, rel=1e-10, abs=1e-10), place
    for path in (tmp_path / "one").glob("*.npy"):
        np.testing.assert_array_equal(np.load(path), np.load(tmp_path / "two" / path.name))


def test_a_stopped_run_goes_on_as_one_of_all_heads(stored, tmp_path, sinkctl, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = stored("llama", dict(num_key_value_heads=4))
    words = ["stream", "text.txt", "-p", "4+60", "--chunk", 8, "--model", folder, "--device", "cpu", "-q"]
    assert sinkctl(*words, "-o", "one")[0] == 0
    first, second = launched([*words, "--parallel", "tensor", "-o", "two"], before=saving_often)
    while first.poll() is None and not (tmp_path / "two/state/state.json").exists():
        time.sleep(0.01)
    first.send_signal(signal.SIGTERM)
    code, _, said = first.ended()
    assert code == 130
    assert "continue with: sinkctl stream --resume two" in said
    assert second.ended() == (130, "", ""), "it stops where the first one stops"
    held = load_file(next((tmp_path / "two/state").glob("*.safetensors")))
    assert {tensor.shape[1] for tensor in held.values()} == {4}, "a state has all heads"
    processes = launched(["stream", "--resume", "two", "-q"])
    assert [process.ended()[0] for process in processes] == [0, 0]
    np.testing.assert_allclose(np.load("two/nll.npy"), np.load("one/nll.npy"), atol=2e-5)


def test_what_cannot_be_shared_is_refused_in_a_line(stored, tmp_path, sinkctl, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, falcon = stored(*STREAMED["llama"]), stored(*STREAMED["falcon"])
    words = ["stream", "text.txt", "--model", folder, "--device", "cpu", "--parallel", "tensor"]
    assert sinkctl(*words)[::2] == (
        2, "sinkctl: --parallel tensor: one process has nobody to share the model with; start "
        "torchrun --nproc_per_node N -m sinkctl …\n",
    )  # fmt: skip
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert "has 4 attention heads, which 3 processes cannot share equally" in sinkctl(*words)[2]
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "has 2 key/value heads, which 4 processes" in sinkctl(*words)[2]
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = json.loads((folder / "config.json").read_text())
    refused = {
        "no plan that shares out the heads of falcon": [*words[:3], falcon, *words[4:]],
        "2 processes: text is generated by one; --parallel tensor": ["stream", "-g", 3, "--model", folder],
        "--each file: with --parallel tensor the processes go through one text": [*words, "--each", "file"],
        "--policy heads: what each head keeps": [*words, "--set", 'policies=[{"kind": "heads", "whole": [[0, 1]]}]'],
        "--parallel tensor: not for a chat": ["stream", "--chat", *words[2:]],
        "is a GGUF file": [*words[:3], tmp_path / "a.gguf", *words[4:]],
        "every process has a GPU of its own": [*words[:5], "cuda:1", *words[6:]],
        "one checkpoint, which at most as many processes share out; --parallel tensor": ["measure", folder],
    }
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    for said, asked in refused.items():
        code, out, heard = sinkctl(*asked)
        assert (code in (2, 3), out) == (True, ""), said
        assert said in heard
        assert heard.count("\n") == 1, heard
    for more, said in (
        ({"quantization_config": {}}, "is quantized"),
        ({"sink": {"kind": "key_bias"}}, "attention in code of its own"),
    ):
        (folder / "config.json").write_text(json.dumps(config | more))
        assert said in sinkctl(*words)[2]


def test_checkpoints_are_shared_out_and_a_killed_measurement_goes_on_in_any_number(tmp_path, sinkctl, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"step{number}" for number in (1, 2, 3)]
    for name in names:
        shutil.copytree(DATA / "stories260K", name)
    words = ["measure", *names, "--samples", 40, "--no-cost", "--device", "cpu", "-q"]
    assert sinkctl(*words, "-o", "one")[0] == 0

    def same(folder):
        (found, arrays), (truth, others) = (
            (numbers(json.loads((path / RESULT).read_text())), load_file(path / "arrays.safetensors"))
            for path in (tmp_path / folder, tmp_path / "one")
        )
        assert found == truth
        assert arrays.keys() == others.keys()
        assert all(torch.equal(x.nan_to_num(), others[name].nan_to_num()) for name, x in arrays.items())

    assert [process.ended() for process in launched([*words, "-o", "two"])] == [(0, "", "")] * 2
    same("two")
    first, second = launched([*words, "-o", "cut"])
    own = tmp_path / "cut/state/process-1/state/state.json"
    while second.poll() is None and not own.exists():
        time.sleep(0.005)
    second.send_signal(signal.SIGKILL)
    code, out, said = first.ended()
    assert (code, out) == (3, ""), said
    assert "another process died; what all have measured is kept: continue with: sinkctl measure --resume cut" in said
    whole = json.loads((tmp_path / "cut/state/state.json").read_text())["parts"]
    assert {"0/costs", "2/costs"} <= whole.keys(), "the other one did all of its own"
    assert [process.ended()[0] for process in launched(["measure", "--resume", "cut", "-q"], 3)] == [0, 0, 0]
    assert not (tmp_path / "cut/state").exists()
    same("cut")
