"""Attention while a model trains: the stock forward, its gradients and its maps, for every mechanism."""

import pytest
import torch
from designed import ATTENDING, GATES, SCORE_BIAS, SCRATCH, designed
from families import STREAMED, in_float64, tiny
from torch import Tensor

from sinkctl.sinks.code import FAMILIES
from sinkctl.tasks.convert.training.attention import Seen, attending

EVERY = {"none": None, "score_bias": SCORE_BIAS, **ATTENDING, **GATES, **SCRATCH}
IDS = torch.randint(3, 64, (2, 24), generator=torch.Generator().manual_seed(1))
# Documents of the two rows.
CUTS = ((0, 9, 10, 24), (0, 17, 24))
BEGINS = torch.tensor([0, 9, 10, 24, 41, 48], dtype=torch.int32)
WINDOW = 5
SEEN = {"all": {}, "window": dict(window=WINDOW), "documents": dict(documents_N=BEGINS)}
SEEN["window_documents"] = SEEN["window"] | SEEN["documents"]


@pytest.fixture(autouse=True)
def _stock_softmax_in_float64(monkeypatch):
    in_float64(monkeypatch)


def model_of(family: str, sink: dict | None, **config):
    model_type, settings = STREAMED[family]
    if sink is None:
        return tiny(model_type, settings | config)
    return designed(family, sink, torch.float64, **config)


def band(window: int | None, tokens: int) -> Tensor:
    """What eager attention adds to scores, [1, 1, T, T]."""
    distance_TT = torch.arange(tokens)[:, None] - torch.arange(tokens)
    hidden_TT = (distance_TT < 0) | (distance_TT > (tokens if window is None else window))
    return torch.zeros(tokens, tokens, dtype=torch.float64).masked_fill(hidden_TT, torch.finfo(torch.float64).min)[
        None, None
    ]


def stock(model, ids_BT: Tensor, mask=None, documents: bool = False) -> tuple[Tensor, list[Tensor]]:
    """(logits, what each query gave the first token of its row or document, [B, H, T] a layer) of the model itself.

    A document is run alone, at the positions that it has in its row. `mask` is a function of a number of tokens.
    """
    logits, mass = [], []
    for row, cuts in zip(ids_BT, CUTS, strict=True):
        edges = cuts if documents else (0, len(row))
        for begin, end in zip(edges, edges[1:], strict=False):
            place_1T = torch.arange(begin, end)[None]
            shown = None if mask is None else mask(end - begin)
            out = model(
                row[None, begin:end], position_ids=place_1T, attention_mask=shown, output_attentions=True,
                use_cache=False,
            )  # fmt: skip
            logits.append(out.logits[0])
            mass.append([map_1HTT[0, :, 1:, 0] for map_1HTT in out.attentions])
    first = [torch.cat([part[layer] for part in mass], dim=1) for layer in range(len(mass[0]))]
    return torch.cat(logits).view(*ids_BT.shape, -1), first


def gradients(model, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def weighed(logits_BTV: Tensor) -> Tensor:
    """A loss that every logit counts in."""
    draw = torch.Generator().manual_seed(2)
    return (logits_BTV * torch.randn(logits_BTV.shape, generator=draw, dtype=torch.float64)).sum()


def check_same(model, found_BTV: Tensor, truth_BTV: Tensor) -> None:
    """Logits, and the gradient of every parameter."""
    assert (found_BTV - truth_BTV).abs().max() < 1e-9
    found, truth = gradients(model, weighed(found_BTV)), gradients(model, weighed(truth_BTV))
    assert found.keys() == truth.keys()
    for name, grad in truth.items():
        assert (found[name] - grad).norm() <= 1e-7 * grad.norm(), name
    assert all(grad.any() for name, grad in truth.items() if ".sink." in name), "the mechanism learns nothing"


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("name", EVERY)
def test_a_training_forward_and_its_gradients_are_those_of_the_stock_model(name, seen):
    model = model_of("llama", EVERY[name])
    mask = (lambda tokens: band(WINDOW, tokens)) if "window" in seen else None
    truth_BTV, _ = stock(model, IDS, mask, documents="documents" in seen)
    with attending(model, Seen(**SEEN[seen])):
        found_BTV = model(input_ids=IDS, use_cache=False).logits
    check_same(model, found_BTV, truth_BTV)
    again_BTV, _ = stock(model, IDS, mask, documents="documents" in seen)
    assert torch.equal(again_BTV, truth_BTV), "the model is as it was"


@pytest.mark.parametrize("kind", ["none", "sink_logit", "kv_bias"])
@pytest.mark.parametrize("family", [name.removesuffix("_text") for name in FAMILIES])
def test_a_training_forward_is_the_stock_one_in_every_family(family, kind):
    """Three of them with sliding windows of 8 past tokens, Gemma in every other layer, Gemma-2 with a softcap too."""
    model = model_of(family, EVERY[kind])
    model.set_attn_implementation("sdpa" if family != "gemma2" else "eager")
    for wide in (None, 12):  # a training window of 12 changes nothing where there is a narrower one
        sliding, full = (min([w for w in (own, wide) if w is not None], default=None) for own in (8, None))
        shown = None if wide is None else band(sliding if family == "mistral" else full, IDS.shape[1])
        if family.startswith("gemma") and wide is not None:
            shown = {"sliding_attention": band(sliding, IDS.shape[1]), "full_attention": shown}
        truth_BTV = model(input_ids=IDS, attention_mask=shown, use_cache=False).logits
        with attending(model, Seen(wide)):
            found_BTV = model(input_ids=IDS, use_cache=False).logits
        check_same(model, found_BTV, truth_BTV)


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("name", ["none", "sink_logit", "kv_bias", "sigmoid", "clipped_softmax_mixed"])
def test_the_mass_of_first_tokens_is_that_of_the_maps_and_so_is_its_gradient(name, seen):
    """The mean of column 0 over the queries behind it, and over heads."""
    model = model_of("llama", EVERY[name])
    mask = (lambda tokens: band(WINDOW, tokens)) if "window" in seen else (lambda tokens: band(None, tokens))
    truth_BTV, first = stock(model, IDS, mask, documents="documents" in seen)
    truth = [mass_HN.mean() for mass_HN in first]
    with attending(model, Seen(**SEEN[seen], measures_first=True)) as shown:
        found_BTV = model(input_ids=IDS, use_cache=False).logits
    assert len(shown.first) == len(truth) == 2
    for found, mass in zip(shown.first, truth, strict=True):
        assert mass.item() > 0.01
        assert found.item() == pytest.approx(mass.item(), rel=1e-9)
    assert (found_BTV - truth_BTV).abs().max() < 1e-9, "measuring changes nothing"
    ours, theirs = (gradients(model, torch.stack(masses).sum()) for masses in (shown.first, truth))
    for parameter, grad in theirs.items():
        if grad.any():
            assert (ours[parameter] - grad).norm() <= 1e-5 * grad.norm(), parameter


@pytest.mark.parametrize("window", [None, WINDOW])
def test_a_prefix_is_seen_by_every_query_and_by_none_but_it_what_follows(window):
    model = model_of("llama", None)
    shown = band(window, IDS.shape[1])
    shown[..., :6] = 0.0
    truth_BTV = model(input_ids=IDS, attention_mask=shown, use_cache=False).logits
    with attending(model, Seen(window, prefix=6)):
        found_BTV = model(input_ids=IDS, use_cache=False).logits
    check_same(model, found_BTV, truth_BTV)
    assert not torch.allclose(found_BTV[:, 0], model(input_ids=IDS[:, :1]).logits[:, 0]), "the first token sees more"


@pytest.mark.parametrize("before", [True, False])
def test_an_opt_of_either_norm_trains_as_its_stock_class_does(before):
    settings = dict(ffn_dim=48, word_embed_proj_dim=32, dropout=0.0, do_layer_norm_before=before)
    model = tiny("opt", settings)
    for layer in model.get_decoder().layers:  # moves all scores of a query alike, so its gradient is rounding
        layer.self_attn.k_proj.bias.requires_grad_(False)
    truth_BTV = model(input_ids=IDS, use_cache=False).logits
    with attending(model, Seen()):
        found_BTV = model(input_ids=IDS, use_cache=False).logits
    check_same(model, found_BTV, truth_BTV)
