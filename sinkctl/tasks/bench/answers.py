"""What a model under a cache policy answers to requests of lm-evaluation-harness, many side by side (`eval` extra)."""

from dataclasses import dataclass, field
from typing import Any

import torch
from lm_eval.models.utils import postprocess_generated_text
from transformers import PreTrainedTokenizerBase

from sinkctl.cache.policies import Policy, Recompute
from sinkctl.errors import UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.model.memory import free_bytes
from sinkctl.model.recurrent import recurrent_cache
from sinkctl.recipe.schema import GREEDY, GenerateRecipe, SamplingSettings
from sinkctl.tasks.generate.decoder import Decoder, lengths_of
from sinkctl.tasks.generate.ends import end_of_sequence
from sinkctl.tasks.generate.generation import decoder_for
from sinkctl.tasks.generate.recompute import RecomputeDecoder
from sinkctl.tasks.generate.settle import can_capture

MOST = 32  # requests side by side
SAMPLED = ("temperature", "top_k", "top_p")
Asked = tuple[list[int], dict[str, Any]]  # ids of a context, and how the harness wants it continued


@dataclass(frozen=True)
class Answers:
    """Continues contexts, those of one sampling side by side, each as alone."""

    loaded: LoadedModel
    policy: Policy
    chunk: int  # tokens a forward takes

    def to(self, asked: list[Asked]) -> list[str]:
        """A text for each: up to a stop string, an end of sequence, or the longest it may be."""
        alike: dict[str, list[int]] = {}
        for number, (_, wanted) in enumerate(asked):
            alike.setdefault(_sampling(wanted).model_dump_json(), []).append(number)
        texts = [""] * len(asked)
        for numbers in alike.values():
            numbers.sort(key=lambda number: len(asked[number][0]))  # little padding
            for number, text in zip(numbers, self._alike([asked[number] for number in numbers]), strict=True):
                texts[number] = text
        return texts

    def _alike(self, asked: list[Asked]) -> list[str]:
        capacity = max(len(ids) + wanted["max_gen_toks"] for ids, wanted in asked)
        rows, texts = min(len(asked), self._rows(capacity)), []
        decoder = self._decoder(_sampling(asked[0][1]), rows, capacity)
        empty, tensors = decoder.state()
        for start in range(0, len(asked), rows):
            decoder.restore(empty | {"sampler": decoder.sampler.state()}, tensors)
            texts += self._continued(decoder, asked[start : start + rows], rows)
        return texts

    def _rows(self, capacity: int) -> int:
        """Texts of so many tokens that go side by side: as many as an eighth of free memory holds."""
        if isinstance(self.policy, Recompute) or recurrent_cache(self.loaded.model) is not None:
            return 1
        whole = self.policy.grows or self.policy.needs_prompts
        tokens = capacity if whole else min(capacity, self.policy.reach + 1)
        layers = lengths_of(self.loaded, self.policy).last.layers
        bytes_a_token = sum(f.kv_heads * (f.width + f.value_width) * f.dtype.itemsize for f in layers)
        return max(1, min(MOST, free_bytes(self.loaded.device) // 8 // (tokens * bytes_a_token)))

    def _decoder(self, sampling: SamplingSettings, rows: int, capacity: int) -> Decoder | RecomputeDecoder:
        graph, _ = can_capture(self.loaded, self.policy)
        settings = GenerateRecipe(sampling=sampling, graph=graph, compile=False)
        dense = capacity if self.policy.grows else None
        return decoder_for(self.loaded, self.policy, settings, rows, dense, self.loaded.uses_bos)

    def _continued(self, decoder: Decoder | RecomputeDecoder, asked: list[Asked], rows: int) -> list[str]:
        """A row each; rows that are left over repeat the last."""
        contexts = [torch.tensor(ids) for ids, _ in asked]
        contexts += contexts[-1:] * (rows - len(contexts))
        said = [_Said(self.loaded.tokenizer, wanted, end_of_sequence(self.loaded)) for _, wanted in asked]
        ids_B = decoder.feed(contexts, max(1, self.chunk // rows))
        while True:
            for one, token in zip(said, ids_B.tolist(), strict=False):
                one.hear(token)
            if all(one.ended for one in said):
                return [postprocess_generated_text(one.text, one.wanted["until"], None) for one in said]
            ids_B = decoder.step()


@dataclass
class _Said:
    """What has been generated for one request."""

    tokenizer: PreTrainedTokenizerBase
    wanted: dict[str, Any]
    ends: frozenset[int]
    new: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def text(self) -> str:
        return self.tokenizer.decode(self.new, skip_special_tokens=True)

    def hear(self, token: int) -> None:
        """Take in a token, unless all has been said."""
        if self.ended:
            return
        self.ended = token in self.ends
        if not self.ended:
            self.new.append(token)
            stops = [stop for stop in self.wanted["until"] if stop]
            stopped = bool(stops) and any(stop in self.text for stop in stops)
            self.ended = stopped or len(self.new) >= self.wanted["max_gen_toks"]


def _sampling(wanted: dict[str, Any]) -> SamplingSettings:
    unknown = set(wanted) - {*SAMPLED, "until", "do_sample", "max_gen_toks"}
    if unknown:
        raise UsageError(f"the task asks to generate with {', '.join(sorted(unknown))}, which is not supported")
    if not wanted["do_sample"]:
        return GREEDY
    temperature, top_k, top_p = (wanted.get(name) for name in SAMPLED)
    asked = {"temperature": temperature or 1.0, "top_k": top_k or None, "top_p": top_p or 1.0}
    return GREEDY.model_copy(update=asked)
