"""Which heads do better with part of the first token's attention given to the others: tried one by one on another text.

T tokens of a sample.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sinkctl.cache.policies import Policy
from sinkctl.cache.redistribution.heads import holding
from sinkctl.cache.redistribution.settings import Found, Head, Redistribution
from sinkctl.errors import Interrupted, TextError, UsageError
from sinkctl.model.compiled import blocks_of
from sinkctl.model.load import DEMO, LoadedModel
from sinkctl.model.parts import answering
from sinkctl.recipe.schema import QuestionsRecipe, StreamRecipe
from sinkctl.tasks.stream.scorers import BlockScorer
from sinkctl.tasks.stream.settle import bos_rule
from sinkctl.text import TokenStream

Told = Callable[[str, float], None]  # what is under way, and the share of it that is done
Recipe = StreamRecipe | QuestionsRecipe


def calibrated(
    recipe: Recipe, loaded: LoadedModel, told: Told = lambda what, share: None, stop: Callable[[], bool] = lambda: False
) -> Recipe:
    """The recipe with the heads that its policies leave to a calibration; each search is made once.

    Raises UsageError or TextError for texts that are no other or too short, ModelError for what cannot be streamed,
    Interrupted where `stop` says so.
    """
    searches: dict[str, Found] = {}
    policies = []
    for policy in recipe.policies:
        asked = policy.redistribute
        if asked is not None and not asked.settled:
            settled, _ = policy.resolve(loaded.context)
            losses = _Losses(loaded, settled, _samples(asked, recipe, loaded))
            alike = settled.model_copy(update={"redistribute": asked.model_copy(update={"heads": "all", "seed": 0})})
            found = searches.get(alike.model_dump_json())
            if found is None:
                found = searches[alike.model_dump_json()] = _search(losses, asked, told, stop)
            if asked.heads == "random":
                heads = tuple(sorted(random.Random(asked.seed).sample(losses.heads, len(found.heads))))
                found = found.model_copy(update={"heads": heads, "after": losses.mean(asked.share, heads)})
            policy = policy.model_copy(update={"redistribute": asked.model_copy(update={"found": found})})
        policies.append(policy)
    return recipe.model_copy(update={"policies": tuple(policies)})


class _Losses:
    """The mean loss of samples under a policy; layers before that of the heads in question are not run again."""

    def __init__(self, loaded: LoadedModel, policy: Policy, samples: list[tuple[Tensor, Tensor]]):
        self._loaded, self._samples = loaded, samples
        self._policy = policy.model_copy(update={"redistribute": None})
        self.layers = BlockScorer(loaded, self._policy).facts
        self.heads: list[Head] = [(f.number, head) for f in holding(self.layers, policy) for head in range(f.heads)]
        self._blocks = blocks_of(loaded.model, self.layers)
        self._passed = 0  # layers that are not run
        self._outputs: list[Any] = [None] * len(samples)  # of the last of them

    @property
    def tokens(self) -> int:
        """Tokens scored."""
        return sum(len(target_T) for _, target_T in self._samples)

    def mean(self, share: float = 1.0, heads: Sequence[Head] = ()) -> float:
        """In nats, with so much redistributed in these heads, none of which is in a layer passed."""
        policy = self._policy
        if heads:
            policy = policy.model_copy(update={"redistribute": Redistribution(share=share, heads=tuple(heads))})
        found = [self._scored(policy, sample) for sample in range(len(self._samples))]
        return float(np.concatenate(found).mean(dtype=np.float64))

    def move_on(self) -> None:
        """Past the next layer: from here on it gives what it gives with nothing redistributed."""
        block = self._blocks[self._passed]
        if self._blocks.count(block) > 1:  # shared by layers
            return
        for sample in range(len(self._samples)):
            outputs: list[Any] = []
            with block.register_forward_hook(lambda *call, outputs=outputs: outputs.append(call[-1])):
                self._scored(self._policy, sample)
            self._outputs[sample] = outputs[0]
        self._passed += 1

    def start_over(self) -> None:
        """Run every layer again."""
        self._passed = 0

    def _scored(self, policy: Policy, sample: int) -> np.ndarray:
        with answering(self._blocks[: self._passed], lambda: self._outputs[sample]):
            return BlockScorer(self._loaded, policy, stock=True).step(*self._samples[sample])


def _search(losses: _Losses, asked: Redistribution, told: Told, stop: Callable[[], bool]) -> Found:
    """The heads, or all heads of a layer, whose redistribution alone lowers the loss."""
    before, chosen, tried = losses.mean(), [], 0
    for facts in losses.layers:
        own = [head for head in losses.heads if head[0] == facts.number]
        for heads in [own] if asked.by == "layer" and own else [[head] for head in own]:
            told(f"calibrating heads: {tried:,} of {len(losses.heads):,}", tried / len(losses.heads))
            if stop():
                raise Interrupted("stopped while heads were calibrated; nothing was kept")
            if losses.mean(asked.share, heads) < before:
                chosen += heads
            tried += len(heads)
        if tried < len(losses.heads):
            losses.move_on()
    losses.start_over()
    return Found(
        heads=tuple(chosen), among=len(losses.heads), tokens=losses.tokens, before=before,
        after=losses.mean(asked.share, chosen),
    )  # fmt: skip


def _samples(asked: Redistribution, recipe: Recipe, loaded: LoadedModel) -> list[tuple[Tensor, Tensor]]:
    """(ids, the token after each) of every sample, a BOS in front where the stream has one."""
    bos_id, _ = bos_rule(recipe.bos if recipe.task == "questions" else recipe.text.bos, loaded)
    needed, blocks, held = asked.samples * asked.length, [np.empty(0, np.int64)], 0
    for block in TokenStream(asked.files or (str(DEMO / "text.txt"),), loaded.tokenizer):
        blocks.append(block.ids)
        held += len(block.ids)
        if asked.files and held >= needed:
            break
    what = ", ".join(asked.files) or "the built-in text"
    if held < needed:
        raise TextError(f"{what}: {held:,} tokens, and calibrating takes {needed:,}; give a longer --redistribute-text")
    ids_T = np.concatenate(blocks)
    if not asked.files and recipe.task == "stream" and not recipe.text.files and (recipe.limit or held) > held - needed:
        raise UsageError(
            f"--redistribute-heads calibrate: the last {needed:,} tokens of the built-in text are calibrated on; give "
            f"--limit {held - needed} or less to score others, or --redistribute-text FILE"
        )
    ids_T = torch.from_numpy(ids_T[:needed] if asked.files else ids_T[-needed:])
    if bos_id is None:
        return [(x[:-1], x[1:]) for x in ids_T.split(asked.length)]
    return [(torch.cat([x.new_tensor([bos_id]), x[:-1]]), x) for x in ids_T.split(asked.length)]
