"""Adapters: merged, a model says what stock peft says beside it; what cannot be merged is refused by name."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from gguf_files import write_gguf
from places import DATA
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

import sinkctl as package
from sinkctl.check import check
from sinkctl.errors import Interrupted, ModelError, RecipeError, ResumeError, UsageError
from sinkctl.model import adapter_files
from sinkctl.model.adapter_files import check_adapters, resolved
from sinkctl.model.files import check_checkpoint
from sinkctl.model.load import load
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.load import validate

peft = pytest.importorskip("peft")
BASE = str(DATA / "stories260K")
TEXT = "Once upon a time there was a little girl. She was happy.\n" * 5
WEIGHTS = "adapter_model.safetensors"


def trained(model, folder: Path, config, seed: int = 0) -> str:
    """A folder that peft wrote, of an adapter with random weights."""
    torch.manual_seed(seed)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    adapted.save_pretrained(folder)
    return str(folder)


def stock() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)


def lora(*modules: str, **settings) -> object:
    return peft.LoraConfig(r=4, target_modules=list(modules or ("q_proj", "v_proj")), **settings)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[str]:
    """Two LoRAs over stories260K, of other modules, with an initialization of their own."""
    folder = tmp_path_factory.mktemp("adapters")
    configs = [lora(task_type="CAUSAL_LM"), lora("o_proj", "down_proj")]
    return [trained(stock(), folder / name, c, n) for n, (name, c) in enumerate(zip("ab", configs, strict=True))]


@pytest.fixture
def copied(two, tmp_path) -> Path:
    """One of them, to be damaged."""
    return Path(shutil.copytree(two[0], tmp_path / "copy"))


@pytest.fixture
def text(tmp_path) -> str:
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


def losses(model) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(BASE)(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        return cross_entropy(model.eval()(ids).logits[0, :-1].double(), ids[0, 1:], reduction="none")


def streamed(text: str, model) -> torch.Tensor:
    found = package.stream(text, model=model, policies="dense", bos="always", progress=lambda _: None)
    return torch.tensor(found.nll["dense"]).double()


def test_a_stream_has_the_losses_of_stock_peft(two, text):
    adapter = ModelSettings(name=two[0], device="cpu")  # its base is in its config
    expected = losses(peft.PeftModel.from_pretrained(stock(), two[0]))
    assert (expected - losses(stock())).abs().mean() > 0.05
    loaded = load(adapter)
    assert type(loaded.model) is type(stock())
    assert "a (LORA of rank 4): merged into the weights in float32" in loaded.choices["adapter"]
    torch.testing.assert_close(streamed(text, loaded), expected, atol=2e-5, rtol=0)
    named = load(ModelSettings(name=BASE, adapters=(two[0],), device="cpu"))
    assert torch.equal(losses(named.model), losses(loaded.model))
    assert named.fingerprint == loaded.fingerprint


def test_two_adapters_add_up_in_any_order_and_a_merged_folder_is_the_same(two, text, tmp_path):
    both = peft.PeftModel.from_pretrained(stock(), two[0])
    both.load_adapter(two[1], "second")
    both.base_model.set_adapter(["default", "second"])
    expected = losses(both)
    found = load(ModelSettings(name=BASE, adapters=tuple(two), device="cpu"))
    torch.testing.assert_close(losses(found.model), expected, atol=2e-5, rtol=0)
    over = load(ModelSettings(name=two[0], adapters=(two[1],), device="cpu"))  # the second over an adapter by name
    assert torch.equal(losses(over.model), losses(found.model))
    merged = peft.PeftModel.from_pretrained(stock(), two[0]).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(BASE).save_pretrained(tmp_path / "merged")
    one = load(ModelSettings(name=BASE, adapters=(two[0],), device="cpu"))
    same = load(ModelSettings(name=str(tmp_path / "merged"), device="cpu"))
    torch.testing.assert_close(losses(one.model), losses(same.model), atol=2e-5, rtol=0)


RELATIVES = {
    "DoRA": lora(use_dora=True),
    "rank-stabilized": lora(use_rslora=True, lora_alpha=16),
    "IA3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LoHa": peft.LoHaConfig(r=4, target_modules=["q_proj"]),
    "OFT": peft.OFTConfig(oft_block_size=8, target_modules=["q_proj"]),
    "norms": peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "head": lora("q_proj", "lm_head"),
    "embedding": lora("q_proj", "embed_tokens"),
    "whole embedding": lora(modules_to_save=["embed_tokens"]),
    "whole head": lora(modules_to_save=["lm_head"]),
    "both, tied": lora("q_proj", "embed_tokens", ensure_weight_tying=True),
    "whole, tied": lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "tokens": lora(trainable_token_indices=[3, 5]),
}


@pytest.mark.parametrize("kind", RELATIVES)
def test_what_changes_weights_is_merged_as_stock_peft_runs_it(kind, tmp_path):
    folder = trained(stock(), tmp_path / "adapter", RELATIVES[kind])  # the embedding of stories260K is its head too
    expected = losses(peft.PeftModel.from_pretrained(stock(), folder))
    model = load(ModelSettings(name=folder, device="cpu")).model
    torch.testing.assert_close(losses(model), expected, atol=2e-5, rtol=0)
    assert all(weight.requires_grad for weight in model.parameters())
    model.save_pretrained(tmp_path / "saved")  # what convert does
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    torch.testing.assert_close(losses(again), losses(model), atol=1e-6, rtol=0)


def test_an_adapter_with_tokens_of_its_own_brings_their_rows_and_its_tokenizer(tmp_path, text):
    tokenizer, model = AutoTokenizer.from_pretrained(BASE), stock()
    tokenizer.add_tokens(["<new>", "<newer>"])
    model.resize_token_embeddings(514)
    folder = trained(model, tmp_path / "adapter", lora(modules_to_save=["embed_tokens", "lm_head"]))
    tokenizer.save_pretrained(folder)
    resized = stock()
    resized.resize_token_embeddings(514)
    expected = losses(peft.PeftModel.from_pretrained(resized, folder))
    loaded = load(ModelSettings(name=BASE, adapters=(folder,), device="cpu"))
    torch.testing.assert_close(losses(loaded.model), expected, atol=2e-5, rtol=0)
    assert len(loaded.tokenizer) == loaded.rows == 514
    assert "514 tokens" in loaded.choices["adapter"]
    assert loaded.choices["tokenizer files"] == f"{folder}: the adapter was saved with them"


def test_half_precision_and_double_stay_what_they_are(two):
    for dtype in (torch.bfloat16, torch.float64):
        loaded = load(ModelSettings(name=two[0], device="cpu", dtype=str(dtype).removeprefix("torch.")))
        assert {weight.dtype for weight in loaded.model.parameters()} == {dtype}


def test_measure_puts_base_and_adapted_side_by_side(two, sinkctl, text):
    options = ["--samples", "1", "--length", "16", "--text", text, "--no-cost", "--only", "attention", "-q", "--json"]
    code, out, err = sinkctl("measure", BASE, "--adapter", two[0], *options)
    assert code == 0, err
    columns = json.loads(out)["measure"]["checkpoints"]
    assert [column["label"] for column in columns] == ["stories260K", "stories260K+a"]
    assert columns[0]["inputs"] != columns[1]["inputs"]
    code, out, err = sinkctl("measure", two[0], *options)
    assert code == 0, err
    alone = json.loads(out)["measure"]["checkpoints"]
    assert [column["label"] for column in alone] == ["a"]
    assert alone[0]["inputs"][0]["layers"] == columns[1]["inputs"][0]["layers"]
    loaded = load(ModelSettings(name=BASE, adapters=(two[0],), device="cpu"))
    settings = dict(samples=1, length=16, files=[text], cost={"run": False}, progress=lambda _: None)
    assert [c.label for c in package.measure(loaded, **settings).result.measure.checkpoints] == ["stories260K+a"]


def test_convert_writes_the_adapter_into_the_weights(two, text, tmp_path):
    done = package.convert(
        BASE, to="none", bos="keep", adapters=[two[0]], text=text, output=tmp_path / "out", device="cpu",
        evaluation={"run": False}, progress=lambda _: None,
    )  # fmt: skip
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    expected = losses(peft.PeftModel.from_pretrained(stock(), two[0]))
    torch.testing.assert_close(losses(written), expected, atol=2e-5, rtol=0)
    assert "merged into the weights" in done.result.choices["adapter"]
    card = (tmp_path / "out/README.md").read_text()
    assert "with the adapter a in its weights, was given" in card
    assert str(tmp_path) not in card


def test_a_run_is_not_resumed_with_another_adapter(two, text, tmp_path):
    settings = dict(model=ModelSettings(name=BASE, adapters=(two[0],), device="cpu"), chunk=16, policies="4+12")
    with pytest.raises(Interrupted):
        package.stream(text, output=tmp_path / "run", progress=lambda _: None, stop=lambda: True, **settings)
    other = settings | {"model": ModelSettings(name=BASE, adapters=(two[1],), device="cpu")}
    with pytest.raises(ResumeError, match="changed since this run was started"):
        package.stream(text, output=tmp_path / "run", resume=True, progress=lambda _: None, **other)
    package.stream(text, output=tmp_path / "run", resume=True, progress=lambda _: None, **settings)


def refused(folder: Path, base: str = BASE, **settings) -> str:
    with pytest.raises(ModelError) as error:
        load(ModelSettings(name=base, adapters=(str(folder),), device="cpu", **settings))
    return str(error.value)


def changed(folder: Path, **said) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    return folder


@pytest.mark.parametrize(
    "kind", ["PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "CPT", "ADAPTION_PROMPT", "XLORA", "POLY"]
)
def test_what_is_no_change_of_weights_is_refused_by_name(copied, kind):
    said = refused(changed(copied, peft_type=kind))
    assert kind.replace("_", " ").lower() in said
    assert "LoRA and what else changes weights works" in said


def test_what_peft_calls_prompt_learning_is_what_is_refused(tmp_path):
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    folder = trained(stock(), tmp_path / "prefix", config)
    assert "prefix tuning puts keys of its own in the cache" in refused(folder)
    for kind, its in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING.items():
        if its.is_prompt_learning.fget(type("Of", (), {})()) if isinstance(its.is_prompt_learning, property) else False:
            assert kind.value in adapter_files.VIRTUAL


def test_an_adapter_of_another_model_is_an_error(copied, two, tmp_path):
    said = refused(copied, base="demo")
    assert f"does not fit demo, as it is of {BASE}: layers.0.self_attn.q_proj is 192×192 there, and the adapter" in said
    assert "changes one of 64×64; name the model that it was trained on as --model" in said
    assert "Target modules" in refused(changed(copied, target_modules=["c_attn"]))
    changed(copied, target_modules=["q_proj", "v_proj"])
    held = load_file(copied / WEIGHTS)
    key = next(key for key in held if "layers.1" in key and "q_proj.lora_A" in key)
    save_file({k: x for k, x in held.items() if k != key}, copied / WEIGHTS, {"format": "pt"})
    assert "it lacks layers.1.self_attn.q_proj.lora_A.weight" in refused(copied)
    other = {key.replace("layers.1.", "layers.9."): held[key].clone()}
    save_file(held | other, copied / WEIGHTS, {"format": "pt"})
    assert "there is no place for its layers.9.self_attn.q_proj.lora_A.weight" in refused(copied)
    save_file(held | {key: torch.full_like(held[key], float("nan"))}, copied / WEIGHTS, {"format": "pt"})
    said = refused(copied)
    assert f"with {copied}" in said
    assert "NaN" in said
    activated = changed(Path(shutil.copytree(two[0], tmp_path / "activated")), alora_invocation_tokens=[1, 2])
    assert "invocation tokens" in refused(activated)


def test_headers_tell_of_an_adapter_that_does_not_fit(copied, two, tmp_path):
    """Over a folder and over a GGUF of the same model, whose matrices have other names."""
    held = load_file(copied / WEIGHTS)
    key = "base_model.model.model.layers.2.self_attn.v_proj.lora_{}.weight".format
    wrong = {
        "layers.2.self_attn.v_proj is 32×64 there, and the adapter changes one of 64×64": {
            key("B"): torch.zeros(64, 4)
        },
        "layers.2.self_attn.v_proj.lora_A.weight is of rank 8, and its lora_B.weight of 4": {
            key("A"): torch.zeros(8, 64)
        },
        "it lacks layers.2.self_attn.v_proj.lora_B.weight": {key("B"): None},
        "there is no place for its layers.5.self_attn.q_proj.lora_A.weight": {
            key(side).replace("layers.2", "layers.5").replace("v_proj", "q_proj"): held[key(side)].clone()
            for side in "AB"
        },
        "it lacks layers.2.self_attn.v_proj.lora_A.weight": {key("A"): None, key("B"): None},
    }
    gguf = write_gguf(tmp_path / "stories260K.gguf")
    for base in (BASE, str(gguf)):
        check_checkpoint(ModelSettings(name=base, adapters=tuple(two)))
        for said, tensors in wrong.items():
            kept = {name: x for name, x in (held | tensors).items() if x is not None}
            save_file(kept, copied / WEIGHTS, {"format": "pt"})
            with pytest.raises(ModelError, match=re.escape(said)):
                check_checkpoint(ModelSettings(name=base, adapters=(str(copied),)))


def test_an_adapter_over_another_base_of_its_sizes_is_noted(two, tmp_path):
    shutil.copytree(BASE, tmp_path / "another")
    (note,) = load(ModelSettings(name=str(tmp_path / "another"), adapters=(two[0],))).notes
    assert note == (
        f"{two[0]} was trained over {BASE}, as its adapter_config.json says; here it changes {tmp_path / 'another'}, "
        "whose matrices are of the same sizes."
    )
    assert not load(ModelSettings(name=BASE, adapters=(two[0],))).notes


def test_an_adapter_named_twice_is_a_usage_error(two, tmp_path):
    """As it stands, through a link, and as the model's own name."""
    (tmp_path / "link").symlink_to(two[0])
    for name, adapters in ((BASE, (two[0], two[0])), (BASE, (two[0], str(tmp_path / "link"))), (two[0], (two[0],))):
        with pytest.raises(UsageError, match="is named twice, and would change the weights twice; leave one out"):
            check_checkpoint(ModelSettings(name=name, adapters=adapters))


def test_what_the_disk_tells_of_an_adapter(copied, tmp_path, monkeypatch):
    def said(name, **settings) -> str:
        with pytest.raises((ModelError, UsageError)) as error:
            check(validate({"task": "stream", "model": {"name": str(name), **settings}}))
        return str(error.value)

    assert f"its base gone is not here; say which: --model BASE --adapter {copied}" in said(
        changed(copied, base_model_name_or_path="gone")
    )
    assert "names no base" in said(changed(copied, base_model_name_or_path=None))
    shutil.copytree(BASE, tmp_path / "base")
    assert resolved(ModelSettings(name=str(changed(copied, base_model_name_or_path="../base")))).name == str(
        tmp_path / "base"
    )
    assert "is itself" in said(changed(copied, base_model_name_or_path="../copy"))
    changed(copied, base_model_name_or_path=BASE)
    over = dict(adapters=[str(copied)])
    assert "no such folder" in said("demo", adapters=[str(tmp_path / "nowhere")])
    assert "it is a checkpoint: name it as --model" in said("demo", adapters=[str(tmp_path / "base")])
    with monkeypatch.context() as without:
        without.setattr(adapter_files, "find_spec", lambda name: None)
        assert "pip install 'sinkctl[lora]'" in said("demo", **over)
    whole = (copied / WEIGHTS).read_bytes()
    (copied / WEIGHTS).write_bytes(whole[:-100])
    assert "is damaged or cut short" in said("demo", **over)
    (copied / WEIGHTS).unlink()
    assert f"no weights ({WEIGHTS})" in said("demo", **over)
    (copied / "adapter_model.bin").touch()
    assert "--allow-pickle loads them" in said("demo", **over)
    (tmp_path / "copy/model.safetensors").touch()
    assert "holds a checkpoint (model.safetensors) and an adapter" in said(copied)
    (copied / "adapter_config.json").write_text("[1]")
    assert "says no peft_type" in said("demo", **over)
    (copied / "adapter_config.json").write_text("{")
    assert "cannot be read" in said("demo", **over)


def test_an_adapter_and_its_base_are_found_in_the_cache_of_the_hub(two, tmp_path, monkeypatch):
    for name, source in (("me/base", BASE), ("me/tuned", two[0])):
        folder = tmp_path / f"models--{name.replace('/', '--')}"
        shutil.copytree(source, folder / "snapshots/abc")
        (folder / "refs").mkdir()
        (folder / "refs/main").write_text("abc")
    changed(tmp_path / "models--me--tuned/snapshots/abc", base_model_name_or_path="me/base")
    for module in [m for n, m in sys.modules.items() if n.startswith("huggingface_hub")]:
        if hasattr(module, "HF_HUB_CACHE"):
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(adapter_files.constants, "HF_HUB_OFFLINE", True)
    found = resolved(ModelSettings(name="me/tuned"))
    assert (found.name, Path(found.adapters[0]).name) == ("me/base", "abc")
    check_adapters(ModelSettings(adapters=("me/tuned",)))


def test_random_weights_take_no_adapter(two):
    with pytest.raises(RecipeError, match="to which no adapter belongs"):
        validate({"task": "bench", "shape": "tiny", "cases": [{"kind": "stream"}], "model": {"adapters": two}})
    scratch = {"task": "convert", "scratch": {"model_type": "llama"}, "steps": 1, "model": {"adapters": two}}
    with pytest.raises(UsageError, match="to which none belongs"):
        check(validate(scratch | {"sink": {"kind": "sink_logit", "start": "zero"}}))


def test_the_chat_template_is_that_of_the_adapter(copied):
    chat = {"task": "generate", "chat": True, "model": {"name": BASE, "adapters": [str(copied)]}}
    with pytest.raises(ModelError, match="stories260K has no chat template"):
        check(validate(chat))
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    tokenizer.save_pretrained(copied)
    check(validate(chat))
    assert load(ModelSettings(**chat["model"], device="cpu")).tokenizer.chat_template == tokenizer.chat_template
