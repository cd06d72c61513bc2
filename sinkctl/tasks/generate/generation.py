"""Text out of a model, a token a step and row, for as long as is asked: the steps, and what is known of them."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch

from sinkctl import __version__
from sinkctl.cache.policies import Policy, Recompute
from sinkctl.clock import carry, phase, spent
from sinkctl.errors import ModelError, ResumeError
from sinkctl.model.load import LoadedModel
from sinkctl.model.memory import device_bytes
from sinkctl.model.parallel import as_the_first_says
from sinkctl.model.probe import LearnedPositions
from sinkctl.recipe.schema import GenerateRecipe
from sinkctl.result.stream import MemorySample
from sinkctl.tasks.generate.decoder import Decoder
from sinkctl.tasks.generate.ends import Ends
from sinkctl.tasks.generate.recompute import RecomputeDecoder
from sinkctl.tasks.generate.sampling import sampler_for
from sinkctl.tasks.generate.settle import settle
from sinkctl.tasks.generate.spelling import PATIENCE, Spelling
from sinkctl.tasks.stream.summary import Thinned

ENDED = -1  # in arrays of ids: the row had ended
# A device is asked for its tokens this often; where a row may end, after every one.
BURST_SECONDS, LONGEST_BURST = 0.05, 64
TAIL = 4000  # characters of each row's text that are kept


@dataclass(frozen=True)
class Tokens:
    """Consecutive tokens of all rows."""

    first: int  # number of steps before
    ids: np.ndarray  # int32 [steps, B]; −1: the row had ended
    text: list[str]  # by row, what has become readable


def decoder_for(
    loaded: LoadedModel, policy: Policy, settings: GenerateRecipe, rows: int, capacity: int | None = None,
    bos: bool = False,
) -> Decoder | RecomputeDecoder:  # fmt: skip
    """The decoder of a settled recipe; ModelError names what the model cannot do and what to use instead."""
    sampler = sampler_for(settings, rows, loaded)
    if isinstance(policy, Recompute):
        return RecomputeDecoder(loaded, policy, sampler, rows=rows, bos=bos)
    options = dict(rows=rows, capacity=capacity, graph=settings.graph, compiled=settings.compile)
    try:
        return Decoder(loaded, policy, sampler, **options)
    except LearnedPositions as error:
        raise ModelError(f"{error}; use --policy recompute") from error


class GenerateRun:
    """Generates the recipe's tokens; iterate it for `Tokens`, then `outcome.result_of` tells how it went."""

    def __init__(self, recipe: GenerateRecipe, loaded: LoadedModel, state: tuple[dict, dict] | None = None):
        self.settled, self.loaded = settle(recipe, loaded), loaded
        self.recipe, self.choices = self.settled.recipe, dict(self.settled.choices)
        self.rows = len(self.settled.prompts)
        self.limit = None if self.recipe.tokens == "endless" else self.recipe.tokens
        self.longest = max(map(len, self.settled.prompts))
        self.decoder = decoder_for(
            loaded, self.recipe.policy, self.recipe, self.rows,
            capacity=self.longest + self.limit if self.recipe.policy.grows else None,
            bos=self.settled.begins_with_bos,
        )  # fmt: skip
        self.fed = 0  # tokens of the longest prompt that are in
        self.steps, self.seconds, self.prompt_seconds = 0, 0.0, 0.0
        self.tokens = np.zeros(self.rows, np.int64)  # by row
        self.alive = np.ones(self.rows, bool)
        self.pace, self.memory, self.peak_bytes = Thinned(), Thinned(), 0
        self.tails = [""] * self.rows
        self.spelling = [Spelling(loaded.tokenizer, prompt[-PATIENCE:].tolist()) for prompt in self.settled.prompts]
        self.ends = Ends(loaded, self.settled.eos_ids, self.settled.stop_strings, self.rows)
        for row, prompt in enumerate(self.settled.prompts):
            self.ends.feed(row, prompt.tolist())
        if state is not None:
            self._restore(*state)

    def __iter__(self) -> Iterator[Tokens]:
        if not self.steps:
            began, nothing = time.perf_counter(), np.empty((0, self.rows), np.int32)
            with phase("first token"):
                for fed in self.decoder.feeding(self.settled.prompts, self.recipe.chunk):
                    self.fed = fed
                    yield Tokens(0, nothing, [""] * self.rows)
                ids = self.decoder.ids_B.cpu().numpy()
            self.prompt_seconds = time.perf_counter() - began
            yield self._taken(ids[None])
        burst = 1
        while self.alive.any() and (self.limit is None or self.steps < self.limit):
            count = burst if self.limit is None else min(burst, self.limit - self.steps)
            began = time.perf_counter()
            ids = torch.stack([self.decoder.step().clone() for _ in range(count)]).cpu().numpy()
            took = as_the_first_says(time.perf_counter() - began, self.loaded.sharers)
            self.seconds += took
            if not self.ends:
                burst = min(2 * burst, LONGEST_BURST) if took < BURST_SECONDS / 2 else burst
            self.pace.offer([self.steps + count - 1, self.seconds])
            yield self._taken(ids)
        rest = [spelling.rest() for spelling in self.spelling]
        self.tails = [(tail + left)[-TAIL:] for tail, left in zip(self.tails, rest, strict=True)]
        yield Tokens(self.steps, np.empty((0, self.rows), np.int32), rest)

    def _taken(self, ids: np.ndarray) -> Tokens:
        """Note a few steps' ids, [steps, B], and end the rows that say so."""
        ids, texts = ids.astype(np.int32), [""] * self.rows
        for row in np.flatnonzero(self.alive):
            new = ids[:, row].tolist()
            ends = next((step + 1 for step, token in enumerate(new) if self.ends.at(row, token)), None)
            if ends is not None:
                self.alive[row], new, ids[ends:, row] = False, new[:ends], ENDED
            self.tokens[row] += len(new)
            texts[row] = self.spelling[row].add(*new)
            self.tails[row] = (self.tails[row] + texts[row])[-TAIL:]
        ended = ~self.alive & (self.tokens <= self.steps)
        ids[:, ended] = ENDED
        first, self.steps = self.steps, self.steps + len(ids)
        self._watch_memory()
        return Tokens(first, ids, texts)

    def _watch_memory(self) -> None:
        process = psutil.Process().memory_info().rss
        device = device_bytes(self.loaded.device)
        peak = process if device is None else device_bytes(self.loaded.device, peak=True)
        self.peak_bytes = max(self.peak_bytes, peak)
        self.memory.offer(MemorySample(tokens=self.steps, process_bytes=process, device_bytes=device))

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be continued."""
        free = {"fail_on"} if self.recipe.policy.grows else {"fail_on", "tokens"}  # dense is made to size
        prompts = hashlib.sha256(b"|".join(prompt.numpy().tobytes() for prompt in self.settled.prompts))
        return {
            "version": __version__,
            "recipe": self.recipe.model_dump(mode="json", exclude=free),
            "prompts": prompts.hexdigest(),
            "model": self.loaded.fingerprint,
            "dtype": str(self.loaded.dtype),
            "device": self.loaded.device.type,
        }

    def state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Everything that continues this run: (JSON, tensors)."""
        data, tensors = self.decoder.state()
        return {
            "step": self.steps,
            "identity": self.identity(),
            "decoder": data,
            "tokens": self.tokens.tolist(),
            "alive": self.alive.tolist(),
            "ends": self.ends.recent,
            "spelling": [spelling.state() for spelling in self.spelling],
            "tails": self.tails,
            "pace": vars(self.pace),
            "memory": vars(self.memory) | {"items": [m.model_dump() for m in self.memory.items]},
            "seconds": self.seconds,
            "spent": spent(),
            "prompt_seconds": self.prompt_seconds,
            "peak_bytes": self.peak_bytes,
        }, {name: tensor.cpu() for name, tensor in tensors.items()}

    def _restore(self, data: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        before = data.get("identity", {})
        for key, now in self.identity().items():
            if before.get(key) != now:
                raise ResumeError(f"the {key} changed since this run was started; start a new run")
        self.decoder.restore(data["decoder"], tensors)
        self.steps, self.tokens = data["step"], np.array(data["tokens"], np.int64)
        self.alive, self.tails, self.ends.recent = np.array(data["alive"], bool), data["tails"], data["ends"]
        self.spelling = [Spelling(self.loaded.tokenizer, *spelling) for spelling in data["spelling"]]
        if self.limit is not None and self.steps >= self.limit:
            raise ResumeError(f"this run has {self.steps:,} tokens already; --generate asks for {self.limit:,}")
        items = [MemorySample(**item) for item in data["memory"]["items"]]
        self.pace, self.memory = Thinned(**data["pace"]), Thinned(**{**data["memory"], "items": items})
        carry(data["spent"])
        self.seconds, self.prompt_seconds = data["seconds"], data["prompt_seconds"]
        self.peak_bytes = data["peak_bytes"]
