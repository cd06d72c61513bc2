"""What other libraries do with a converted folder: caches, shards, adapters, quantized weights."""

import copy

import pytest
import torch
from designed import designed
from families import tiny
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, QuantizedCache, TorchAoConfig

from sinkctl.sinks.storage import granite_swa

HEADS, WIDTH = 4, 16
IDS = torch.randint(3, 64, (2, 24), generator=torch.Generator().manual_seed(0))
OWN = {
    "sink_logit": dict(kind="sink_logit", parameters=["logit", "bias", "lost_key", "lost_value"]),
    "kv_bias": dict(kind="kv_bias", parameters=["key", "value"]),
    "softpick": dict(kind="softpick", parameters=["offset", "bias"]),
    "gate": dict(kind="gate", place="output", form="headwise", parameters=["gate.weight"]),
    "gate_value": dict(kind="gate", place="value", form="headwise", parameters=["gate.weight"]),
}
SMALL = {"hidden_size": HEADS * WIDTH, "intermediate_size": 128}
by_form = pytest.mark.parametrize("form", ["granite_swa", *OWN])


def converted(form: str):
    """A tiny Llama with a visible sink, in the class that holds it."""
    if form != "granite_swa":
        model = designed("llama", OWN[form], **SMALL)
        model.config.eos_token_id = model.generation_config.eos_token_id = None
        return model
    drawn = torch.Generator().manual_seed(1)
    logit, bias = torch.randn(HEADS, generator=drawn) + 2, torch.randn(HEADS, WIDTH, generator=drawn) / 2
    model = granite_swa.build(tiny("llama", SMALL, torch.float32), [{"logit": logit, "bias": bias}] * 2)
    model.generation_config.eos_token_id = None
    return reallocated(model)


def reallocated(model):
    """With buffers of its own: what is built for saving has none."""
    whole = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32, attn_implementation="eager")
    whole.load_state_dict(model.state_dict())
    whole.generation_config = model.generation_config
    return whole.eval()


@by_form
def test_a_static_cache_writes_what_a_growing_one_does(form):
    model, asked = converted(form), dict(max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert torch.equal(model.generate(IDS, cache_implementation="static", **asked), model.generate(IDS, **asked))


@by_form
@torch.no_grad()
def test_shards_hold_what_one_file_does(form, tmp_path):
    model = converted(form)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


@by_form
def test_lora_is_trained_loaded_and_merged(form, tmp_path):
    peft = pytest.importorskip("peft")
    base = converted(form).double()
    settings = peft.LoraConfig(target_modules=["q_proj", "v_proj", "o_proj"], r=4, init_lora_weights=False)
    model = peft.get_peft_model(copy.deepcopy(base), settings, autocast_adapter_dtype=False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = model(IDS, labels=IDS).loss
    before.backward()
    optimizer.step()
    with torch.no_grad():
        trained = model.eval()(IDS)
        assert not torch.allclose(trained.logits, base(IDS).logits, atol=1e-2)
        model.save_pretrained(tmp_path)
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path, autocast_adapter_dtype=False).eval()
        assert torch.allclose(loaded(IDS).logits, trained.logits, atol=1e-6)
        assert torch.allclose(loaded.merge_and_unload()(IDS).logits, trained.logits, atol=1e-6)


@by_form
@pytest.mark.parametrize("package", ["torchao", "bitsandbytes 8", "bitsandbytes 4"])
@torch.no_grad()
def test_quantized_weights_err_as_much_as_those_of_the_stock_class(form, package, tmp_path):
    """Projections alone are quantized; sinks are not."""
    quantization = pytest.importorskip("torchao.quantization" if package == "torchao" else "bitsandbytes")
    if package == "torchao":
        asked = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    else:
        four = package.endswith("4")
        asked = BitsAndBytesConfig(load_in_8bit=not four, load_in_4bit=four, bnb_4bit_compute_dtype=torch.float32)
    error = {}
    for name, model in {"stock": tiny("llama", SMALL, torch.float32), form: converted(form)}.items():
        model.save_pretrained(tmp_path / name)
        quantized = AutoModelForCausalLM.from_pretrained(
            tmp_path / name, quantization_config=asked, attn_implementation="eager", dtype=torch.float32
        )
        packed = [name for name, x in quantized.named_parameters() if type(x) is not torch.nn.Parameter]
        assert len(packed) == 14, "7 projections of 2 layers"
        assert not any(".sink." in name for name in packed)
        exact = model(IDS).logits
        error[name] = float((quantized(IDS).logits - exact).norm() / exact.norm())
    assert 0 < error[form] < 3 * error["stock"], error


@pytest.mark.parametrize("form", ["granite_swa", "kv_bias", "gate"])
@torch.no_grad()
def test_torch_compile_takes_a_forward_pass_as_one_graph(form):
    model = converted(form)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(IDS, use_cache=False).logits, model(IDS, use_cache=False).logits)


@by_form
@torch.no_grad()
def test_a_quantized_cache_errs_as_much_as_that_of_the_stock_class(form, tmp_path):
    """transformers takes full attention alone; the card of a granite_swa folder says how to call its first layer so."""
    pytest.importorskip("hqq")
    error = {}
    for name, model in {"stock": tiny("llama", SMALL, torch.float32), form: converted(form)}.items():
        if name == "granite_swa":
            model.save_pretrained(tmp_path)
            model = AutoModelForCausalLM.from_pretrained(tmp_path, layer_types=["full_attention"] * 2)
        cache = QuantizedCache(
            "hqq", model.config, nbits=4, residual_length=4, q_group_size=16, axis_key=1, axis_value=1
        )
        exact = model(IDS).logits[:, -1]
        model(IDS[:, :16], past_key_values=cache)
        for t in range(16, IDS.shape[1]):
            last = model(IDS[:, t : t + 1], past_key_values=cache).logits[:, -1]
        error[name] = float((last - exact).norm() / exact.norm())
    assert 0 < error[form] < 3 * error["stock"], error
