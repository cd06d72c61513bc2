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


class Nothing(BaseHTTPRequestHandler):
    """A Hub that has nothing, and answers."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_hub_out_of_reach_is_told_and_one_that_answers_is_asked(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), Nothing)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    check_checkpoint(ModelSettings(name="nobody/nothing"))  # reached: what it has, loading tells
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


def test_dtypes_by_their_other_names():
    names = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "float": "float32", "fp64": "float64"}
    assert {name: ModelSettings(dtype=name).dtype for name in names} == names
    assert load(ModelSettings(device="cpu", dtype="double")).dtype == torch.float64
