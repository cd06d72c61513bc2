"""The published streaming recipe, token by token.

B rows, H query heads, G key/value heads, T new tokens, N keys, D and E widths, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sinkctl.cache.policies import Keep, SinkWindow
from sinkctl.errors import ModelError
from sinkctl.kernels.rotate.reference import rotate
from sinkctl.model.attention import Attachment
from sinkctl.model.handler import AttentionCall, Handler
from sinkctl.model.load import LoadedModel
from sinkctl.model.positions import Rotation
from sinkctl.model.probe import LayerFacts
from sinkctl.model.recurrent import recurrent_cache

# Tokens a forward pass while the cache fills; scores are kept whole.
BLOCK = 256


@dataclass
class _Layer:
    keep: Keep
    rotation: Rotation | None
    k_BGND: Tensor | None = None  # un-rotated
    v_BGNE: Tensor | None = None


class Published(Handler):
    """StreamingLLM as its authors' code has it (Xiao et al. 2023, arXiv 2309.17453, github.com/mit-han-lab).

    For every token the new key is joined to those kept, all are rotated at their places in the cache, attention is
    eager, and the cache is cut to S sinks and W recent tokens by copying it.
    """

    def __init__(self, loaded: LoadedModel, policy: SinkWindow):
        facts = loaded.layers(policy.reach)
        if recurrent_cache(loaded.model) is not None or not all(map(_plain, facts)):
            raise ModelError(f"{loaded.name}: the published recipe has plain softmax alone; leave out peer 'published'")
        self._model, self._policy, self.seen = loaded.model, policy, 0
        self._layers = {id(f.module): _Layer(policy.keep(f.window, f.number), f.rotation) for f in facts}
        self._tables: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._attachment = Attachment(loaded.model, self)

    def fill(self, ids_BT: Tensor) -> Tensor:
        """Take in a prompt of at most S+W+1 tokens; returns the logits after it, [B, V]."""
        assert self.seen + ids_BT.shape[1] <= self._policy.reach + 1
        for part in ids_BT.split(BLOCK, dim=1):
            logits_BTV = self._forward(part)
        return logits_BTV[:, -1]

    def step(self, ids_B: Tensor) -> Tensor:
        """Take in a token a row; returns the logits after it, [B, V]."""
        return self._forward(ids_B[:, None])[:, -1]

    def score(self, ids_T: Tensor, target_T: Tensor) -> Tensor:
        """NLL in nats of the token after each of `ids_T`, [T], one at a time; on the device."""
        ids_T, target_T = ids_T.to(self._model.device), target_T.to(self._model.device)
        pairs = zip(ids_T.split(1), target_T.split(1), strict=True)
        return torch.stack([cross_entropy(self.step(ids).float(), target) for ids, target in pairs])

    def bytes_held(self) -> int:
        """Bytes of keys and values."""
        return sum(layer.k_BGND.nbytes + layer.v_BGNE.nbytes for layer in self._layers.values())

    def attend(self, call: AttentionCall) -> Tensor:
        layer, T = self._layers[id(call.module)], call.q_BHTD.shape[2]
        k_BGND, v_BGNE = call.k_BGTD, call.v_BGTE
        if layer.k_BGND is not None:
            k_BGND, v_BGNE = torch.cat([layer.k_BGND, k_BGND], dim=2), torch.cat([layer.v_BGNE, v_BGNE], dim=2)
        N, groups = k_BGND.shape[2], call.q_BHTD.shape[1] // k_BGND.shape[1]
        q_BHTD = self._rotated(layer.rotation, call.q_BHTD, N)
        k_BHND = self._rotated(layer.rotation, k_BGND, N).repeat_interleave(groups, dim=1)
        score_BHTN = q_BHTD @ k_BHND.mT * call.scale
        if T > 1:
            place_N = torch.arange(N, device=q_BHTD.device)
            distance_TN = place_N[N - T :, None] - place_N
            near_TN = (distance_TN <= layer.keep.window) | (place_N < layer.keep.sinks)
            score_BHTN = score_BHTN.masked_fill((distance_TN < 0) | ~near_TN, -torch.inf)
        out_BHTE = score_BHTN.float().softmax(-1).to(v_BGNE.dtype) @ v_BGNE.repeat_interleave(groups, dim=1)
        layer.k_BGND, layer.v_BGNE = _cut(k_BGND, layer.keep), _cut(v_BGNE, layer.keep)
        return out_BHTE

    @torch.no_grad()
    def _forward(self, ids_BT: Tensor) -> Tensor:
        with self._attachment.active():  # at position 0 keys come un-rotated
            output = self._model(
                input_ids=ids_BT, position_ids=torch.zeros_like(ids_BT), attention_mask=torch.ones_like(ids_BT),
                use_cache=False,
            )  # fmt: skip
        self.seen += ids_BT.shape[1]
        return output.logits

    def _rotated(self, rotation: Rotation | None, x_BHTD: Tensor, keys: int) -> Tensor:
        """The last of `keys` places in the cache are those of x."""
        if rotation is None:
            return x_BHTD
        key = (id(rotation), keys)
        if key not in self._tables:  # in the model's own precision, as published
            self._tables[key] = tuple(x.to(x_BHTD.dtype) for x in rotation.table(range(keys), x_BHTD))
        cos, sin = (x[keys - x_BHTD.shape[2] :] for x in self._tables[key])
        return rotate(x_BHTD, cos, sin, start=rotation.start, interleaved=rotation.layout == "interleaved")


def _plain(facts: LayerFacts) -> bool:
    return not (facts.sink_logit or facts.in_blocks or facts.softcap or facts.alibi)


def _cut(x_BGND: Tensor, keep: Keep) -> Tensor:
    """The first S and the last W, copied, where there are more."""
    if x_BGND.shape[2] <= keep.sinks + keep.window:
        return x_BGND
    return torch.cat([x_BGND[:, :, : keep.sinks], x_BGND[:, :, -keep.window :]], dim=2)
