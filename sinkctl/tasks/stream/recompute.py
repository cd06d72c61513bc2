"""`recompute`: what a sliding window costs without a cache, the slow baseline.

T tokens of a block, L tokens of a re-encoded window.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sinkctl.cache.policies import Recompute
from sinkctl.errors import ModelError
from sinkctl.model.attention import decoder_of
from sinkctl.model.lengths import alike_up_to
from sinkctl.model.load import LoadedModel
from sinkctl.tasks.stream.scorer import Scorer


class RecomputeScorer(Scorer):
    """`recompute`: the last L = S+W+1 tokens through the stock model for every scored token, no cache."""

    def __init__(self, loaded: LoadedModel, policy: Recompute, bos: bool):
        super().__init__(loaded, policy)
        self._length = policy.reach + 1
        self._bos = loaded.bos_id if bos else None
        self._recent = torch.zeros(0, dtype=torch.long)
        if loaded.context is not None and self._length > loaded.context:
            raise ModelError(
                f"{policy.label}: windows of {self._length} tokens do not fit the context of {loaded.context}"
            )

    def begin(self) -> None:
        super().begin()
        self._recent = self._recent[:0]

    @torch.no_grad()
    def step(self, ids_T: Tensor, target_T: Tensor) -> np.ndarray:
        nll = np.full(len(ids_T), np.nan, np.float32)
        known = torch.cat([self._recent, ids_T])
        first = len(self._recent)  # index in `known` of the block's first token
        growing, done = max(0, min(len(ids_T), self._length - self.seen)), 0
        # Windows that still start at the text's start: one causal pass serves all that are turned alike.
        while done < growing:
            alike = alike_up_to(self.loaded.model.config, first + done + 1)
            end = growing if alike is None else min(growing, alike - first)
            nll[done:end] = self._after(known[None, : first + end], target_T[None, done:end])[0]
            done = end
        every = self.policy.every
        scored = [i for i in range(len(ids_T)) if (self.seen + i) % every == 0]
        nll[sorted(set(range(growing)) - set(scored))] = np.nan
        full = [i for i in scored if i >= growing]
        rows = max(1, (8192 if self.loaded.device.type == "cpu" else 1 << 17) // self._length)
        for start in range(0, len(full), rows):
            batch = full[start : start + rows]
            window_BL = torch.stack([known[first + i + 1 - self._length : first + i + 1] for i in batch])
            if self._bos is not None:
                window_BL[:, 0] = self._bos
            nll[batch] = self._after(window_BL, target_T[batch, None])[:, 0]
        self._recent = known[-self._length :].clone()
        self.seen += len(ids_T)
        return nll

    def _after(self, ids_BL: Tensor, target_BT: Tensor) -> np.ndarray:
        """NLL of the targets after the last tokens of each row."""
        model = self.loaded.model
        ids_BL, target_BT = ids_BL.to(self.loaded.device), target_BT.to(self.loaded.device)
        output = decoder_of(model)(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL), use_cache=False)
        last = target_BT.shape[1]
        output.last_hidden_state = output.last_hidden_state[:, -last:]
        return self._losses(output, ids_BL[:, -last:], target_BT).cpu().numpy()

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"seen": self.seen}, {"recent": self._recent}

    def restore(self, data: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().restore(data, tensors)
        self._recent = tensors["recent"].cpu()

    @property
    def layers(self) -> list[str]:
        in_front = "BOS in place of the first" if self._bos is not None else "no BOS in front"
        return [f"{self.policy.label}: the stock model over {self._length} tokens for every scored one, {in_front}"]
