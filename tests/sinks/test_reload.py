"""Every mechanism on every family: saved, loaded by a fresh process with plain transformers, and still there.

What it must compute is written down here once more: over the source model, in float64, from the formulas.
"""

import copy
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from designed import designed
from families import STREAMED, tiny
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, AutoModel
from transformers.masking_utils import eager_mask

from sinkctl.errors import ModelError
from sinkctl.sinks import SINKS
from sinkctl.sinks.code.sink_model import attention_layers
from sinkctl.sinks.storage import form_for
from sinkctl.sinks.storage.own_code import write_code

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gpt_neox")
# Shorter than the texts, which are longer than every window.
WIDE = {"hidden_size": 64}  # heads of 16, the least that FlexAttention takes on a GPU
CONFIG = {
    "llama": WIDE, "mistral": WIDE, "qwen2": WIDE, "gpt_neox": {"attention_bias": True},
    "gemma2": {"final_logit_softcapping": None},
}  # fmt: skip
GATES = [dict(place=place, form=form) for place in ("output", "value", "input") for form in ("headwise", "elementwise")]
CASES = {
    "sink_logit": ("sink_logit", {}, ("logit", "bias")),
    "sink_logit_lost": ("sink_logit", {}, ("logit", "bias", "lost_key", "lost_value")),
    "softmax1": ("softmax1", {}, ("logit",)),
    "key_bias": ("key_bias", {}, ("key", "bias")),
    "kv_bias": ("kv_bias", {}, ("key", "value")),
    "value_bias": ("value_bias", {}, ("bias",)),
    "score_bias": ("score_bias", {}, ("first",)),
    "sigmoid": ("sigmoid", {}, ("offset", "bias")),
    "sigmoid_normalised": ("sigmoid", dict(normalise=True, start="zero", mix=0.8), ("offset",)),
    "elu": ("elu", dict(mix=0.3), ("offset",)),
    "softpick": ("softpick", {}, ("offset", "bias")),
    "softpick_mixed": ("softpick", dict(mix=0.5), ("offset",)),
    "clipped_softmax": ("clipped_softmax", {}, ("gamma", "bias")),
    **{f"gate_{gate['place']}_{gate['form']}": ("gate", gate, ("gate.weight",)) for gate in GATES},
}
IDS = torch.tensor([[1, 33, 7, 58, 12, 9, 41, 25, 60, 3, 17, 44, 8, 29]])
PROMPTS = ([1, 33, 7, 58, 12, 9, 41, 25, 60, 3, 17], [1, 20, 50, 6, 31])
NEW = 3
FRESH = """
import json, sys
sys.modules["sinkctl"] = None
import torch
from transformers import AutoModel, AutoModelForCausalLM
torch.set_num_threads(1)
device = "cuda" if torch.cuda.is_available() else "cpu"
found, (root, names) = {}, (sys.argv[1], json.loads(sys.argv[2]))
*inputs, new = torch.load(root + "/inputs.pt")
ids, padded, mask = (x.to(device) for x in inputs)
for name in names:
    own = "/own_" in name
    if own:
        try:
            AutoModelForCausalLM.from_pretrained(f"{root}/{name}", trust_remote_code=False)
            found[name, "untrusted"] = "loads"
        except ValueError as error:
            found[name, "untrusted"] = "refused"
    model = AutoModelForCausalLM.from_pretrained(f"{root}/{name}", trust_remote_code=own, dtype="auto").to(device)
    found[name, "class"] = type(model).__name__
    decoder = AutoModel.from_pretrained(f"{root}/{name}", trust_remote_code=own, dtype="auto").to(device)
    with torch.no_grad():
        found[name, "decoder"] = [part(ids).last_hidden_state.cpu() for part in (decoder, model.base_model)]
    for attention in ("eager", "sdpa", "flex_attention"):
        try:
            model.set_attn_implementation(attention)
            if attention == "flex_attention" and device == "cpu":  # minutes of compilation
                found[name, attention] = "accepted"
                continue
            with torch.no_grad():
                found[name, attention] = model(ids).logits.cpu()
            found[name, attention, "generated"] = model.generate(
                padded, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
            ).cpu()
        except ValueError as error:
            found[name, attention] = str(error)
torch.save(found, root + "/found.pt")
"""


def start_of(names: tuple[str, ...], shape: dict, sink, seed: int) -> dict[str, Tensor]:
    """Random and visible: logits near the log-sum-exp, weights that a clip takes to 0, open and closed gates."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    H, G, D, C = shape["H"], shape["G"], shape["D"], shape["C"]
    start = {
        "logit": 2 + normal(H), "key": normal(G, D), "value": normal(G, D), "first": 2 * normal(H),
        "offset": normal(H) - 1, "gamma": -0.05 - 0.05 * normal(H).abs(), "bias": 0.5 * normal(H, D),
        "lost_key": normal(G, D), "lost_value": normal(G, D),
    }  # fmt: skip
    if sink.kind == "softmax1":
        start["logit"] = torch.zeros(H)
    if sink.kind == "gate":
        blocks, size = {"output": (H, D), "value": (G, D), "input": (1, C)}[sink.place]
        start["gate.weight"] = normal(blocks * (1 if sink.form == "headwise" else size), C)
    return {name: start[name] for name in names}


def reference_weights(sink, score: Tensor, seen: Tensor, start: dict[str, Tensor]) -> Tensor:
    """Attention weights by the published formulas; score [B, H, T, S] in float64."""
    kind, mix = sink.kind, getattr(sink, "mix", 1.0)
    softmax = score.masked_fill(~seen, -torch.inf).softmax(-1)
    if kind == "clipped_softmax":
        gamma = start["gamma"].double()[:, None, None]
        new = ((1 - gamma) * softmax + gamma).clamp(0, 1)
    else:
        z = score + start["offset"].double()[:, None, None]
        if kind == "sigmoid":
            new = 1 / (1 + torch.exp(-z))
            new = new / (new * seen).sum(-1, keepdim=True) if sink.normalise else new
        elif kind == "elu":
            new = torch.where(z > 0, z, torch.exp(z) - 1) + 1
        else:
            excess = (torch.exp(z) - 1) * seen
            new = excess.clamp(min=0) / (excess.abs().sum(-1, keepdim=True) + 1e-8)
    return ((1 - mix) * softmax + mix * new) * seen


def half_turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


@contextmanager
def referring(model, sink, starts: list[dict[str, Tensor]]):
    """Inside, the source model attends as the mechanism says, by the formulas."""
    modules = [m for m in model.modules() if type(m).__name__.endswith("Attention")]
    start_by = {id(module): start for module, start in zip(modules, starts, strict=True)}
    shown: dict[int, dict] = {}

    def attend(module, query, key, value, attention_mask, scaling=None, softcap=None, **_):
        start, kept = start_by[id(module)], shown[id(module)]
        groups = query.shape[1] // key.shape[1]
        if "lost_key" in start:
            cos, sin = (x.double()[:, None] for x in kept["turn"])
            lost, rest = start["lost_key"].double()[:, None].split((cos.shape[-1], key.shape[-1] - cos.shape[-1]), -1)
            lost = torch.cat([lost * cos + half_turned(lost) * sin, rest.expand(1, -1, cos.shape[2], -1)], -1)
            key, value = key.double() - lost, value.double() - start["lost_value"].double()[:, None]
        q, k, v = (x.double() for x in (query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)))
        score = q @ k.mT * scaling
        score = score if softcap is None else softcap * torch.tanh(score / softcap)
        seen = (attention_mask > -1e30).expand_as(score)
        if sink.kind == "gate" and sink.place == "value":
            v = v * gate(kept["x"], start, v.shape[-1], groups, value.shape[1])
        if "first" in start:
            score[..., 0] += start["first"].double()[:, None]  # no padding here
        if sink.kind in ("sigmoid", "elu", "softpick", "clipped_softmax"):
            out = reference_weights(sink, score, seen, start) @ v
        else:
            score = score.masked_fill(~seen, -torch.inf)
            extra = None
            if "logit" in start:
                extra = start["logit"].double()[None, :, None].expand(score.shape[:3])
            if "key" in start:
                cos, sin = (x.double() for x in kept["turn"])
                turned, rest = q[..., : cos.shape[-1]], q[..., cos.shape[-1] :]
                raw = torch.cat([turned * cos[:, None] - half_turned(turned) * sin[:, None], rest], -1)
                extra = (raw * start["key"].double().repeat_interleave(groups, 0)[:, None]).sum(-1) * scaling
                extra = extra if softcap is None else softcap * torch.tanh(extra / softcap)
            if extra is not None:
                score, more = torch.cat([score, extra[..., None]], -1), torch.zeros_like(v[:, :, :1])
                if "value" in start:
                    more = more + start["value"].double().repeat_interleave(groups, 0)[:, None]
                v = torch.cat([v, more], 2)
            out = score.softmax(-1) @ v
        if "bias" in start:
            out = out + start["bias"].double()[:, None]
        if sink.kind == "gate" and sink.place == "output":
            out = out * gate(kept["x"], start, v.shape[-1], 1, query.shape[1])
        return out.transpose(1, 2).to(query.dtype), None

    def gate(x: Tensor, start, width: int, groups: int, heads: int) -> Tensor:
        g = 2 * torch.sigmoid(x.double() @ start["gate.weight"].double().T)  # [B, T, heads or heads · width]
        g = g.unflatten(-1, (heads, -1)).transpose(1, 2).repeat_interleave(groups, 1)
        return g.expand(*g.shape[:3], width)

    def keep(module, args, kwargs):
        x = kwargs.get("hidden_states", args[0] if args else None)
        shown[id(module)] = {"x": x, "turn": kwargs["position_embeddings"]}

    def gated_input(start):
        def hook(module, inputs, x):
            return (x.double() * 2 * torch.sigmoid(x.double() @ start["gate.weight"].double().T)).to(x.dtype)

        return hook

    AttentionInterface.register("by_formula", attend)
    AttentionMaskInterface.register("by_formula", eager_mask)
    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in modules]
    if sink.kind == "gate" and sink.place == "input":
        norms = [module for name, module in model.named_modules() if name.endswith("input_layernorm")]
        hooks += [norm.register_forward_hook(gated_input(start)) for norm, start in zip(norms, starts, strict=True)]
    model.set_attn_implementation("by_formula")
    try:
        yield
    finally:
        model.set_attn_implementation("eager")
        for hook in hooks:
            hook.remove()


def continued(model, prompt: list[int]) -> list[int]:
    """Greedy, every token from a whole pass without a cache."""
    ids = torch.tensor([prompt])
    for _ in range(NEW):
        ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids[0, len(prompt) :].tolist()


@torch.no_grad()
def written(family: str, folder: Path) -> dict[str, tuple[Tensor, list[list[int]]]]:
    """Every mechanism saved in a folder of its own; name → (logits, tokens generated) by the formulas."""
    source = tiny(STREAMED[family][0], STREAMED[family][1] | CONFIG.get(family, {}), dtype=torch.float32)
    source.generation_config.eos_token_id = None
    config = source.config
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    shape = dict(H=heads, G=groups, C=config.hidden_size)
    shape["D"] = getattr(config, "head_dim", None) or config.hidden_size // heads
    expected = {}
    plain = source(IDS).logits
    for case, (kind, settings, parameters) in CASES.items():
        sink = SINKS[kind](**settings)
        starts = [start_of(parameters, shape, sink, seed) for seed in range(config.num_hidden_layers)]
        if case == "score_bias" and family in ("mistral", "gemma2", "gemma3"):
            with pytest.raises(ModelError, match=f"{config.model_type} has sliding windows"):
                form_for(sink, config)
            continue
        form = form_for(sink, config)
        name = f"{'own' if form.own_code else 'stock'}_{case}"
        built = form.build(source, starts)
        built.save_pretrained(folder / name)
        if form.own_code:
            write_code(folder / name, built.config)
        with referring(source, sink, starts):
            expected[name] = source(IDS).logits, [continued(source, prompt) for prompt in PROMPTS]
        assert (expected[name][0] - plain).abs().max() > 0.02, f"{family}, {case} changes nothing, so nothing is shown"
    assert torch.equal(source(IDS).logits, plain), f"{family}: the source is as it was"
    return expected


LONGEST = max(map(len, PROMPTS))


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory) -> tuple[dict, dict]:
    """(what the formulas say, what one fresh process found), of every family."""
    folder = tmp_path_factory.mktemp("reloaded")
    expected = {family: written(family, folder / family) for family in FAMILIES}
    for family in FAMILIES:  # sinkctl is here: no code of the checkpoint runs
        decoder = AutoModel.from_pretrained(folder / family / "own_kv_bias")
        assert type(decoder).__module__.startswith("sinkctl."), family
    padded = torch.tensor([[0] * (LONGEST - len(p)) + p for p in PROMPTS])
    mask = torch.tensor([[0] * (LONGEST - len(p)) + [1] * len(p) for p in PROMPTS])
    torch.save((IDS, padded, mask, NEW), folder / "inputs.pt")
    return expected, in_a_fresh_process(
        folder, [f"{family}/{name}" for family in FAMILIES for name in expected[family]]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_process_with_plain_transformers_computes_what_the_formulas_say(family, reloaded):
    expected, found = reloaded
    for name, (logits, generated) in expected[family].items():
        place, ran = f"{family}/{name}", []
        assert found.get((place, "untrusted"), "refused") == "refused"
        assert torch.equal(*found[place, "decoder"]), f"{name}: without its head"
        for attention in ("eager", "sdpa", "flex_attention"):
            if isinstance(found[place, attention], str):
                continue
            if attention == "sdpa" and name.startswith(("stock", "own_gate")) and family == "gemma2":
                continue  # some versions of transformers run Gemma-2's own attention in sdpa, which drops its softcap
            ran.append(attention)
            assert torch.allclose(found[place, attention], logits, atol=2e-4), f"{name}, {attention}"
            assert found[place, attention, "generated"][:, LONGEST:].tolist() == generated, f"{name}, {attention}"
        of_stock_attention = name.startswith(("stock", "own_gate"))
        assert ran[0] == "eager"
        if family != "gemma2":
            assert ("sdpa" in ran) == (found[place, "class"] != "GraniteSWAForCausalLM"), name
        assert of_stock_attention or "does not support" in found[place, "flex_attention"], name


def in_a_fresh_process(folder: Path, names: list[str]) -> dict:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules"), "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    command = [sys.executable, "-c", FRESH, str(folder), json.dumps(names)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(folder / "found.pt")


class Doubling(torch.nn.Module):
    """What a tool puts in a projection's place, the way LoRA does: another output, the old module inside."""

    def __init__(self, inner: torch.nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * 2


@pytest.mark.parametrize("sink", [
    dict(kind="kv_bias", parameters=["key", "value"]),
    dict(kind="sink_logit", parameters=["logit", "lost_key", "lost_value"]), *(
        dict(kind="gate", place=place, form="headwise", parameters=["gate.weight"]) for place in ("output", "value")
    ),
])  # fmt: skip
@torch.no_grad()
def test_a_sink_stays_where_it_acts_when_projections_are_replaced_or_the_model_is_copied(sink):
    for family, names in (
        ("llama", ("q_proj", "k_proj", "v_proj", "o_proj")),
        ("gpt_neox", ("query_key_value", "dense")),
    ):
        model = designed(family, sink)
        for name in names:
            doubled, wrapped = copy.deepcopy(model), copy.deepcopy(model)
            for module in attention_layers(doubled):
                for parameter in getattr(module, name).parameters():
                    parameter.mul_(2)
            for module in attention_layers(wrapped):
                setattr(module, name, Doubling(getattr(module, name)))
            assert torch.allclose(wrapped(IDS).logits, doubled(IDS).logits, atol=1e-5), name
        own = copy.deepcopy(model)
        before = own(IDS).logits
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(own(IDS).logits, before), "a copy has a sink of its own"
