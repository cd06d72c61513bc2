"""What the sink buys: much in the built-in model, about nothing in stories260K."""

import pytest
import torch
from families import REFUSED, STREAMED, tiny

from sinkctl.errors import Interrupted
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import CostSettings, InputSettings, MeasureRecipe
from sinkctl.result.measure import LATER, SCORED
from sinkctl.tasks.measure.ablations import Ablations
from sinkctl.tasks.measure.costs import Costs, costs
from sinkctl.tasks.measure.input_set import token_reader
from sinkctl.tasks.measure.passes import Passes

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


def ablated(loaded: LoadedModel, ids_NT: torch.Tensor, bos: bool, batch: int) -> tuple[list[dict], list, int]:
    """(lines, mixing, tokens run), where heads sink on nearly everything, token 7 hidden too."""
    recipe, tokens = MeasureRecipe(batch=batch, epsilon=(0.001,)), []
    others = [token_reader(loaded.tokenizer)(7)]
    found = Ablations(recipe, loaded, ids_NT, bos, others, lambda _, count: tokens.append(count), lambda: None)
    found.run()
    told = [line.model_dump() | dict(line.taken_over or ()) for line in found.lines]
    numbers = [{name: x for name, x in line.items() if isinstance(x, (int, float))} for line in told]
    return numbers, [line.change for line in found.mixing], sum(tokens)


@pytest.mark.parametrize(("family", "bos"), [("llama", False), ("gemma2", True)])
def test_what_is_not_run_again_changes_no_line(family, bos, demo, monkeypatch):
    kind, settings = STREAMED[family]
    loaded = LoadedModel(tiny(kind, settings | dict(vocab_size=4096)), demo.tokenizer, "tiny", "in memory")
    ids_NT = torch.randint(8, 4096, (3, 32), generator=torch.Generator().manual_seed(0))
    ids_NT[:2, 9], ids_NT[2, 20] = 7, 7  # before the middle, and after it
    parts, by_twos = ablated(loaded, ids_NT, bos, 3), ablated(loaded, ids_NT, bos, 2)
    monkeypatch.setattr(Passes, "try_out", lambda *_: None)
    whole = ablated(loaded, ids_NT, bos, 3)
    assert parts[2] < 0.8 * whole[2]
    assert len(whole[0]) == (9 if bos else 8) + 1
    for found in (parts, by_twos):
        for lines, expected in zip(found[:2], whole[:2], strict=True):
            assert len(lines) == len(expected)
            assert all(a == pytest.approx(b, rel=1e-10, abs=1e-12) for a, b in zip(lines, expected, strict=True))


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
    assert "a pipe cannot be" in measured(demo, files=("-",)).notes[0]


def test_a_stop_between_two_steps_ends_it(demo):
    said = []
    with pytest.raises(Interrupted):
        costs(MeasureRecipe(cost=SMALL), demo, [], lambda what, _: said.append(what), lambda: len(said) > 1, Costs())
    assert said == 2 * ["nothing taken away"]  # a batch, and then its first sample in parts
