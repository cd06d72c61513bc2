"""Interventions against an edit by hand, the choice of elements against activations made by hand."""

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from families import STREAMED, tiny

from sinkctl.metrics.masked_key import hide
from sinkctl.metrics.massive_cost import Activations, Elements, chosen, intervened, resumed, watched
from sinkctl.metrics.next_token import next_token
from sinkctl.metrics.observe import blocks_of
from sinkctl.metrics.samples import laid_out

SIZE, RATIO = 100.0, 1000.0


def shown(*samples: torch.Tensor) -> Activations:
    block = Activations()
    for h_TC in samples:
        block.add(h_TC[None], SIZE, RATIO)
    return block


def test_an_intervention_equals_the_second_block_run_on_an_edited_state():
    model = tiny(*STREAMED["llama"])
    ids_NT = torch.randint(3, 64, (3, 12), generator=torch.Generator().manual_seed(0))
    elements, value_K = Elements(0, [(0, 5), (4, 9)], massive=False), torch.tensor([-3.0, 0.25]).double()
    with torch.no_grad():
        h_NTC = model(input_ids=ids_NT, output_hidden_states=True, use_cache=False).hidden_states[1]
        edited_NTC = h_NTC.clone()
        edited_NTC[:, 0, 5], edited_NTC[:, 4, 9] = value_K
        second = deepcopy(model)
        second.model.layers, second.config.num_hidden_layers = second.model.layers[1:], 1
        by_hand_NV = second(inputs_embeds=edited_NTC, use_cache=False).logits[:, -1]
    samples = laid_out(list(ids_NT), model.device)
    with intervened(model, elements, value_K) as before_NK:
        found = next_token(model, samples)
    torch.testing.assert_close(found.last_NV, by_hand_NV, rtol=0, atol=1e-9)
    torch.testing.assert_close(before_NK[0], torch.stack([h_NTC[:, 0, 5], h_NTC[:, 4, 9]], dim=1), rtol=0, atol=1e-9)
    assert not torch.allclose(next_token(model, samples).last_NV, by_hand_NV)  # the model is as it was


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "smollm3"])
def test_blocks_below_a_replaced_activation_need_not_run_again(family):
    kind, settings = STREAMED[family]
    deep = {"layer_types": 2 * settings["layer_types"]} if "layer_types" in settings else {}
    model = tiny(kind, settings | dict(num_hidden_layers=4) | deep)
    samples = laid_out(list(torch.randint(3, 64, (3, 12), generator=torch.Generator().manual_seed(0))), model.device)
    blocks = [Activations() for _ in range(4)]
    with watched(model, SIZE, RATIO, blocks) as output:
        plain = next_token(model, samples, hide(()))
    elements = chosen(blocks)
    assert output.layer == elements.layer
    for value_K in (None, torch.full((len(elements.places),), 9.0)):
        with nullcontext() if value_K is None else intervened(model, elements, value_K):
            whole = next_token(model, samples, hide(()))
            with resumed(model, output):
                above = next_token(model, samples, hide(()))
        torch.testing.assert_close(above.nll_NT, whole.nll_NT, rtol=0, atol=1e-10)
        assert torch.equal(above.last_NV, plain.last_NV) == (value_K is None)
    assert above.attentions == 3 - elements.layer  # of the blocks above
    assert not any("forward" in vars(block) for block in blocks_of(model))


def test_a_massive_activation_is_watched_where_it_was_planted():
    model = tiny(*STREAMED["llama"])
    with torch.no_grad():
        model.get_input_embeddings().weight[7, 11] = 1e5
    ids_NT = torch.randint(8, 64, (4, 10), generator=torch.Generator().manual_seed(0))
    ids_NT[:2, 3] = 7
    blocks = [Activations() for _ in range(model.config.num_hidden_layers)]
    with watched(model, SIZE, RATIO, blocks) as output:
        next_token(model, laid_out(list(ids_NT), model.device))
    assert chosen(blocks) == Elements(0, [(3, 11)], massive=True)
    assert output.layer == 0


def test_massive_elements_are_those_of_half_of_the_samples_after_the_first_block_with_any():
    flat_TC = torch.full((4, 6), 0.5)
    both_TC, one_TC = flat_TC.clone(), flat_TC.clone()
    both_TC[0, 2] = one_TC[0, 2] = -600.0
    one_TC[1, 3] = 700.0
    one_TC[2, 4] = 400.0  # above 100, yet less than 1,000 medians
    once = shown(flat_TC, flat_TC, one_TC)
    blocks = [once, shown(both_TC, one_TC, flat_TC), shown(both_TC, both_TC, both_TC)]
    assert chosen(blocks) == Elements(1, [(0, 2)], massive=True)


def test_without_massive_ones_the_first_tokens_largest_are_taken_but_never_after_the_last_block():
    calm_TC, peaked_TC = torch.full((4, 6), 0.5), torch.full((4, 6), 0.5)
    peaked_TC[0, [1, 4, 5]] = torch.tensor([3.0, -9.0, 6.0])
    peaked_TC[2, 0] = 50.0  # not the first token
    found = chosen([shown(calm_TC), shown(peaked_TC), shown(100 * peaked_TC - 49.9)])
    assert found == Elements(1, [(0, 4), (0, 5), (0, 1)], massive=False)
    assert chosen([shown(peaked_TC)]) is None


def test_blocks_that_text_does_not_go_through_are_not_chosen():
    h_TC = torch.full((4, 6), 0.5)
    h_TC[0, :3] = torch.tensor([3.0, 9.0, 2.0])
    assert chosen([Activations(), shown(h_TC), Activations()]) == Elements(1, [(0, 1), (0, 0), (0, 2)], massive=False)
    assert chosen([Activations(), shown(h_TC)]) is None
