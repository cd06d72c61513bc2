"""Names that lead nowhere are told at once; names of dtypes that others use are taken."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from huggingface_hub import constants

from sinkctl.errors import ModelError
from sinkctl.model.files import check_checkpoint
from sinkctl.model.load import load
from sinkctl.model.settings import ModelSettings


class Hub(BaseHTTPRequestHandler):
    """A Hub that has nothing, and says why by a model's name, as the Hub does."""

    def do_HEAD(self) -> None:
        code = self.path.split("/")[2]
        self.send_response(404)
        if code != "Plain":
            self.send_header("X-Error-Code", code)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_hub_is_asked_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), Hub)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + template)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    check_checkpoint(ModelSettings(name="nobody/EntryNotFound"))  # it is there: what it has, loading tells
    refused = {
        "RepoNotFound": "has no such model, or a private one: `hf auth login`, or HF_TOKEN, says who asks",
        "GatedRepo": "gives it to those who accept its terms on its page: `hf auth login`, or HF_TOKEN, says who asks",
        "RevisionNotFound": "has no --revision v9 of it",
        "Plain": "answers with HTTP status 404",
    }
    for code, words in refused.items():
        with pytest.raises(ModelError) as found:
            check_checkpoint(ModelSettings(name=f"nobody/{code}", revision="v9"))
        said = f"nobody/{code}: no such folder here, and the Hugging Face Hub ({constants.ENDPOINT}) {words}"
        assert str(found.value) == said
    server.shutdown()
    server.server_close()
    with pytest.raises(ModelError, match=r"nobody/nothing: .* \(http://127.* cannot be reached$"):
        check_checkpoint(ModelSettings(name="nobody/nothing"))


def test_a_near_name_is_proposed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    for name, said in (("dem", "did you mean demo"), ("./modle", r"did you mean \./model\?"), ("modle", "mean model")):
        with pytest.raises(ModelError, match=said):
            check_checkpoint(ModelSettings(name=name))
    with pytest.raises(ModelError, match="give a checkpoint folder"):
        check_checkpoint(ModelSettings(name="./elsewhere"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nosuch.gguf", "nosuch.gguf: no such file here, not in"),
        ("org/name#x.gguf", "org/name#x.gguf: no such file here, not in"),
        ("./nosuch.gguf", r"no such file; give a checkpoint"),
        ("storis.gguf", r"no such file here, .*; did you mean stories.gguf\?"),
        ("./stories", r"no such folder; did you mean \./stories.gguf\?"),
        ("demo/", r"did you mean demo\?$"),
        ("./demo", r"did you mean demo\?$"),
        ("https://huggingface.co/org/name", r"no such folder; did you mean org/name\?$"),
        ("https://huggingface.co/org/name/tree/main", r"did you mean org/name\?$"),
        ("hf.co/org/na.me-1", r"did you mean org/na.me-1\?$"),
        ("hf://org/name", r"did you mean org/name\?$"),
        ("https://hf.co/org/name/blob/main/x-Q4.gguf", r"no such file; did you mean org/name#x-Q4.gguf\?$"),
        ("https://example.com/model", "an address; download the checkpoint"),
        ("~/model", r"did you mean .*/home/model\?$"),
        ("dir.gguf", r"no config.json"),
    ],
)
def test_what_is_not_there_is_called_what_it_is_and_what_it_may_mean_is_said(monkeypatch, tmp_path, name, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in ("home/model", "dir.gguf/inner.gguf"):  # folders, whatever they are called
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "dir.gguf/readme").touch()
    (tmp_path / "stories.gguf").touch()
    with pytest.raises(ModelError, match=said):
        check_checkpoint(ModelSettings(name=name))


def test_dtypes_by_their_other_names():
    names = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "float": "float32", "fp64": "float64"}
    assert {name: ModelSettings(dtype=name).dtype for name in names} == names
    assert load(ModelSettings(device="cpu", dtype="double")).dtype == torch.float64
