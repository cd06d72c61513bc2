"""For models whose attention never passes through transformers' attention interface: the maps they return themselves.

T×T a head and layer, so short samples only. N samples, H heads, T tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.kernels.column_sums import AttentionSums, Visible
from sinkctl.metrics.cross import CrossView
from sinkctl.metrics.observe import Measurer, blocks_of, run
from sinkctl.metrics.samples import Samples
from sinkctl.metrics.views import AttentionView
from sinkctl.model.attention import configs_of, sink_of
from sinkctl.model.undocumented import attending_by

LONGEST = 1024  # tokens a sample
# What a map alone can tell; queries, keys, values and what the head writes are not seen.
FROM_MAPS = (
    "alpha", "first_keys", "last_query", "tail_mass", "boost", "mass_split", "entropy", "entropy_share",
    "mean_distance", "balance_error", "group_mass",
)  # fmt: skip


@dataclass(frozen=True)
class MapView(AttentionView):
    """An attention layer known by its map; queries, keys and values have width 0."""

    map_NHTS: Tensor | None = None

    def attention(self, queries: slice, keys: slice) -> Tensor:
        return self.map_NHTS[:, :, queries, keys]


def observe_maps(model: PreTrainedModel, samples: Samples, measurer: Measurer) -> None:
    """Tell `measurer` of every attention map of a pass; ModelError, naming the model, where it returns none."""
    name = model.config.model_type
    ids_BL = samples.inputs.get("input_ids")
    if ids_BL is not None:  # images are as long as they are
        check_short(name, ids_BL.shape[1])
    try:
        # Layers with a designed sink have a config of their own, and attend by it as they are.
        own = {id(module.config) for module in model.modules() if sink_of(module) is not None}
        stock = [config for config in configs_of(model) if id(config) not in own or config is model.config]
        with attending_by(stock, "eager"):
            given = run(model, samples, output_attentions=True)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} does not return attention maps ({error}), so it cannot be measured") from error
    crossing = samples.part == "cross-attention"
    maps = getattr(given, "cross_attentions" if crossing else "attentions", None) or ()
    depth = len(blocks_of(model, samples.part))
    each = all(isinstance(a, Tensor) and a.dim() == 4 and (crossing or a.shape[2] == a.shape[3]) for a in maps)
    if len(maps) != depth or not each:
        raise ModelError(f"{name} neither calls transformers' attention interface nor returns a map for every layer")
    if any(bool((a < 0).any()) or float(a.float().sum(-1).max()) > 1.01 for a in maps):
        raise ModelError(f"{name} returns something else than attention as its maps, so it cannot be measured")
    for layer, map_BHTS in enumerate(maps):
        measurer.attention(layer, _view(map_BHTS, samples))


def check_short(name: str, tokens: int) -> None:
    """Raise ModelError for samples too long for their maps to be read."""
    if tokens > LONGEST:
        raise ModelError(
            f"{name} computes attention outside transformers' attention interface, so its T×T maps have to be read, "
            f"which stops at {LONGEST} tokens; --length {LONGEST} or less"
        )


def _view(map_BHTS: Tensor, samples: Samples) -> AttentionView:
    precise = torch.promote_types(map_BHTS.dtype, torch.float32)
    if samples.part == "cross-attention":
        return _cross_view(map_BHTS.to(precise), samples)
    map_NHTS = samples.apart(samples.apart(map_BHTS.to(precise), 2).transpose(2, 3), 2).transpose(2, 3)
    real_NT = samples.real(map_NHTS.shape[2], map_NHTS.device)
    place_T = torch.arange(map_NHTS.shape[2], device=map_NHTS.device)
    distance_TS = (place_T[:, None] - place_T).abs()
    nothing = map_NHTS.new_zeros(*map_NHTS.shape[:3], 0)
    sums = AttentionSums(
        out_BHTE=nothing,
        lse_BHT=torch.zeros_like(map_NHTS[..., 0]),
        entropy_BHT=-torch.special.xlogy(map_NHTS, map_NHTS).sum(-1),
        distance_BHT=(map_NHTS * distance_TS).sum(-1),
        received_BHS=map_NHTS.sum(2),
    )
    return MapView(
        nothing, nothing, nothing, sums, real_NT, _pattern(map_NHTS), scale=1.0, groups=samples.groups,
        map_NHTS=map_NHTS,
    )  # fmt: skip


def _cross_view(map_NHTS: Tensor, samples: Samples) -> CrossView:
    map_NHTS = samples.apart(map_NHTS, 3)
    q_NHT0, k_NHS0 = map_NHTS[..., :0], map_NHTS.mT[..., :0]
    entropy_NHT, unasked_NHT = -torch.special.xlogy(map_NHTS, map_NHTS).sum(-1), torch.zeros_like(map_NHTS[..., 0])
    sums = AttentionSums(q_NHT0, unasked_NHT, entropy_NHT, unasked_NHT, map_NHTS.sum(2))
    real_NS = samples.real(map_NHTS.shape[3], map_NHTS.device)
    return CrossView(q_NHT0, k_NHS0, k_NHS0, sums, real_NS, Visible(causal=False), scale=1.0, groups=samples.groups)


def _pattern(map_NHTS: Tensor) -> Visible:
    """What queries see, told from where any of the maps is not 0."""
    seen_TS = (map_NHTS > 0).flatten(0, 1).any(0)
    place_T = torch.arange(len(seen_TS), device=seen_TS.device)
    plain = Visible(causal=not bool(seen_TS.triu(1).any()))
    if torch.equal(plain.mask(place_T[:, None], place_T), seen_TS):
        return plain
    return Visible(plain.causal, also=lambda query_T1, key_S: seen_TS[query_T1, key_S])
