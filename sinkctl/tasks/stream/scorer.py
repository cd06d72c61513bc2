"""What scores a stream block by block, whatever its policy.

T tokens of a block, B whole texts side by side.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import ModelOutput

from sinkctl.cache.policies import Policy
from sinkctl.errors import ModelError
from sinkctl.model.head import token_nll
from sinkctl.model.load import LoadedModel


class Scorer:
    """Scores a stream block by block under one policy."""

    def __init__(self, loaded: LoadedModel, policy: Policy):
        self.loaded, self.policy, self.seen = loaded, policy, 0

    def step(self, ids_T: Tensor, target_T: Tensor) -> np.ndarray:
        """NLL in nats of `target_T` (the token after each of `ids_T`), [T]; NaN where it is not scored."""
        raise NotImplementedError

    def begin(self) -> None:
        """Forget all that was seen: a text begins."""
        self.seen = 0

    @property
    def longest_beside(self) -> int | None:
        """Tokens of the longest text that `texts` takes; None: any."""
        return None

    def texts(self, ids_BT: Tensor, target_BT: Tensor, tokens: Sequence[int]) -> list[np.ndarray]:
        """NLL of whole texts, one a row, of so many `tokens` each and then padding; what was seen before is forgotten.

        Here one after the other.
        """
        found = []
        for ids_T, target_T, count in zip(ids_BT, target_BT, tokens, strict=True):
            self.begin()
            found.append(self.step(ids_T[:count], target_T[:count]))
        return found

    def stand_at(self, seen: int) -> None:
        """Say of oneself what one says after a text of so many tokens."""
        self.seen = seen

    def _losses(self, output: ModelOutput, ids_BT: Tensor, target_BT: Tensor, real_BT: Tensor | None = None) -> Tensor:
        """`token_nll`, where every loss must be a number: NaN would pass for a token that was not scored.

        Where `real_BT` is False there is padding, whose losses are nobody's.
        """
        nll_BT = token_nll(self.loaded.model, output, ids_BT, target_BT)
        if not bool(torch.isfinite(nll_BT if real_BT is None else nll_BT[real_BT.to(nll_BT.device)]).all()):
            raise ModelError(
                f"{self.loaded.name}: under {self.policy.label} a loss after the first {self.seen:,} tokens is not a "
                f"finite number in {str(self.loaded.dtype).removeprefix('torch.')}; try --dtype float32"
            )
        return nll_BT

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(plain data, tensors) that continue this scorer."""
        return {"seen": self.seen}, {}

    def restore(self, data: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.seen = data["seen"]

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys, values and recurrent states held between blocks."""
        return 0

    @property
    def choices(self) -> dict[str, str]:
        """Which implementations ran, and why."""
        return {}

    @property
    def notes(self) -> list[str]:
        """What a reader of its figures has to know."""
        return []

    @property
    def layers(self) -> list[str]:
        """What was done in each layer, one line a kind of layer."""
        return []
