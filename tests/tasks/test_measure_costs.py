"""What the sink buys: much in the built-in model, about nothing in stories260K."""

import pytest
import torch
from families import REFUSED, tiny

from sinkctl.errors import Interrupted
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import CostSettings, InputSettings, MeasureRecipe
from sinkctl.result.measure import LATER, SCORED
from sinkctl.tasks.measure.costs import Costs, costs

SMALL = CostSettings(samples=8, length=128, window=60, tokens=1500)
NAMES = [
    "BOS left out", f"first key hidden from {LATER}", f"first key hidden from {SCORED}", "first 4 keys hidden",
    "4 middle keys hidden", "4 nearest keys hidden",
    "largest activations zeroed", "0+W instead of 4+W",
]  # fmt: skip


def measured(loaded: LoadedModel, cost: CostSettings = SMALL, shown=(), **settings) -> Costs:
    found, recipe = Costs(), MeasureRecipe(cost=cost, input=InputSettings(**settings))
    costs(recipe, loaded, shown, lambda what, _: None, lambda: False, found)
    return found


def ratios(found: Costs) -> dict[str, float]:
    return {line.name: line.perplexity / line.baseline for line in found.lines}


@pytest.fixture(scope="module")
def of_demo(demo) -> Costs:
    torch.set_num_threads(1)
    return measured(demo)


@pytest.fixture(scope="module")
def of_stories(stories, request) -> Costs:
    torch.set_num_threads(1)
    return measured(stories, files=(str(request.path.parents[1] / "data" / "stories.txt"),))


def test_the_built_in_models_sink_is_worth_much(of_demo):
    ratio = ratios(of_demo)
    assert list(ratio) == NAMES
    assert ratio["BOS left out"] > 1.15
    assert ratio[NAMES[2]] - 1 > 2 * (ratio["4 middle keys hidden"] - 1)
    assert ratio["first 4 keys hidden"] > 1.15
    assert ratio["largest activations zeroed"] > 2
    assert ratio["0+W instead of 4+W"] > 1.1
    hidden = {line.name: line for line in of_demo.lines}
    assert hidden[NAMES[2]].kl > 5 * hidden["4 middle keys hidden"].kl
    assert hidden[NAMES[2]].top5 < hidden["4 middle keys hidden"].top5


def test_bos_is_the_same_in_every_sample_so_its_mean_changes_nothing(of_demo):
    assert of_demo.notes == ["The largest activations are the same in every sample: their mean changes nothing."]


def test_without_bos_a_swapped_token_spreads_further_in_the_built_in_model(of_demo, demo):
    with_bos, without = of_demo.mixing
    assert (with_bos.name, without.name) == ("with BOS", "without BOS")
    assert len(with_bos.change) == demo.model.config.num_hidden_layers
    assert all(a < b for a, b in zip(with_bos.change, without.change, strict=True))


def test_a_model_without_a_sink_loses_next_to_nothing(of_stories):
    ratio = ratios(of_stories)
    assert list(ratio) == NAMES
    for name in set(NAMES) - {"4 nearest keys hidden", "BOS left out"}:
        assert ratio[name] == pytest.approx(1, abs=0.03), name
    assert ratio["4 nearest keys hidden"] > 2


def test_all_lines_score_the_same_tokens(of_demo):
    of_samples = [line for line in of_demo.lines if line.kl is not None]
    assert len({line.baseline for line in of_samples}) == 1
    assert all(0 < line.error < line.perplexity / line.baseline for line in of_samples)
    assert all("504 next tokens" in line.what for line in of_samples)  # 8 samples of 63


def test_learned_positions_fit_the_context_and_cannot_be_streamed(demo):
    kind, settings, _ = REFUSED["gpt2"]
    model = tiny(kind, settings | dict(vocab_size=4096), torch.float32)
    found = measured(LoadedModel(model, demo.tokenizer, "tiny", "in memory"), CostSettings(samples=2), bos="off")
    assert list(ratios(found)) == [*NAMES[1:-1], "largest activations at their mean"]
    assert "126 next tokens" in found.lines[0].what  # two second halves of the context of 128
    assert [note for note in found.notes if "Nothing was streamed" in note and "learned embeddings" in note]
    assert [line.name for line in found.mixing] == ["no BOS", "no BOS, first key hidden"]


def test_what_cannot_be_measured_is_left_out_or_noted(demo):
    assert measured(demo, CostSettings(run=False)) == Costs()
    assert "standard input" in measured(demo, files=("-",)).notes[0]


def test_a_stop_between_two_steps_ends_it(demo):
    said = []
    with pytest.raises(Interrupted):
        costs(MeasureRecipe(cost=SMALL), demo, [], lambda what, _: said.append(what), lambda: len(said) > 1, Costs())
    assert said == ["nothing taken away", NAMES[1]]
