"""How a swapped token spreads: against two stock passes, and where nothing can spread."""

import pytest
import torch
from families import STREAMED, in_float64, tiny

from sinkctl.errors import TextError
from sinkctl.metrics.continued import Kept, continued
from sinkctl.metrics.masked_key import hide
from sinkctl.metrics.mixing import mixing, residuals, spread, swapped
from sinkctl.metrics.next_token import next_token
from sinkctl.metrics.samples import laid_out

PLACE = 5


@pytest.fixture
def ids_NT() -> torch.Tensor:
    return torch.randint(3, 64, (3, 20), generator=torch.Generator().manual_seed(0))


def changes(model, ids_NT, other_NT, also, keep=None) -> torch.Tensor:
    samples, others = (laid_out(list(ids), model.device) for ids in (ids_NT, other_NT))
    with residuals(model, len(ids_NT)) as before:
        next_token(model, samples, also, keep=keep)
    return spread(model, before, lambda: next_token(model, others, also))


def test_the_spread_is_the_difference_of_two_stock_passes(ids_NT, monkeypatch):
    model, other_NT = tiny(*STREAMED["llama"]), swapped(ids_NT, PLACE, seed=0)
    in_float64(monkeypatch)  # the stock softmax is float32 otherwise
    # After the last block transformers shows what is normed already; the residual before it is hooked here.
    kept = []
    hook = model.model.layers[1].register_forward_hook(lambda _, __, h: kept.append(h))
    with torch.no_grad():
        firsts = [model(input_ids=ids, output_hidden_states=True).hidden_states[1] for ids in (ids_NT, other_NT)]
    hook.remove()
    by_hand = [(other - h).norm(dim=-1) / h.norm(dim=-1) for h, other in (firsts, kept)]
    change_LNT = changes(model, ids_NT, other_NT, hide(range(0)))
    torch.testing.assert_close(change_LNT, torch.stack(by_hand), rtol=0, atol=1e-9)
    means = [sum(float(x) for x in h_NT[:, PLACE + 1 :].flatten()) / (3 * 14) for h_NT in by_hand]
    assert mixing(change_LNT[:, :, PLACE + 1 :]) == pytest.approx(means)


@pytest.mark.parametrize("also", [hide(range(0)), hide(range(1))], ids=["nothing", "first key"])
def test_tokens_before_the_swapped_one_do_not_change_so_those_from_it_on_run_alone(ids_NT, also):
    model, other_NT, kept = tiny(*STREAMED["llama"]), swapped(ids_NT, PLACE, seed=0), Kept(PLACE + 3)
    change_LNT = changes(model, ids_NT, other_NT, also, kept.keep)
    assert not change_LNT[:, :, :PLACE].any()
    assert (change_LNT[:, :, PLACE:] > 0).all()
    with residuals(model, 2) as before:
        next_token(model, laid_out(list(ids_NT), model.device), also)
    alone_LNT = spread(model, before, lambda: continued(model, other_NT[:2], kept.of([0, 1]), also, PLACE))
    torch.testing.assert_close(alone_LNT, change_LNT[:, :2, PLACE:], rtol=0, atol=1e-10)


def test_without_attention_output_nothing_spreads(ids_NT):
    model = tiny(*STREAMED["llama"])
    for block in model.model.layers:
        torch.nn.init.zeros_(block.self_attn.o_proj.weight)
    change_LNT = changes(model, ids_NT, swapped(ids_NT, PLACE, seed=0), None)
    assert (change_LNT[:, :, PLACE] > 0).all()
    assert mixing(change_LNT[:, :, PLACE + 1 :]) == [0.0, 0.0]


def test_one_token_is_swapped_for_another_one_of_the_text():
    ids_NT = torch.tensor([[1, 5, 5, 9], [1, 9, 9, 5], [1, 7, 7, 7]])
    for seed in range(5):
        other_NT = swapped(ids_NT, 2, seed)
        assert (other_NT != ids_NT).tolist() == [[False, False, True, False]] * 3
        assert set(other_NT[:, 2].tolist()) <= {5, 7, 9}
    with pytest.raises(TextError, match="the same"):
        swapped(torch.full((2, 4), 5), 2, seed=0)
