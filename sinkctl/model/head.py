"""Next-token losses from decoder outputs, through the model's own head, a slice of tokens at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from sinkctl.errors import ModelError
from sinkctl.kernels import losses
from sinkctl.model.attention import decoder_of

# Logits alive at once (tokens × vocabulary): 256 MiB in float32; on a CPU 32 MiB, which its allocator hands out again
# and again, while it maps, zeroes and unmaps what is larger (a third of the head's time). But not too few tokens.
LOGITS, ON_CPU, LEAST_TOKENS = 1 << 26, 1 << 23, 64
TILE = 128  # tokens that a GPU's product of matrices takes together


@torch.no_grad()
def token_nll(model: PreTrainedModel, decoder_output: ModelOutput, ids_BT: Tensor, target_BT: Tensor) -> Tensor:
    """NLL of each target in nats, [B, T], computed in float32 (float64 for a float64 model).

    The head runs as the checkpoint's own class runs it (logit scales, soft caps), on slices of the hidden states, so
    that logits of the whole block never exist.
    """
    hidden_BTD = decoder_output.last_hidden_state
    vocabulary = model.get_input_embeddings().num_embeddings
    tokens = max(LEAST_TOKENS, (ON_CPU if hidden_BTD.device.type == "cpu" else LOGITS) // vocabulary)
    step = max(1, tokens // len(ids_BT))
    if hidden_BTD.is_cuda and step > TILE:
        step -= step % TILE
    found = []
    for start in range(0, hidden_BTD.shape[1], step):
        part = slice(start, start + step)
        logits_BTV = _logits(model, decoder_output, hidden_BTD[:, part], ids_BT[:, part])
        target, logits_NV = target_BT[:, part].to(logits_BTV.device), logits_BTV.flatten(0, 1)
        run, _ = losses.select(logits_NV)
        found.append(run(logits_NV, target.flatten()).view_as(target))
    return torch.cat(found, dim=1)


@torch.no_grad()
def last_logits(model: PreTrainedModel, decoder_output: ModelOutput, ids_BT: Tensor) -> Tensor:
    """Logits after the last token of each row, [B, V]."""
    return _logits(model, decoder_output, decoder_output.last_hidden_state[:, -1:], ids_BT[:, -1:])[:, -1]


def _logits(model: PreTrainedModel, decoder_output: ModelOutput, hidden_BTD: Tensor, ids_BT: Tensor) -> Tensor:
    with _answering(decoder_of(model), decoder_output, hidden_BTD) as asked:
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
    if not asked:
        raise ModelError(f"{model.config.model_type} does not call its decoder as a whole; this is not supported")
    return logits_BTV


@contextmanager
def _answering(decoder: torch.nn.Module, output: ModelOutput, hidden: Tensor) -> Iterator[list]:
    """Make `decoder` answer with `hidden`, so that calling the whole model runs its head only; yields its calls."""
    answer = copy(output)
    answer.last_hidden_state = hidden
    own, asked = decoder.__dict__.get("forward"), []

    def forward(*args, **kwargs):
        asked.append(True)
        return answer

    decoder.forward = forward
    try:
        yield asked
    finally:
        if own is None:
            del decoder.forward
        else:
            decoder.forward = own
