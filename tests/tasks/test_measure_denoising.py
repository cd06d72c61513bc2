"""`sinkctl measure` of a diffusion transformer: a tiny random DiT, against its own trajectory with maps by hand.

L layers, H heads, P patches.
"""

import json

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="the extra diffusion is not installed")

from sinkctl.errors import UsageError  # noqa: E402
from sinkctl.model.load import load  # noqa: E402
from sinkctl.model.settings import ModelSettings  # noqa: E402
from sinkctl.recipe.schema import InputSettings, MeasureRecipe  # noqa: E402
from sinkctl.tasks.measure import run  # noqa: E402
from sinkctl.tasks.measure.inputs import inputs  # noqa: E402

SHAPE = dict(
    num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3, sample_size=8,
    patch_size=2, num_embeds_ada_norm=5,
)  # fmt: skip
SAMPLES, STEPS = 3, 4


@pytest.fixture
def folder(tmp_path):
    """As a pipeline has it, with a scheduler of its own beside it."""
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(**SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    model.save_pretrained(tmp_path / "transformer")
    diffusers.DDIMScheduler(num_train_timesteps=200).save_pretrained(tmp_path / "scheduler")
    return tmp_path / "transformer"


def recipe(**changes) -> MeasureRecipe:
    return MeasureRecipe(input=InputSettings(samples=SAMPLES, steps=STEPS), **changes)


def opened(folder):
    return load(ModelSettings(name=str(folder), device="cpu", dtype="float64"), ("diffusion",))


class ByHand:
    """A processor that keeps its map."""

    def __init__(self, maps):
        self.maps = maps

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        q, k, v = (
            layer(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        a = (q @ k.mT / 8**0.5).softmax(-1)
        self.maps.append(a)
        return attn.to_out[0]((a @ v).transpose(1, 2).flatten(2))


@torch.no_grad()
def test_every_step_shows_the_maps_of_the_stock_trajectory(folder):
    outcome = run(recipe(), opened(folder))
    stock, maps = diffusers.DiTTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float64).eval(), []
    for block in stock.transformer_blocks:
        block.attn1.set_processor(ByHand(maps))
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder.parent / "scheduler")
    scheduler.set_timesteps(STEPS)
    latent = torch.randn(SAMPLES, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = outcome.result.measure.checkpoints[0].inputs
    assert [step.name for step in steps] == [
        f"step {n + 1} of {STEPS}, t = {int(t)}" for n, t in enumerate(scheduler.timesteps)
    ]
    for step, time in zip(steps, scheduler.timesteps, strict=True):
        maps.clear()
        predicted = stock(latent.double(), timestep=time.expand(SAMPLES), class_labels=torch.arange(SAMPLES)).sample
        alpha_LHP = torch.stack(maps).mean(1).mean(2)
        assert (outcome.arrays[f"0/{step.name}/alpha"] - alpha_LHP).abs().max() <= 1e-6
        assert (step.layers[0].kind, step.length, step.first_tokens[5]) == ("both directions", 16, "patch 1,1")
        latent = scheduler.step(predicted[:, :4].float(), time, latent).prev_sample
    assert "Entropy of attention" in outcome.result.verdict[0]


def test_a_patch_to_which_all_heads_of_a_layer_attend_is_found_at_every_step(folder):
    loaded = opened(folder)
    stock = loaded.model.denoiser
    with torch.no_grad():
        stock.pos_embed.pos_embed[0, 6, 3] = 900.0
        attention = stock.transformer_blocks[0].attn1
        attention.to_q.weight.zero_()
        attention.to_q.bias.fill_(1.0)
        attention.to_k.weight.zero_()[:, 3] = 30.0
        stock.transformer_blocks[0].norm1.linear.weight.zero_()
        stock.transformer_blocks[0].norm1.linear.bias.zero_()
    outcome = run(recipe(), loaded)
    for step in outcome.result.measure.checkpoints[0].inputs:
        sink = next(sink for sink in step.found if sink.token == "patch 1,2")
        assert (sink.strongest[0], sink.times, sink.percent >= 100 / 3) == (0, SAMPLES, True)
    assert "“patch 1,2”" in outcome.result.verdict[1]


@pytest.mark.parametrize("stored", [None, "DPMSolverMultistepScheduler"])
@torch.no_grad()
def test_latents_wider_than_one_are_not_clipped_unless_the_checkpoint_says_so(stored, folder):
    """The exact predictor of data N(0, s²): its noise is x √(1 − ᾱ) / (ᾱ s² + 1 − ᾱ). DDIM of it only scales x: from
    t to s by the ratio that its update has in closed form."""
    (folder.parent / "scheduler" / "scheduler_config.json").unlink()
    if stored is not None:
        getattr(diffusers, stored)().save_pretrained(folder.parent / "scheduler")
    loaded, std, steps = opened(folder), 1.5, 10
    scheduler = loaded.processor
    assert "clip_sample=False" in loaded.choices["scheduler"]
    scheduler.set_timesteps(steps)
    size, kept = 1000 // steps, scheduler.alphas_cumprod.double()
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_hand = x.clone()
    for time in scheduler.timesteps:
        a, after = kept[time], kept[time - size] if time >= size else float(scheduler.final_alpha_cumprod)
        noise = (1 - a) ** 0.5 / (a * std**2 + 1 - a)
        x = scheduler.step(x * noise, time, x).prev_sample
        by_hand = by_hand * (after**0.5 * (1 - (1 - a) ** 0.5 * noise) / a**0.5 + (1 - after) ** 0.5 * noise)
    torch.testing.assert_close(x, by_hand, rtol=1e-5, atol=0)
    assert float(x.std()) == pytest.approx(1.28, abs=0.05)
    diffusers.DDIMScheduler().save_pretrained(folder.parent / "scheduler")
    assert "clip_sample=True, as stored" in opened(folder).choices["scheduler"]


def test_every_step_has_a_rate_of_its_own_that_a_threshold_can_name(folder, sinkctl):
    flags = ("--samples", 1, "--set", "input.steps=3", "--device", "cpu", "--json")
    code, out, err = sinkctl("measure", folder, *flags, "--fail-on", "step_2.sink_rate<=100")
    assert code == 0, err
    result = json.loads(out)
    rates = {m["name"]: m["samples"][0] for m in result["measurements"] if m["name"].endswith("sink_rate")}
    assert list(rates) == ["sink_rate", "step_1.sink_rate", "step_2.sink_rate", "step_3.sink_rate"]
    assert rates["sink_rate"] == rates["step_1.sink_rate"]
    assert any("are those of step 1" in note for note in result["notes"])
    code, _, err = sinkctl("measure", folder, *flags, "--fail-on", "step_4.sink_rate<=100")
    assert (code, "this run measures no such thing" in " ".join(err.split())) == (2, True)


def test_more_steps_than_the_scheduler_has_are_refused(folder):
    with pytest.raises(UsageError, match=r"input\.steps=201: the scheduler of .* has 200; take at most those"):
        inputs(MeasureRecipe(input=InputSettings(steps=201)), opened(folder))


def test_other_parts_of_pipelines_and_other_commands_are_refused_in_a_line(folder, tmp_path, sinkctl):
    code, _, err = sinkctl("stream", "--model", folder, "--device", "cpu")
    assert (code, "is a diffusion transformer; `sinkctl measure` takes it" in " ".join(err.split())) == (3, True)
    config = json.loads((folder / "config.json").read_text()) | {"_class_name": "UNet2DConditionModel"}
    (folder / "config.json").write_text(json.dumps(config))
    code, _, err = sinkctl("measure", folder, "--device", "cpu")
    assert (code, "takes DiTTransformer2DModel alone" in " ".join(err.split())) == (3, True)
