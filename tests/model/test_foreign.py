"""What a user may take for a checkpoint is named, with what to do."""

import io
import json
import shutil
import struct
import zipfile

import pytest

from sinkctl.errors import ModelError
from sinkctl.model.files import check_checkpoint
from sinkctl.model.load import load
from sinkctl.model.named import DEMO
from sinkctl.model.settings import ModelSettings


def zipped(name: str, content: str = "words") -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr(name, content)
    return held.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.safetensors", b"\x10\0\0\0\0\0\0\0{}", "weights alone; give the folder"),
        ("m.onnx", b"\x08\x07", "is an ONNX graph"),
        ("m.pt", b"PK\x03\x04", "pickled weights alone; .*--allow-pickle"),
        ("stories.bin", struct.pack("<7i", 64, 172, 5, 8, 4, 512, 512) + bytes(1 << 17), "is a llama2.c"),
        ("book.pdf", b"%PDF-1.7", "is a PDF"),
        ("m.tar.gz", b"\x1f\x8b\x08", "unpack it"),
        ("m.zip", b"PK\x03\x04", "unzip it"),
        ("sha256-0", b"GGUF\x03\0\0\0", "GGUF without its suffix"),
        ("tf_model.h5", b"\x89HDF", "Keras or TensorFlow"),
        ("m.bin", b"GGUF\x03\0\0\0", "GGUF without its suffix; link or rename it to NAME.gguf"),
        ("m.pt", struct.pack("<Q", 64) + b'{"a":{}}', "is weights alone"),
        ("model.bin", b"\x80\x02}q\0", "is pickled weights alone"),
        ("weights", b"PK\x03\x04" + b"\0" * 26 + b"archive/data.pkl", "is pickled weights alone"),
        ("a.docx", zipped("word/document.xml"), "is a Word document; --model takes a checkpoint"),
        ("a.xlsx", zipped("xl/workbook.xml"), "is an Excel workbook"),
        ("a.epub", zipped("mimetype", "application/epub+zip"), "is an EPUB book"),
        ("a.png", b"\x89PNG\r\n", "is a PNG image"),
        ("a.jpg", b"\xff\xd8\xff\xe0", "is a JPEG image"),
        ("a.tar", b"a" * 257 + b"ustar", r"is a tar archive; unpack it \(tar -xf\)"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c", r"is a 7z archive; unpack it \(7z x\)"),
        ("a.db", b"SQLite format 3\0", "is an SQLite database"),
        ("m.nemo", b"a" * 257 + b"ustar", "is a NeMo archive"),
        ("model", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("nothing", b"", "is empty; download it again"),
        ("x.gguf", b"", r"x\.gguf: is empty; download it again"),
        ("x.gguf", b"GGUF", r"x\.gguf: is cut short, 4 bytes; download it again"),
        ("x.gguf", b"PK\x03\x04", r"is no GGUF file \(it is a zip archive\)"),
    ],
)  # fmt: skip
def test_a_file(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=said):
        check_checkpoint(ModelSettings(name=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("files", "config", "said"),
    [
        (["model_index.json"], None, "is a diffusers pipeline"),
        (["modules.json"], None, "sentence-transformers"),
        (["tokenizer.json", "tokenizer_config.json"], None, "has only a tokenizer"),
        (["model.safetensors", "tokenizer.json"], None, r"weights and no config\.json"),
        (["model.onnx"], None, "is an ONNX model"),
        ([], None, "is an empty folder; name the folder that holds config.json and weights"),
        (["readme"], None, "no config.json, so this is not a Transformers checkpoint; name the folder that holds"),
        (["model.h5"], None, r"Keras or TensorFlow weights and no config\.json"),
        (["pytorch_model.bin"], None, r"has weights and no config\.json; take that of the model"),
        (["model.h5"], {"model_type": "bert"}, r"has Keras or TensorFlow weights \(\.h5\)"),
        ([], {"model_type": "bert"}, r"no weights \(\*\.safetensors\) beside config\.json; download them too"),
        (["tf_model.h5"], {"model_type": "bert"}, "from_tf=True"),
        (["flax_model.msgpack"], {"model_type": "bert"}, "from_flax=True"),
        (["weights.npz"], {"model_type": "llama"}, "MLX weights"),
        (["model.safetensors"], {"model_type": "llama", "quantization": {"bits": 4, "group_size": 64}}, "by MLX"),
        (["model.safetensors"], {"architecture": "vit_small", "pretrained_cfg": {}}, "is a timm model"),
    ],
)
def test_a_folder(tmp_path, files, config, said):
    for name in files:
        (tmp_path / name).touch()
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=said):
        check_checkpoint(ModelSettings(name=str(tmp_path)))


def test_what_is_damaged_or_missing_beside_the_weights_is_named(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(DEMO, folder)
    whole = (folder / "tokenizer.json").read_bytes()
    for name, damage, said in (
        ("tokenizer.json", whole[:5000], r"tokenizer\.json: cannot be read"),
        ("tokenizer.json", whole.replace(b"{", b"{" + b" " * (1 << 20), 1)[:-9], r"tokenizer\.json: is cut short"),
        ("generation_config.json", b"{", r"generation_config\.json: cannot be read"),
    ):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(damage)
        with pytest.raises(ModelError, match=said):
            check_checkpoint(ModelSettings(name=str(folder)))
        (folder / name).write_bytes(kept)
    check_checkpoint(ModelSettings(name=str(folder)))
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"no tokenizer .*take that of the model it was trained from"):
        check_checkpoint(ModelSettings(name=str(folder)))


def test_a_pickle_that_is_cut_short_is_named_where_one_may_be_loaded(tmp_path):
    shutil.copy(DEMO / "config.json", tmp_path)
    shutil.copy(DEMO / "tokenizer.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(zipped("archive/data.pkl")[:-10])
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is damaged or cut short"):
        check_checkpoint(ModelSettings(name=str(tmp_path), allow_pickle=True))
    (tmp_path / "pytorch_model.bin").write_bytes(zipped("archive/data.pkl"))
    check_checkpoint(ModelSettings(name=str(tmp_path), allow_pickle=True))


def test_a_model_type_that_transformers_does_not_know_is_named(tmp_path):
    shutil.copytree(DEMO, tmp_path, dirs_exist_ok=True)
    config = json.loads((DEMO / "config.json").read_text()) | {"model_type": "frobnicate"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"model type frobnicate is unknown .*pip install -U transformers"):
        load(ModelSettings(name=str(tmp_path), device="cpu"))


def test_a_file_of_a_checkpoint_sends_to_its_folder(tmp_path):
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(DEMO / name, tmp_path)
        with pytest.raises(ModelError, match=f"is a file of a checkpoint; give its folder, {tmp_path}"):
            check_checkpoint(ModelSettings(name=str(tmp_path / name)))
