"""From statistics of a text to what every layer begins with."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sinkctl.cache.policies import SinkWindow
from sinkctl.metrics.first_token import FirstToken
from sinkctl.model.load import LoadedModel
from sinkctl.result.convert import Calibration, StartedLayer
from sinkctl.sinks import LayerShape, Sink
from sinkctl.tasks.stream.scorers import scorer_for

Start = dict[str, Tensor]
# Tokens that begin texts of all kinds, besides special ones: candidates for a sink token.
BEGINNINGS = ("\n", " ", ".", ",", "The", "the", "I", "#", "1")
MOST_CANDIDATES = 24


def starts_of(sink: Sink, loaded: LoadedModel, seen: Sequence[FirstToken | None], window: int) -> list[Start | None]:
    """What each softmax layer begins with; None for layers that a measured start finds without a first token."""
    width = loaded.model.config.get_text_config().hidden_size
    shapes = [LayerShape(f.heads, f.kv_heads, f.width, f.value_width, width) for f in loaded.layers(window + 1)]
    if not sink.measured:
        return sink.starts(shapes)
    return [None if one is None else sink.begin(shape, one) for shape, one in zip(shapes, seen, strict=True)]


def calibration_of(
    loaded: LoadedModel, seen: Sequence[FirstToken | None], starts: Sequence[Start | None], window: int, samples: int,
    tokens: int,
) -> Calibration:  # fmt: skip
    """What is said of it in the result."""
    facts = loaded.layers(window + 1)
    there = [one for one in seen if one is not None]
    return Calibration(
        tokens=tokens,
        samples=samples,
        window=window,
        key_spread=max(one.key_spread for one in there),
        value_spread=max(one.value_spread for one in there),
        layers=[_layer(f.number, one, start) for f, one, start in zip(facts, seen, starts, strict=True)],
    )


def _layer(number: int, seen: FirstToken | None, start: Start | None) -> StartedLayer:
    if seen is None:
        return StartedLayer(number=number)
    means = {"mass": seen.mass_HN, "score": seen.score_HN, "lse": seen.lse_HN}
    begun = {name: _size(x) for name, x in (start or {}).items()}
    return StartedLayer(number=number, begun=begun, **{name: float(x.mean()) for name, x in means.items()})


def _size(x: Tensor) -> float:
    """Numbers a head by their mean, vectors by their root mean square."""
    return float(x.mean() if x.dim() == 1 else x.square().mean().sqrt())


def best_token(
    loaded: LoadedModel, ids_T: Tensor, window: int, progress: Callable[[float], None] = lambda share: None
) -> tuple[int, str]:
    """The token in front of which a text is predicted best while it is kept, and the reason in words."""
    if loaded.uses_bos:
        return loaded.bos_id, "the BOS token's row"
    found = {}
    candidates = _candidates(loaded)
    for number, token in enumerate(candidates):
        scorer = scorer_for(loaded, SinkWindow(sinks=1, window=window), bos=True)
        whole_T = torch.cat([torch.tensor([token]), ids_T])
        found[token] = float(scorer.step(whole_T[:-1], whole_T[1:])[window:].astype("f8").mean())
        progress((number + 1) / len(candidates))
    best = min(found, key=found.get)
    text = loaded.tokenizer.convert_ids_to_tokens(best)
    return best, f"the row of {text!r}: of {len(found)} candidates it predicts the calibration text best"


def _candidates(loaded: LoadedModel) -> list[int]:
    """Special tokens, and what texts begin with."""
    rows = loaded.model.get_input_embeddings().num_embeddings
    pieces = [loaded.tokenizer(text, add_special_tokens=False).input_ids for text in BEGINNINGS]
    ids = [*loaded.tokenizer.all_special_ids, *(ids[0] for ids in pieces if len(ids))]
    return [token for token in dict.fromkeys(ids) if token < rows][:MOST_CANDIDATES]
