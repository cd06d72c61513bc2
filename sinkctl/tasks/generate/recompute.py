"""Generation without a cache: the baseline of the published 22.2×, and the only way past the context for GPT-2.

B rows, L tokens of a window, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sinkctl.cache.policies import Recompute
from sinkctl.errors import ModelError
from sinkctl.model.attention import decoder_of
from sinkctl.model.head import last_logits
from sinkctl.model.load import LoadedModel
from sinkctl.tasks.generate.sampling import Sampler


class RecomputeDecoder:
    """Continues rows by re-encoding their last L = S+W+1 tokens for every token; as `Decoder` otherwise."""

    def __init__(self, loaded: LoadedModel, policy: Recompute, sampler: Sampler, *, rows: int = 1, bos: bool = False):
        """With `bos`, BOS takes the place of a full window's first token, as in scoring."""
        self.loaded, self.policy, self.sampler = loaded, policy, sampler
        self._bos = loaded.bos_id if bos else None
        self.seen = [0] * rows
        self._recent = [torch.zeros(0, dtype=torch.int64)] * rows
        self.ids_B = torch.zeros(rows, dtype=torch.int64, device=loaded.device)
        if loaded.context is not None and policy.reach + 1 > loaded.context:
            raise ModelError(
                f"{policy.label}: windows of {policy.reach + 1} tokens do not fit the context of {loaded.context}"
            )

    def feed(self, texts: Sequence[Tensor], chunk: int, prompt: bool = True) -> Tensor:
        """Take in a text a row; returns the ids chosen next, [B]. Nothing depends on `chunk` and `prompt`."""
        self._take(texts)
        return self._choose(texts)

    def feeding(self, texts: Sequence[Tensor], chunk: int) -> Iterator[int]:
        """The same, in one piece."""
        self.feed(texts, chunk)
        yield max(map(len, texts))

    def step(self) -> Tensor:
        """Feed the latest ids; returns those chosen after them, [B]."""
        self._take(self.ids_B.cpu()[:, None])
        return self._choose(self.ids_B)

    @property
    def choices(self) -> dict[str, str]:
        """Nothing is chosen."""
        return {}

    @property
    def notes(self) -> list[str]:
        """Nothing to know."""
        return []

    @property
    def layers(self) -> list[str]:
        """What is done, in words."""
        return [f"{self.policy.label}: the stock model over {self.policy.reach + 1} tokens for every generated one"]

    def bytes_held(self) -> int:
        """No keys or values are kept."""
        return 0

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(plain data, tensors) that continue the rows."""
        recent = [window.tolist() for window in self._recent]
        data = {"seen": list(self.seen), "recent": recent, "ids": self.ids_B.tolist(), "sampler": self.sampler.state()}
        return data, {}

    def restore(self, data: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue where `state` was taken."""
        self.seen, self._recent = list(data["seen"]), [torch.tensor(ids, dtype=torch.int64) for ids in data["recent"]]
        self.ids_B.copy_(torch.tensor(data["ids"]))
        self.sampler.restore(data["sampler"])

    def _take(self, texts: Sequence[Tensor] | Tensor) -> None:
        for row, text in enumerate(texts):
            self._recent[row] = torch.cat([self._recent[row], text])[-(self.policy.reach + 1) :]
            self.seen[row] += len(text)

    @torch.no_grad()
    def _choose(self, fed: Sequence[Tensor] | Tensor) -> Tensor:
        model, logits = self.loaded.model, []
        for seen, window in zip(self.seen, self._recent, strict=True):  # windows may differ in length: row by row
            ids_1L = window[None].to(self.loaded.device).clone()
            if self._bos is not None and seen > self.policy.reach + 1:
                ids_1L[:, 0] = self._bos
            output = decoder_of(model)(input_ids=ids_1L, attention_mask=torch.ones_like(ids_1L), use_cache=False)
            logits.append(last_logits(model, output, ids_1L))
        self.sampler.prepare(1)
        self.ids_B.copy_(self.sampler.choose(torch.cat(logits), fed))
        self.sampler.count(1)
        return self.ids_B
