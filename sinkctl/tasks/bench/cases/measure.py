"""Attention metrics of one sample: sinkctl's pass, a forward pass alone, and eager attention maps.

Shapes: B batch (1), H query heads, T tokens, S the same as keys.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.metrics.observe import observe
from sinkctl.metrics.samples import laid_out
from sinkctl.metrics.views import Scope
from sinkctl.model.attention import configs_of, decoder_of
from sinkctl.model.load import LoadedModel
from sinkctl.model.undocumented import attending_by
from sinkctl.recipe.bench import MeasureCase
from sinkctl.recipe.sizes import Size
from sinkctl.result.bench import OURS, Work
from sinkctl.tasks.bench.costs import in_sample, token_flops, visible
from sinkctl.tasks.bench.subject import Subject
from sinkctl.tasks.bench.way import Group, Way
from sinkctl.tasks.measure.tally import Tally

EPSILON = 0.3
FEW = 8  # tokens that show which implementation runs


def group(case: MeasureCase, subject: Subject, size: Size) -> Group:
    """The peers' floor is a forward pass; ours has one more pass of QKᵀ.

    What a key received is a sum over queries of exp(score − log-sum-exp), and a query's log-sum-exp is only known when
    it has met all its keys, so scores are computed twice where no T×T map is kept.
    """
    loaded, tokens = subject.loaded, int(size["tokens"])
    model, ids_T = loaded.model, subject.ids(tokens)
    layers = loaded.layers(tokens)
    forward = token_flops(loaded, in_sample(tokens), tokens, head=False)
    again = sum(2 * facts.heads * facts.width * visible(tokens, facts.window) for facts in layers)
    work, more = (Work(count=tokens, flops=tokens * each) for each in (forward, forward + again))
    ours = Way(partial(measured, loaded, ids_T, case.activations), more)
    found = Group("tokens_per_s", {OURS: ours}, yardstick="stock" if "stock" in case.peers else None)
    found.choices.update(measured(loaded, ids_T[:FEW], case.activations)[1])
    modules, ids_BT = [facts.module for facts in layers], ids_T[None].to(loaded.device)
    peers = {"stock": partial(stock, model, ids_BT), "eager": partial(eager_alpha, model, modules, ids_BT)}
    found.ways.update({peer: Way(peers[peer], work) for peer in case.peers})
    return found


def measured(loaded: LoadedModel, ids_T: Tensor, activations: bool) -> tuple[Tally, dict[str, str]]:
    """Every attention metric of one sample, and of the residual stream with `activations`; and the choices made."""
    tally = Tally(Scope(), (EPSILON,))
    if not activations:
        tally.block_metrics = {}
    choices = observe(loaded.model, laid_out([ids_T], loaded.device), tally)
    tally.end(1)
    return tally, choices


@torch.no_grad()
def stock(model: PreTrainedModel, ids_BT: Tensor) -> None:
    """The decoder as it is: its own attention, no head, no cache."""
    decoder_of(model)(input_ids=ids_BT, use_cache=False)


def eager_alpha(model: PreTrainedModel, modules: Sequence[nn.Module], ids_BT: Tensor) -> list[Tensor]:
    """α_BHS of every layer, from eager maps that are dropped after their layer, as a careful script would.

    `modules` are the attention modules. ModelError where one gives no map.
    """
    later_S = torch.arange(ids_BT.shape[1], 0, -1, device=ids_BT.device)
    found = []

    def reduce(module: nn.Module, inputs: tuple, output: tuple[Tensor, Tensor]) -> tuple:
        map_BHTS = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(map_BHTS, Tensor) or map_BHTS.dim() != 4:
            raise ModelError(f"{type(module).__name__} returns no attention map")
        found.append((map_BHTS.float().sum(2) / later_S.to(map_BHTS.device)).cpu())
        return output[0], None, *output[2:]

    hooks = [module.register_forward_hook(reduce) for module in modules]
    try:
        with attending_by(configs_of(model), "eager"):
            stock(model, ids_BT)
    finally:
        for hook in hooks:
            hook.remove()
    return found
