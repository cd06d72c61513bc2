"""Quantized weights: a stream says what the same weights say in stock transformers, and what they stand for."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import quantized_forms as forms
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import sinkctl as package
from sinkctl.check import check
from sinkctl.errors import ModelError
from sinkctl.model import quantized_files
from sinkctl.model.load import LoadedModel, load
from sinkctl.model.placement import size_of
from sinkctl.model.quantized_files import quantized_by
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.load import validate

peft = pytest.importorskip("peft")
TEXT = "Once upon a time there was a little girl. She was happy. Her dog said hello.\n" * 4


def losses(model, ids) -> torch.Tensor:
    with torch.no_grad():
        return cross_entropy(model(ids).logits[0, :-1].double(), ids[0, 1:], reduction="none")


def ids_of(folder: Path) -> torch.Tensor:
    return AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt").input_ids


def streamed(folder: Path, chunk: int = 64, **settings) -> tuple[torch.Tensor, LoadedModel]:
    (folder / "text.txt").write_text(TEXT)
    loaded = load(ModelSettings(name=str(folder), device="cpu", **settings))
    found = package.stream(
        folder / "text.txt",
        model=loaded,
        policies=["dense", "4+20"],
        chunk=chunk,
        bos="always",
        progress=lambda _: None,
    )
    assert found.result.choices["quantized"] == loaded.choices["quantized"]
    assert torch.isfinite(torch.tensor(found.nll["4+20"])).all()
    return torch.tensor(found.nll["dense"]).double(), loaded


def stock(folder: Path, **options):
    return AutoModelForCausalLM.from_pretrained(folder, device_map={"": "cpu"}, **options).eval()


@pytest.mark.parametrize("form", ["fp8", "mxfp4"])
def test_what_has_no_kernel_here_is_written_out_at_load(form, tmp_path):
    meant = getattr(forms, form)(tmp_path)
    found, loaded = streamed(tmp_path)
    torch.testing.assert_close(found, losses(meant, ids_of(tmp_path)), atol=2e-5, rtol=0)
    bits = {"fp8": 8, "mxfp4": 4}[form]
    assert loaded.choices["quantized"] == f"{form} {bits} bit, written out at load: no kernel for it runs on cpu"
    assert loaded.choices["dtype"].startswith("float32")
    assert loaded.model.num_parameters() == meant.num_parameters()


def as_near(found: torch.Tensor, folder: Path, adapter: str | None = None) -> bool:
    """Whether it is no farther from stock, in the mean, than twice what noise in the last bits makes of stock.

    The noise: another attention, and embeddings off by 1e-6 of themselves; it turns roundings.
    """
    ids, runs = ids_of(folder), []
    for name, noise in (("sdpa", 0), ("eager", 0), ("sdpa", 1e-6), ("eager", 1e-6)):
        model = stock(folder, attn_implementation=name)
        model(ids)  # compressed-tensors unpacks at the first pass
        model = model if adapter is None else peft.PeftModel.from_pretrained(model, adapter).eval()
        table = model.get_input_embeddings().weight.data
        table += noise * table * torch.randn(table.shape, generator=torch.Generator().manual_seed(len(runs)))
        runs.append(losses(model, ids))
    apart = max((run - runs[0]).abs().mean() for run in runs)
    assert apart < 0.02
    return bool((found - runs[0]).abs().mean() <= 2 * apart + 2e-5)


def test_bitsandbytes_4_bit(tmp_path):
    pytest.importorskip("bitsandbytes")
    forms.bitsandbytes(tmp_path, 4)
    found, loaded = streamed(tmp_path)
    assert as_near(found, tmp_path)  # its kernel for CPUs sums in bfloat16, which float32 noise turns
    assert loaded.choices["quantized"] == "bitsandbytes 4 bit (nf4)"
    ids = loaded.tokenizer("Once upon", return_tensors="pt").input_ids
    expected = stock(tmp_path).generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    said = package.generate("Once upon", model=loaded, tokens=12, policy="4+60", progress=lambda *_: None)
    assert said.ids[:, 0].tolist() == expected.tolist()
    written = load(ModelSettings(name=str(tmp_path), device="cpu", dequantize=True)).model
    assert type(written.model.layers[0].self_attn.q_proj) is nn.Linear
    assert torch.equal(losses(written, ids_of(tmp_path)), losses(stock(tmp_path).dequantize(), ids_of(tmp_path)))


def test_bitsandbytes_8_bit(tmp_path):
    pytest.importorskip("bitsandbytes")
    forms.bitsandbytes(tmp_path, 8)
    # One block of what the stock model gets, as LLM.int8 keeps a channel in 16 bits by all tokens of a block.
    found, loaded = streamed(tmp_path, chunk=1024)
    with torch.no_grad():
        ids = ids_of(tmp_path)
        expected = cross_entropy(stock(tmp_path)(ids[:, :-1]).logits[0].double(), ids[0, 1:], reduction="none")
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert any("Activations are rounded too (bitsandbytes 8 bit (LLM.int8))" in note for note in loaded.notes)


def test_bitsandbytes_8_bit_with_outliers_is_not_taken_for_a_recurrent_model(tmp_path):
    """LLM.int8 keeps a channel in 16 bits for all tokens of a block where any of them is an outlier in it."""
    pytest.importorskip("bitsandbytes")
    model = forms.plain(tmp_path)
    with torch.no_grad():
        table_VC = model.get_input_embeddings().weight
        ids = torch.arange(len(table_VC))
        table_VC[ids, ids % table_VC.shape[1]] += 180 * table_VC.abs().mean()
    model.save_pretrained(tmp_path)
    forms.bitsandbytes(tmp_path, 8, model)
    assert len(load(ModelSettings(name=str(tmp_path), device="cpu")).layers(40)) == 2


@pytest.mark.parametrize("kind", ["Int8WeightOnlyConfig", "Float8WeightOnlyConfig"])
def test_torchao(kind, tmp_path):
    pytest.importorskip("torchao")
    forms.torchao(tmp_path, kind)
    found, loaded = streamed(tmp_path)
    quantized = stock(tmp_path)
    meant = AutoModelForCausalLM.from_config(forms.LlamaConfig(**forms.SIZES), dtype=torch.float32).eval()
    weights = {
        name: x.dequantize() if type(x.data) is not torch.Tensor else x for name, x in quantized.named_parameters()
    }
    meant.load_state_dict(weights)
    torch.testing.assert_close(found, losses(meant, ids_of(tmp_path)), atol=2e-5, rtol=0)
    assert loaded.choices["quantized"] == f"torchao 8 bit ({kind})"
    plain = load(ModelSettings(name=str(tmp_path), device="cpu", dequantize=True))
    torch.testing.assert_close(losses(plain.model, ids_of(tmp_path)), losses(meant, ids_of(tmp_path)))


@pytest.mark.parametrize(("preset", "bits"), [("W4A16", 4), ("W8A8", 8), ("FP8_DYNAMIC", 8)])
def test_compressed_tensors(preset, bits, tmp_path):
    pytest.importorskip("compressed_tensors")
    forms.compressed_tensors(tmp_path, preset)
    found, loaded = streamed(tmp_path)
    expected = losses(stock(tmp_path), ids_of(tmp_path))
    if preset == "W4A16":
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    else:
        assert as_near(found, tmp_path)
    assert loaded.choices["quantized"].startswith(f"compressed-tensors {bits} bit (")
    assert bool(loaded.notes) == (preset != "W4A16")
    written = load(ModelSettings(name=str(tmp_path), device="cpu", dequantize=True))
    if preset == "W4A16":
        torch.testing.assert_close(losses(written.model, ids_of(tmp_path)), expected, atol=2e-5, rtol=0)
    assert getattr(written.model.config, "quantization_config", None) is None


def test_measure_takes_quantized_weights_and_leaves_out_what_reads_them(tmp_path):
    pytest.importorskip("compressed_tensors")
    forms.compressed_tensors(tmp_path, "W4A16")
    (tmp_path / "text.txt").write_text(TEXT)
    settings = dict(samples=2, length=24, files=[str(tmp_path / "text.txt")], device="cpu", progress=lambda _: None)
    done = package.measure(tmp_path, cost={"run": False}, **settings)
    assert done.result.choices["quantized"] == "compressed-tensors 4 bit (pack-quantized)"
    assert done.result.measure.checkpoints[0].inputs[0].balance_error < 1e-5


def test_convert_writes_plain_weights(tmp_path):
    source = tmp_path / "source"
    meant = forms.fp8(source)
    (tmp_path / "text.txt").write_text(TEXT * 4)
    done = package.convert(
        source, to="none", bos="keep", text=tmp_path / "text.txt", output=tmp_path / "out", device="cpu",
        evaluation={"run": False}, progress=lambda _: None,
    )  # fmt: skip
    written = stock(tmp_path / "out", dtype=torch.float32)
    torch.testing.assert_close(losses(written, ids_of(source)), losses(meant, ids_of(source)))
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    said = "The original's weights are fp8 8 bit; what is written is not quantized (float32)."
    assert said in done.result.notes
    assert said in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("package_of", ["compressed_tensors", "bitsandbytes"])
def test_an_adapter_stays_beside_quantized_weights(package_of, tmp_path):
    pytest.importorskip(package_of)
    getattr(forms, package_of)(tmp_path, {"compressed_tensors": "W4A16", "bitsandbytes": 4}[package_of])
    base = AutoModelForCausalLM.from_config(forms.LlamaConfig(**forms.SIZES))
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    adapter = str(tmp_path / "adapter")
    found, loaded = streamed(tmp_path, adapters=(adapter,))
    assert "kept beside the quantized weights" in loaded.choices["adapter"]
    assert as_near(found, tmp_path, adapter)


def said_of(folder: Path, said: dict, **settings) -> str:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": said}))
    with pytest.raises(ModelError) as error:
        check(validate({"task": "stream", "model": {"name": str(folder), "device": "cpu", **settings}}))
    return str(error.value)


def test_a_missing_package_and_a_missing_gpu_are_said_before_torch_is_imported(tmp_path, monkeypatch):
    forms.plain(tmp_path)
    monkeypatch.setattr(quantized_files, "find_spec", lambda name: None)
    for said, words in (
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
         "bitsandbytes 4 bit (nf4), which takes bitsandbytes; pip install 'sinkctl[quant]'"),
        ({"load_in_8bit": True}, "bitsandbytes 8 bit (LLM.int8), which takes bitsandbytes; pip"),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}},
         "torchao 4 bit (Int4WeightOnlyConfig), which takes torchao; pip install 'sinkctl[quant]'"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "pip install 'sinkctl[quant]'"),
        ({"quant_method": "gptq", "bits": 4},
         "gptq 4 bit, which takes optimum and gptqmodel; pip install optimum gptqmodel"),
        ({"quant_method": "awq", "bits": 4}, "awq 4 bit, which takes gptqmodel; pip install gptqmodel"),
    ):  # fmt: skip
        assert words in said_of(tmp_path, said)
    monkeypatch.setattr(quantized_files, "find_spec", lambda name: SimpleNamespace(origin="there"))
    assert "hqq 4 bit, which runs on a GPU alone" in said_of(tmp_path, {"quant_method": "hqq", "nbits": 4})


def test_what_a_config_says_of_its_weights():
    groups = {"group_0": {"weights": {"num_bits": 8}, "input_activations": {"num_bits": 8}}}
    inner = {"text_config": {"quantization_config": {"quant_method": "fp8"}}}
    older = {"compression_config": {"quant_method": "compressed-tensors", "format": "x", "config_groups": groups}}
    assert quantized_by({"model_type": "llama"}) is None
    assert quantized_by(inner).words == "fp8 8 bit"
    assert quantized_by(older) == ("compressed-tensors", 8, "x", True)
    assert quantized_by({"quantization_config": {"quant_method": "new"}}).words == "new"


def test_memory_is_estimated_from_the_bits_of_all_but_embedding_and_head():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **forms.SIZES))
    ends, rest = 2 * 512 * 128, model.num_parameters() - 2 * 512 * 128
    four = quantized_by({"quantization_config": {"quant_method": "gptq", "bits": 4}})
    assert size_of(model, torch.bfloat16, four) == pytest.approx(2 * ends + rest / 2, rel=0.01)
    assert size_of(model, torch.bfloat16, None) == pytest.approx(2 * (ends + rest), rel=0.01)
