"""Bad input is refused from settings and the disk alone: by the command line without torch, by Python calls alike."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf_files import write_gguf
from safetensors.numpy import save_file

import sinkctl as package
from sinkctl.check import check
from sinkctl.check.bench import check_held
from sinkctl.check.texts import check_texts
from sinkctl.errors import BaselineError, ModelError, TextError, UsageError
from sinkctl.model import files
from sinkctl.model.files import check_device, check_model
from sinkctl.model.named import DEMO
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.load import load, validate
from sinkctl.recipe.named import built_in

ONE_PROCESS = """
import json, sys
from sinkctl.cli import main
ended = []
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as stop:
        ended.append(stop.code)
assert not {"torch", "transformers"} & set(sys.modules), "what the disk tells needs neither"
print(json.dumps(ended))
"""


def test_a_text_is_read_for_its_first_megabytes(tmp_path):
    late, words = tmp_path / "late.txt", b"Once upon a time. " * 200_000
    late.write_bytes(words + b"\xff" + words)
    with pytest.raises(TextError, match=f"byte {len(words)} is not UTF-8"):
        check_texts([str(late)])
    late.write_bytes(words[:-1] + b"\0")
    with pytest.raises(TextError, match=f"byte {len(words) - 1} is zero"):
        check_texts([str(late)])


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A folder with a text, damaged and foreign checkpoints, an empty baseline; one stands in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("bare", "broken", "pickled"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{" if name == "broken" else (DEMO / "config.json").read_text())
    (tmp_path / "pickled/pytorch_model.bin").touch()
    (tmp_path / "plain.txt").write_text("Once upon a time. " * 20)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "finished").mkdir()
    write_gguf(tmp_path / "seven.gguf", sizes={"block_count": 7})
    write_gguf(tmp_path / "phi.gguf", arch="phi3")
    (tmp_path / "phi").mkdir()
    phi = json.loads((DEMO / "config.json").read_text()) | {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]}
    (tmp_path / "phi/config.json").write_text(json.dumps(phi))
    save_file({"model.layers.0.self_attn.o_proj.weight": np.zeros((4, 4))}, tmp_path / "phi/model.safetensors")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text('{"peft_type": "LORA"}')
    part = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight".format
    sides = {part("A"): np.zeros((4, 64), np.float32), part("B"): np.zeros((64, 4), np.float32)}
    save_file(sides, tmp_path / "adapter/adapter_model.safetensors")
    (tmp_path / "finished/result.json").write_text("{}")
    return tmp_path


def test_what_the_disk_tells_is_said_before_torch_is_imported(desk):
    mistakes = [
        (3, "stream nowhere.txt"),
        (3, "stream -m bare"),
        (3, "stream --chat"),
        (2, "stream -o finished"),
        (2, "stream -g 5 --set sampling.config.eos_token_id=null"),
        (3, "stream -m seven.gguf"),
        (3, "stream -m demo --adapter adapter"),
        (3, "convert phi.gguf --to kv_bias -o x"),
        (3, "convert phi.gguf --to value_bias -o x"),
        (3, "convert phi.gguf --to gate -o x"),
        (3, "convert phi --to value_bias -o x"),
        (3, "convert demo --to gate --start match --store stock -o x"),
        (3, "stream /dev/null"),
        (2, "stream --device gpu"),
        (2, "stream --fail-on perplexty<=30"),
        (3, "stream -g 5 --prompt-file empty.txt"),
        (3, "stream --questions nowhere.jsonl"),
        (2, "stream -p snap:4+60"),
        (2, "stream -p 4+0"),
        (2, "stream -p layers:4+60:0,12"),
        (2, "stream -p layers:4+60:0 --kv 4bit"),
        (2, "stream -p heads:4+60:finished@1.5"),
        (3, "stream -p recompute:4+600"),
        (2, "stream -g endless -p snap:4+60"),
        (3, "measure demo pickled"),
        (2, "measure --text photo.png"),
        (3, "measure --suspect empty.txt"),
        (3, "measure bare --dry-run"),
        (3, "measure phi/config.json --dry-run"),
        (2, "measure --fail-on sink_rat<=3"),
        (3, "convert broken -o x"),
        (3, "convert -o x --steps 5 --train-text nowhere.txt"),
        (2, "convert -o finished"),
        (2, "bench --fail-on stream.tokens_per_s:10%"),
        (3, "bench --baseline empty.txt"),
        (3, "bench -m bare"),
        (2, "bench --shape llama-2-70b"),
    ]
    asked = json.dumps([line.split() for _, line in mistakes])
    done = subprocess.run([sys.executable, "-c", ONE_PROCESS, asked], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [code for code, _ in mistakes], done.stderr
    assert len(done.stderr.splitlines()) == len(mistakes)


def test_a_converted_checkpoint_is_known_by_its_config(desk):
    (desk / "sunk").mkdir()
    for file in DEMO.iterdir():
        (desk / "sunk" / file.name).symlink_to(file)
    (desk / "sunk/config.json").unlink()
    said = json.loads((DEMO / "config.json").read_text()) | {"sink": {"kind": "gate"}, "model_type": "sink_llama"}
    (desk / "sunk/config.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match=r"^sunk is a converted checkpoint \(gate\); convert the original"):
        check(validate({"task": "convert", "model": {"name": "sunk"}}), output="x")


def test_python_calls_refuse_the_same(desk):
    with pytest.raises(TextError, match=r"nowhere\.txt: no such file"):
        package.stream("nowhere.txt")
    with pytest.raises(ModelError, match="bare: no weights"):
        package.generate("It was", model="bare")
    with pytest.raises(ModelError, match=r"broken/config\.json: cannot be read"):
        package.measure("broken")
    with pytest.raises(UsageError, match="finished: exists already"):
        package.convert(output="finished")
    with pytest.raises(UsageError, match="nothing to compare with"):
        package.bench("ci", fail_on=["stream.tokens_per_s:10%"])


def test_texts_are_told_by_how_they_begin(desk):
    (desk / "late.txt").write_bytes(b"good text. " * 9000 + b"\xff")
    (desk / "cut.txt").write_bytes("é".encode() * (1 << 19) + "xé".encode())  # the look ends inside a character
    (desk / "half.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    for names, words in (
        (["late.txt"], "byte 99000 is not UTF-8"),
        (["plain.txt", "late.txt"], "byte 99000"),
        (["half.jsonl"], "half.jsonl:2: no field 'text'"),
        (["empty.txt", "empty.txt"], "no text in it"),
    ):
        with pytest.raises(TextError, match=words):
            check(validate({"task": "stream", "text": {"files": names}}))
    for names in (["empty.txt", "plain.txt"], ["cut.txt"], ["-"]):
        check(validate({"task": "stream", "text": {"files": names}}))


def test_a_device_is_refused_where_torch_was_built_without_it_or_there_is_no_driver(tmp_path, monkeypatch):
    (tmp_path / "version.py").write_text("cuda: Optional[str] = None\nhip: Optional[str] = None\n")
    found = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(files, "find_spec", lambda name: found)
    with pytest.raises(ModelError, match="--device cuda:1: not available here, as torch is installed without CUDA"):
        check_device("cuda:1")
    (tmp_path / "version.py").write_text("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n")
    monkeypatch.setattr(files.sys, "platform", "linux")

    def missing(name: str, mode: int) -> None:
        raise OSError(name)

    monkeypatch.setattr(files.ctypes, "CDLL", missing)
    with pytest.raises(ModelError, match="no NVIDIA driver"):
        check_device("cuda")
    monkeypatch.setattr(files.ctypes, "CDLL", lambda name, mode: None)
    check_device("cuda")
    (tmp_path / "version.py").write_text("cuda: Optional[str] = None\nhip: Optional[str] = '7.0'\n")
    check_device("cuda")
    with pytest.raises(ModelError, match="macOS"):
        check_device("mps")


def test_a_folder_above_the_checkpoint_and_a_revision_of_a_folder_are_named(desk):
    (desk / "runs/step-10").mkdir(parents=True)
    (desk / "runs/step-10/config.json").touch()
    with pytest.raises(ModelError, match=r"did you mean runs/step-10\?"):
        check_model(ModelSettings(name="runs"))
    with pytest.raises(UsageError, match="--revision main"):
        check_model(ModelSettings(name="bare", revision="main"))


def test_percent_gates_take_something_to_compare_with_and_enough_samples(desk):
    ci = load(built_in()["bench/ci"])
    nothing = dict(baseline=None, against=None, kept={})
    check_held(ci, **nothing)  # a suite's own
    with pytest.raises(UsageError, match=r"add --baseline FILE or --against GIT_REF"):
        check_held(ci, **nothing, asked=True)
    check_held(ci, **nothing | {"kept": {"against": "main"}}, asked=True)
    with pytest.raises(BaselineError, match="is empty"):
        check_held(ci, **nothing | {"baseline": "empty.txt"}, asked=True)


def test_a_gate_may_name_every_row_and_nothing_else():
    cases = [{"kind": "stream", "windows": [28, 60]}, {"kind": "kernel", "op": "rotate", "tokens": [64]}]

    def gated(*gates: str) -> None:
        check(validate({"task": "bench", "shape": "tiny", "cases": cases, "fail_on": gates}))

    gated("stream.tokens_per_s:5%", "stream.4+60.stock.tokens_per_s>=1", "stream.4+28.added_memory<=1e9")
    gated("kernel.64.triton.ms<=1")  # which ones there are is for the machine to say
    for wrong, meant in {
        "stream.4+61.tokens_per_s:5%": "stream.4+60.tokens_per_s",
        "stream.4+60.stok.tokens_per_s:5%": "stream.4+60.stock.tokens_per_s",
        "kernel.64.triton.mss<=1": "kernel.64.ms",
        "sream.tokens_per_s:5%": "stream",
    }.items():
        with pytest.raises(UsageError) as error:
            gated(wrong)
        assert f"did you mean {meant!r}?" in str(error.value)
