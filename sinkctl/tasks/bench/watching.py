"""What a scorer's model says of every next token, while it scores. T tokens of a block, V vocabulary."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy

from torch import Tensor
from transformers.utils import ModelOutput

from sinkctl.model.head import last_logits
from sinkctl.tasks.stream.scorer import Scorer

LOGITS = 1 << 26  # alive at once: 256 MiB in float32


@contextmanager
def watched(scorer: Scorer, tell: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """Tell of every loss computed inside, some tokens at a time: logits [T, V], and ids of what came, [T]."""
    model, own = scorer.loaded.model, scorer._losses
    step = max(1, LOGITS // model.get_input_embeddings().num_embeddings)

    def losses(output: ModelOutput, ids_BT: Tensor, target_BT: Tensor) -> Tensor:
        every_TD, ids_T, target_T = output.last_hidden_state.flatten(0, 1), ids_BT.flatten(), target_BT.flatten()
        for start in range(0, len(ids_T), step):
            part, answer = slice(start, start + step), copy(output)
            answer.last_hidden_state = every_TD[part, None]
            logits_TV = last_logits(model, answer, ids_T[part, None])
            tell(logits_TV, target_T[part].to(logits_TV.device))
        return own(output, ids_BT, target_BT)

    scorer._losses = losses
    try:
        yield
    finally:
        del scorer._losses
