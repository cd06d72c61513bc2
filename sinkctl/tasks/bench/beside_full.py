"""How far a cache's predictions are from those with everything kept, token by token. T tokens, V vocabulary."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sinkctl.cache.policies import Dense, Policy
from sinkctl.cache.precision.predicted import settled
from sinkctl.model.load import DEMO, LoadedModel
from sinkctl.tasks.bench.watching import LOGITS, watched
from sinkctl.tasks.stream.scorer import Scorer
from sinkctl.tasks.stream.scorers import scorer_for
from sinkctl.text import TokenStream


@dataclass
class Beside:
    """Sums over tokens."""

    tokens: int = 0
    nats: float = 0.0
    flipped: int = 0

    @property
    def divergence(self) -> float:
        """Mean KL(everything kept ‖ this cache) in nats."""
        return self.nats / self.tokens

    @property
    def flips(self) -> float:
        """Tokens whose likeliest next one is another, in percent."""
        return 100 * self.flipped / self.tokens

    def add(self, whole_TV: Tensor, own_TV: Tensor) -> None:
        """Log-probabilities with everything kept, and with this cache."""
        self.tokens += len(whole_TV)
        self.nats += float((whole_TV.exp() * (whole_TV - own_TV)).sum(-1).sum(dtype=torch.float64))
        self.flipped += int((whole_TV.argmax(-1) != own_TV.argmax(-1)).sum())


def beside_full(loaded: LoadedModel, policies: Sequence[Policy], ids_T: Tensor) -> dict[str, Beside]:
    """By the policies' labels; over as much of the text as the model's context reaches, where it can be trusted."""
    bos = [loaded.bos_id] if loaded.uses_bos else []
    ids_T = torch.cat([torch.tensor(bos, dtype=ids_T.dtype), ids_T])[: loaded.context]
    whole = scorer_for(loaded, Dense(), bos=bool(bos))
    scorers = {each.label: scorer_for(loaded, each, bos=bool(bos)) for each in settled(policies, loaded)}
    found = {label: Beside() for label in scorers}
    step = max(1, LOGITS // 2 // loaded.model.get_input_embeddings().num_embeddings)
    for start in range(0, len(ids_T) - 1, step):
        part_T = ids_T[start : start + step + 1]
        whole_TV = _said(whole, part_T)
        for label, scorer in scorers.items():
            found[label].add(whole_TV, _said(scorer, part_T))
    return found


def _said(scorer: Scorer, ids_T: Tensor) -> Tensor:
    """Log-probabilities [T, V] of what follows each of the ids but the last."""
    said: list[Tensor] = []
    with watched(scorer, lambda logits_TV, _: said.append(logits_TV.float().log_softmax(-1))):
        scorer.step(ids_T[:-1], ids_T[1:])
    return torch.cat(said)


def opening(loaded: LoadedModel, files: Sequence[str], limit: int | None) -> tuple[Tensor, float]:
    """(ids of so many first tokens of the texts, int64 [T], tokens a byte of them); no files: the built-in text."""
    ids, left = [], math.inf if limit is None else limit
    for block in TokenStream(files or [DEMO / "text.txt"], loaded.tokenizer):
        if left <= 0:
            break
        ids.append(block.ids)
        left -= len(block.ids)
    ids = np.concatenate(ids)[:limit]
    text = loaded.tokenizer.decode(
        ids.tolist(), clean_up_tokenization_spaces=False
    )  # of records, without what is around
    return torch.from_numpy(ids), len(ids) / len(text.encode("utf-8", "surrogatepass"))
