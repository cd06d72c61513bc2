"""Hidden keys against the stock model under a mask of its own, agreement against numbers by hand."""

import math

import pytest
import torch
from families import STREAMED, in_float64, tiny

from sinkctl.metrics.masked_key import agreement, hide, hide_nearest
from sinkctl.metrics.next_token import NoInterface, next_token
from sinkctl.metrics.samples import laid_out

T = 24
# name → (what is hidden, does query t see key k?)
HIDDEN = {
    "nothing": (hide(range(0)), lambda t, k: True),
    "the first key": (hide(range(1)), lambda t, k: k == t or k != 0),
    "keys 7 to 10": (hide(range(7, 11)), lambda t, k: k == t or not 7 <= k < 11),
    "the nearest 3": (hide_nearest(3), lambda t, k: k == t or t - k > 3),
    "keys 3, 7 and 15": (hide((3, 7, 15)), lambda t, k: k == t or k not in (3, 7, 15)),
    "the first key from query 12 on": (hide((0,), 12), lambda t, k: t < 12 or k != 0),
    "the nearest 3 from query 12 on": (hide_nearest(3, 12), lambda t, k: t < 12 or k == t or t - k > 3),
}


@pytest.mark.parametrize("what", HIDDEN)
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_hidden_keys_equal_the_stock_model_with_minus_infinity_there(family, what, monkeypatch):
    model = tiny(*STREAMED[family])
    in_float64(monkeypatch)  # the stock softmax is float32 otherwise
    also, sees = HIDDEN[what]
    ids_NT = torch.randint(3, 64, (2, T), generator=torch.Generator().manual_seed(1))
    allowed_TS = torch.tensor([[k <= t and sees(t, k) for k in range(T)] for t in range(T)])
    mask = torch.zeros(1, 1, T, T, dtype=torch.float64).masked_fill(~allowed_TS, -torch.inf)
    with torch.no_grad():
        logits_NTV = model(input_ids=ids_NT, attention_mask=mask.expand(2, 1, T, T), use_cache=False).logits
    stock_NT = -logits_NTV.log_softmax(-1)[:, :-1].gather(-1, ids_NT[:, 1:, None])[..., 0]
    found = next_token(model, laid_out(list(ids_NT), model.device), also)
    torch.testing.assert_close(found.nll_NT, stock_NT, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.last_NV, logits_NTV[:, -1], rtol=0, atol=1e-9)
    assert found.attentions == 2
    told = []
    summed = next_token(model, laid_out(list(ids_NT), model.device), also, 10, lambda *layer: told.append(layer))
    torch.testing.assert_close(summed.nll_NT, stock_NT[:, 10:], rtol=0, atol=1e-9)
    assert len(told) == 2


def test_a_model_that_never_asks_for_attention_cannot_have_keys_hidden():
    model = tiny("gpt_neo", dict(num_layers=2, attention_types=[[["global"], 2]], num_heads=4, num_hidden_layers=None))
    ids_NT = torch.randint(3, 64, (2, T))
    samples = laid_out(list(ids_NT), model.device)
    with pytest.raises(NoInterface, match="gpt_neo"):
        next_token(model, samples, hide(range(1)))
    with torch.no_grad():
        stock = model(input_ids=ids_NT, labels=ids_NT).loss
    assert float(next_token(model, samples).nll_NT.mean()) == pytest.approx(float(stock), rel=1e-6)


def test_agreement_by_hand():
    p_V, q_V = torch.tensor([0.4, 0.2, 0.15, 0.1, 0.08, 0.07]), torch.tensor([0.1, 0.2, 0.15, 0.1, 0.05, 0.4])
    kl_N, top5_N = agreement(p_V.log()[None] + 3.0, q_V.log()[None])
    by_hand = 0.4 * math.log(4) + 0.08 * math.log(1.6) + 0.07 * math.log(0.07 / 0.4)
    assert kl_N.tolist() == pytest.approx([by_hand], abs=1e-6)
    assert top5_N.tolist() == [0.8]  # token 5 came in for token 4


def test_agreement_of_a_prediction_with_itself_is_perfect_even_where_tokens_are_excluded():
    logits_NV = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, -torch.inf]])
    assert [x.tolist() for x in agreement(logits_NV, logits_NV)] == [[0.0], [1.0]]
