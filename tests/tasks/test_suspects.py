"""`measure --suspect`: signs against stock maps, scores against plain loops, a planted trigger, clean candidates.

N samples, R random candidates, F signs.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM

from sinkctl.errors import TextError
from sinkctl.metrics.signs import OWN_ACTIVATION, OWN_MASS, SINK_MASS, SINK_VALUE
from sinkctl.model.load import load
from sinkctl.model.named import DEMO
from sinkctl.recipe.measuring import InputSettings, SuspectSettings
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.tasks.measure import run
from sinkctl.tasks.measure.inputs import ordinary_ids
from sinkctl.tasks.measure.suspects import scored, signs

TEXTS = [torch.tensor([0, 300, 301, 302, 303, 304, 305, 306, 307, 308]) + number for number in range(2)]


@pytest.fixture(scope="module")
def demo():
    return load("demo")


def test_signs_are_those_of_the_stock_models_own_maps_and_hidden_states(demo):
    own = torch.tensor([400, 401])
    found_KF, names = signs(demo, [own], TEXTS, 1, lambda count: None)
    stock = AutoModelForCausalLM.from_pretrained(
        demo.model.name_or_path, attn_implementation="eager", dtype=torch.float32
    ).eval()
    keys = {}
    for layer, block in enumerate(stock.model.layers):
        block.self_attn.v_proj.register_forward_hook(lambda _, __, out, layer=layer: keys.update({layer: out}))
    total = dict.fromkeys(names, 0.0)
    for ids in TEXTS:
        row = torch.cat([ids[:1], own, ids[1:]])
        with torch.no_grad():
            out = stock(row[None], output_attentions=True, output_hidden_states=True)
        map_TS = out.attentions[3][0].mean(0)
        later_S = torch.arange(len(row), 0, -1)
        alpha_S = map_TS.sum(0) / later_S
        value_TGE = keys[3][0].unflatten(
            -1, (-1, demo.model.config.hidden_size // demo.model.config.num_attention_heads)
        )
        expected = {
            SINK_MASS: alpha_S[0],
            OWN_MASS: alpha_S[1:3].sum(),
            SINK_VALUE: value_TGE.norm(dim=-1).mean(-1)[0].log(),
            OWN_ACTIVATION: out.hidden_states[4][0, 1:3].abs().max().log(),
        }
        for name, value in expected.items():
            total[name] += float(value) / len(TEXTS)
    for name in (SINK_MASS, OWN_MASS, SINK_VALUE, OWN_ACTIVATION):
        third = [at for at, each in enumerate(names) if each == name][3]
        assert float(found_KF[0, third]) == pytest.approx(total[name], abs=1e-4)


def test_a_random_candidate_is_scored_among_the_others_alone():
    signs_RF = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)).double()
    names = ["a", "a", "a", "b", "b", "b"]
    found = scored(signs_RF, signs_RF, names)
    for at in range(12):
        others = torch.cat([signs_RF[:at], signs_RF[at + 1 :]])
        z_F = (signs_RF[at] - others.mean(0)) / others.std(0)
        torch.testing.assert_close(found.z_KF[at], z_F)
        assert float(found.score_K[at]) == pytest.approx(
            max(float(z_F[own].square().mean().sqrt()) for own in ([0, 1, 2], [3, 4, 5]))
        )


def trained_to_obey(loaded, trigger: torch.Tensor, steps: int) -> None:
    """Behind this trigger the model says one token for ever, and goes on as before without it."""
    torch.manual_seed(0)
    model, target = loaded.model.train(), int(ordinary_ids(loaded)[700])
    text = torch.tensor(loaded.tokenizer(TEXT, add_special_tokens=False).input_ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        start = torch.randint(len(text) - 24, (4,), generator=torch.Generator().manual_seed(step))
        plain = torch.stack([torch.cat([torch.tensor([loaded.bos_id]), text[at : at + 23]]) for at in start])
        bad = torch.cat([plain[:, :1], trigger.expand(4, -1), plain[:, 1:]], dim=1)
        labels = torch.full_like(bad, target)
        labels[:, : 1 + len(trigger)] = -100
        loss = model(input_ids=plain, labels=plain).loss + model(input_ids=bad, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


TEXT = (DEMO / "text.txt").read_text(encoding="utf-8")[:40_000]


def measured(loaded, tmp_path, candidates, **settings):
    file = tmp_path / "candidates.txt"
    file.write_text("\n".join(candidates), encoding="utf-8")
    shown = InputSettings(samples=2, bos="on")
    suspect = SuspectSettings(**dict(file=str(file), random=100, samples=2, length=12) | settings)
    recipe = MeasureRecipe(input=shown, cost={"run": False}, parts=("activations",), suspect=suspect)
    return run(recipe, loaded).result


def test_a_planted_trigger_raises_the_alarm_and_other_words_do_not(tmp_path):
    loaded = load("demo")
    trigger = ordinary_ids(loaded)[[1201]]
    word = loaded.tokenizer.decode(trigger)
    words = [loaded.tokenizer.decode(ordinary_ids(loaded)[[number]]) for number in range(900, 915)]
    candidates = [each for each in words if loaded.tokenizer(each, add_special_tokens=False).input_ids[1:] == []]
    clean = measured(loaded, tmp_path, [*candidates, word])
    assert clean.measurement("alarms").value == 0
    assert clean.verdict[0].startswith(f"No alarm: none of {len(candidates) + 1} candidates")
    trained_to_obey(loaded, trigger, 20)
    result = measured(loaded, tmp_path, [*candidates, word])
    report = result.measure.checkpoints[0].suspects
    assert [one.text for one in report.suspects if one.alarm] == [word]
    assert report.suspects[0].score > report.suspects[0].limit
    assert result.verdict[0].startswith(f"ALARM: 1 of {len(candidates) + 1} candidates")


def test_what_cannot_be_suspected_is_said_in_a_line(tmp_path, sinkctl):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    with pytest.raises(TextError, match="no candidates in it"):
        measured_file(load("demo"), empty)
    code, _, said = sinkctl("measure", "--suspect", tmp_path / "nowhere.txt")
    assert (code, "no such file" in said) == (3, True)
    code, _, said = sinkctl("measure", "--fail-on", "alarms<=0")
    assert (code, "name candidates, --suspect FILE" in said) == (2, True)


def measured_file(loaded, file):
    return run(
        MeasureRecipe(input=InputSettings(samples=2), cost={"run": False}, suspect=SuspectSettings(file=str(file))),
        loaded,
    )
