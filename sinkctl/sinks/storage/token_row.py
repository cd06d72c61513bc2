"""The row of a sink token in a model's embedding matrix and its head. C hidden width, V vocabulary."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.sinks.tokenizer import PlacedToken

# What the bias of a head, where it has one, adds to the sink token's logit: no text goes on with it.
UNSEEN = -1e4


@torch.no_grad()
def with_row(model: PreTrainedModel, token: PlacedToken, row_C: Tensor, output_row_C: Tensor | None = None) -> None:
    """Give the sink token the embedding `row_C`, in place; the other rows stay as they are, to the bit.

    A head of its own gets `output_row_C` (default zeros), a tied one has `row_C`. The token becomes the BOS token of
    the configs, and generation never chooses it. ModelError for a head that cannot grow.
    """
    rows = model.get_input_embeddings().num_embeddings
    assert token.spare == (token.id < rows), f"token {token.id} of {rows} rows"
    if not token.spare:
        try:
            model.resize_token_embeddings(token.id + 1, mean_resizing=False)
        except (TypeError, NotImplementedError, AttributeError) as error:
            raise ModelError(f"{type(model).__name__} takes no further row of embeddings: {error}") from error
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embedding.weight
    for module in (embedding, head):  # the tensors may be another model's too
        module.weight = torch.nn.Parameter(module.weight.clone(), module.weight.requires_grad)
    if tied:
        head.weight = embedding.weight
    embedding_VC = embedding.weight
    embedding_VC[token.id] = row_C.to(embedding_VC)
    if tied:
        assert output_row_C is None, "a tied head has no row of its own"
    else:
        head.weight[token.id] = 0 if output_row_C is None else output_row_C.to(head.weight)
    if head.bias is not None:
        head.bias = torch.nn.Parameter(head.bias.clone(), head.bias.requires_grad)
        head.bias[token.id] = UNSEEN
    for config in {id(each): each for each in (model.config, model.config.get_text_config())}.values():
        config.bos_token_id = token.id
    generation = model.generation_config
    generation.bos_token_id = token.id
    generation.suppress_tokens = [*(generation.suppress_tokens or []), token.id]
