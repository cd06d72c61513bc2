"""What a stream loses without its first tokens: a cache of 0+(W+4) against one of 4+W, once they are full.

Until then both hold the same, so that part is run once, and the second cache goes on from the first one's.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from sinkctl.cache.policies import SinkWindow
from sinkctl.errors import TextError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import MeasureRecipe, StreamRecipe, TextSettings
from sinkctl.result.measure import CostLine
from sinkctl.tasks.measure.standard_error import blocks, ratio_error
from sinkctl.tasks.stream.feed import Feed
from sinkctl.tasks.stream.scorers import BlockScorer, scorer_for
from sinkctl.tasks.stream.settle import Settled, settle
from sinkctl.text import TokenStream
from sinkctl.text.special import check_ids

SINKS, WINDOW = 4, 1020  # of the published stream
WINDOWS, LEAST = 8, 1024  # streamed where nothing is said; but so many through a full cache
BLOCKS = 4  # clusters of a window that its standard error counts
NAME = f"0+W instead of {SINKS}+W"


def window_of(recipe: MeasureRecipe, context: int | None) -> int:
    """W."""
    if recipe.cost.window != "auto":
        return recipe.cost.window
    return WINDOW if context is None else max(1, min(WINDOW, context // 2, context - SINKS - 1))


def tokens_of(recipe: MeasureRecipe, context: int | None) -> int:
    """How many are streamed, the filling of the cache counted."""
    if recipe.cost.tokens != "auto":
        return recipe.cost.tokens
    window = window_of(recipe, context)
    return max(WINDOWS * window, SINKS + window + LEAST)


def streamed(
    recipe: MeasureRecipe, loaded: LoadedModel, progress: Callable[[int], None], go_on: Callable[[], None]
) -> CostLine:
    """`progress` gets the tokens of each forward pass; raises ModelError or TextError where nothing can be streamed."""
    window = window_of(recipe, loaded.context)
    kept, bare = SinkWindow(sinks=SINKS, window=window), SinkWindow(sinks=0, window=SINKS + window)
    settled = _settled(recipe, loaded, kept)
    limit = tokens_of(recipe, loaded.context)
    ids_T, target_T, text_T = _tokens(settled, loaded, limit)
    full = SINKS + window
    if len(ids_T) <= full + 1:
        few = "the text's tokens" if len(ids_T) < limit - 1 else "as many tokens as cost.tokens asks for"
        raise TextError(f"{few}, {len(ids_T):,} here, do not fill a cache of {kept.label}")
    bos, chunk = settled.bos_id is not None, settled.recipe.chunk
    with_sinks, without = (scorer_for(loaded, policy, bos) for policy in (kept, bare))

    assert isinstance(with_sinks, BlockScorer)
    assert isinstance(without, BlockScorer)

    def run(scorer: BlockScorer, first: int, end: int, scored: bool = True) -> np.ndarray:
        parts = []
        for start in range(first, end, chunk):
            part = slice(start, min(start + chunk, end))
            parts.append(scorer.step(ids_T[part], target_T[part] if scored else None))
            progress(part.stop - part.start)
            go_on()
        return np.concatenate(parts)

    run(with_sinks, 0, full, scored=False)
    data, tensors = with_sinks.state()
    without.restore(data, {name: tensor.clone() for name, tensor in tensors.items()})
    scored = text_T[full:]
    nll_T = run(with_sinks, full, len(ids_T))[scored].astype(np.float64)
    bare_T = run(without, full, len(ids_T))[scored].astype(np.float64)
    return CostLine(
        name=NAME,
        what=f"{len(nll_T):,} tokens streamed through a full cache of {bare.label} instead of {kept.label}",
        tokens=len(nll_T),
        perplexity=float(np.exp(bare_T.mean())),
        baseline=float(np.exp(nll_T.mean())),
        error=ratio_error(blocks(torch.from_numpy(bare_T - nll_T), max(1, window // BLOCKS))),
    )


def _settled(recipe: MeasureRecipe, loaded: LoadedModel, policy: SinkWindow) -> Settled:
    text = recipe.input
    bos = {"on": "always", "off": "never"}.get(text.bos, "auto")
    asked = StreamRecipe(
        model=recipe.model,
        text=TextSettings(files=text.files, field=text.field, errors=text.errors, bos=bos),
        policies=(policy,),
    )
    return settle(asked, loaded)


def _tokens(settled: Settled, loaded: LoadedModel, limit: int) -> Sequence[torch.Tensor]:
    """Inputs, the tokens after them, and which of those are text."""
    text = settled.recipe.text
    stream = TokenStream(settled.files, loaded.tokenizer, field=text.field, errors=text.errors)
    parts = []
    for block in Feed(stream, settled.recipe.chunk, settled.bos_id, text.bos_each_file, limit):
        check_ids(loaded.tokenizer, block.ids, loaded.rows, settled.names[0])
        parts.append((block.ids, block.targets, block.is_text))
    if not parts:
        raise TextError(f"{', '.join(settled.names)}: no token to score")
    ids, target, is_text = (np.concatenate(x) for x in zip(*parts, strict=True))
    return torch.from_numpy(ids), torch.from_numpy(target), is_text
