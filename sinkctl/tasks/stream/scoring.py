"""`stream`: score a text under one or more cache policies, block by block, resumably."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch

from sinkctl import __version__
from sinkctl.cache.policies import Policy
from sinkctl.clock import carry, phase, spent
from sinkctl.errors import ResumeError, TextError
from sinkctl.metrics.sink_rate import LENGTH, sink_rate
from sinkctl.model.load import LoadedModel
from sinkctl.model.memory import device_bytes
from sinkctl.recipe.schema import StreamRecipe
from sinkctl.result.stream import MemorySample
from sinkctl.tasks.stream.feed import Block, Feed
from sinkctl.tasks.stream.passages import Passages
from sinkctl.tasks.stream.scorers import Scorer, scorer_for
from sinkctl.tasks.stream.settle import settle
from sinkctl.tasks.stream.summary import Curve, Thinned, Total
from sinkctl.text import SpecialTokens, TextPosition, TokenStream, fingerprint


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    tokens: int
    share: float | None
    tokens_per_second: float
    perplexities: dict[str, float | None]
    process_bytes: int
    device_bytes: int | None
    what: str = ""  # is under way before anything is scored


@dataclass(frozen=True)
class ScoredBlock:
    """The losses of consecutive text tokens: nats, one array a policy; places in the decompressed files."""

    first: int
    nll: dict[str, np.ndarray]
    ids: np.ndarray
    byte_offsets: np.ndarray
    lines: np.ndarray
    files: np.ndarray


# The published sink rate is a mean over 100 samples; 16 give it to a few per cent.
SAMPLES = 16


class StreamRun:
    """One pass over a text; iterate it for `ScoredBlock`s, then `outcome.result_of` tells what it found."""

    def __init__(self, recipe: StreamRecipe, loaded: LoadedModel, state: tuple[dict, dict] | None = None):
        self.settled, self.loaded = settle(recipe, loaded), loaded
        self.recipe, self.choices = self.settled.recipe, dict(self.settled.choices)
        labels = [policy.label for policy in self.recipe.policies]
        self.scorers = {policy.label: self._scorer(policy) for policy in self.recipe.policies}
        self.totals = {label: Total() for label in labels}
        self.common = {label: Total() for label in labels}
        self.curves = {label: Curve() for label in labels}
        self.passages = Passages(loaded.tokenizer.decode)
        self.special = SpecialTokens(loaded.tokenizer, loaded.rows, self.settled.bos_id)
        self.file_starts: list[tuple[int, int, int]] = []  # (index of the token, file, byte)
        self.marks, self.memory = Thinned(), Thinned()
        self.scored, self.seconds = 0, 0.0
        self.sink_rate: float | None = None
        self._sample: list[int] | None = []  # the text's first tokens, until the sink rate is measured on them
        self._place: tuple[int, int] | None = None  # file and byte of the last scored token
        self._sizes = fingerprint(self.settled.files)
        self.peak_bytes = 0
        self._step = 0
        self.marker: dict[str, Any] | None = None
        if state is not None:
            self._restore(*state)
        start = None if self.marker is None else TextPosition.model_validate(self.marker["position"])
        text = recipe.text
        self.stream = TokenStream(
            self.settled.files, loaded.tokenizer, field=text.field, errors=text.errors, start=start
        )
        self.choices["text"] = self.stream.bounded_reason

    def _scorer(self, policy: Policy) -> Scorer:
        size = self.recipe.chunk if self.recipe.compile else None
        return scorer_for(self.loaded, policy, bos=self.settled.bos_id is not None, compile_size=size)

    def __iter__(self) -> Iterator[ScoredBlock]:
        assert all(each.redistribute is None or each.redistribute.settled for each in self.recipe.policies)
        feed = Feed(
            self.stream,
            self.recipe.chunk,
            self.settled.bos_id,
            self.recipe.text.bos_each_file,
            self.recipe.limit,
            self.marker,
        )
        began = time.perf_counter()
        for block in feed:
            scored = self._score(block)
            self._measure_sink(scored.ids)
            self.marker, self._step = block.after, self._step + 1
            now = time.perf_counter()
            self.seconds, began = self.seconds + now - began, now
            self._watch_memory()
            yield scored
        self._measure_sink(None)
        if not self.scored:
            raise TextError(
                f"{', '.join(self.settled.names)}: no token to score (a text needs at least two, or one after a BOS)"
            )

    def _score(self, block: Block) -> ScoredBlock:
        self._look_at(block)
        ids, targets = torch.from_numpy(block.ids), torch.from_numpy(block.targets)
        text = block.is_text
        with phase("scoring" if self._step else "first block"):
            losses = {label: scorer.step(ids, targets)[text] for label, scorer in self.scorers.items()}
        places = (block.targets[text], block.byte_offsets[text], block.lines[text], block.files[text])
        shared = np.isfinite(np.stack(list(losses.values()))).all(0)
        for label, nll in losses.items():
            self.totals[label].add(nll)
            self.common[label].add(nll[shared])
            self.curves[label].add(self.scored, nll)
        self.passages.add(next(iter(losses.values())), *places)
        self._mark(places[3], places[1])
        scored = ScoredBlock(self.scored, losses, *places)
        self.scored += int(text.sum())
        return scored

    def _look_at(self, block: Block) -> None:
        """Count special tokens, before the model sees them; the first token of a text without BOS is no target."""
        text, place = block.is_text, int(block.targets.argmax())
        where = f"{self.settled.names[block.files[place]]}:{block.lines[place]}"
        if not self._step and self.settled.bos_id is None:
            self.special.add(block.ids[:1], None, where)
        self.special.add(block.targets[text], block.ids[text], where)

    def _mark(self, files: np.ndarray, byte_offsets: np.ndarray) -> None:
        """Remember where every file starts, and some places between."""
        last = self.file_starts[-1][1] if self.file_starts else -1
        for start in np.flatnonzero(np.diff(files, prepend=last)):
            self.file_starts.append((self.scored + int(start), int(files[start]), int(byte_offsets[start])))
        if len(files):
            self._place = int(files[-1]), int(byte_offsets[-1])
            self.marks.offer((self.scored, int(files[0]), int(byte_offsets[0])))

    def _measure_sink(self, ids: np.ndarray | None) -> None:
        """Once, on 16 samples of 64 tokens from the text's beginning (on fewer when it ends before: `ids` is None).

        Each sample has BOS in front where the stream has one.
        """
        if self._sample is None:
            return
        own = LENGTH - (self.settled.bos_id is not None)
        self._sample += [] if ids is None else ids.tolist()
        if len(self._sample) < SAMPLES * own and ids is not None:
            return
        count = min(SAMPLES, len(self._sample) // own)
        samples = torch.tensor(self._sample[: count * own], dtype=torch.long).view(count, own)
        self._sample = None
        if self.settled.bos_id is not None:
            samples = torch.cat([torch.full((count, 1), self.settled.bos_id), samples], dim=1)
        if count:
            self.sink_rate = sink_rate(self.loaded.model, samples)

    def _watch_memory(self) -> None:
        process = psutil.Process().memory_info().rss
        device = device_bytes(self.loaded.device)
        peak = process if device is None else device_bytes(self.loaded.device, peak=True)
        self.peak_bytes = max(self.peak_bytes, peak)
        self.memory.offer(MemorySample(tokens=self.scored, process_bytes=process, device_bytes=device))

    def progress(self) -> Progress:
        latest = self.memory.items[-1]
        share = self._share_scored()
        if self.recipe.limit is not None:
            share = max(share or 0.0, min(1.0, self.scored / self.recipe.limit))
        return Progress(
            self.scored, share, self.scored / max(self.seconds, 1e-9),
            {label: total.perplexity for label, total in self.totals.items()},
            latest.process_bytes, latest.device_bytes,
        )  # fmt: skip

    def _share_scored(self) -> float | None:
        """By the place of the last token where sizes tell; compressed text only says how much of it was read."""
        if self.stream.bytes_total is None or self._place is None:
            return self.stream.share_read
        file, byte = self._place
        before = sum(item["size"] for item in self._sizes[:file])
        return min(1.0, (before + byte) / max(1, self.stream.bytes_total))

    @property
    def resumable(self) -> bool:
        """Whether the text can be read again."""
        return all(file["size"] is not None for file in self._sizes)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be continued."""
        return {
            "version": __version__,
            "recipe": self.recipe.model_dump(mode="json", exclude={"fail_on"}),
            "model": self.loaded.fingerprint,
            "dtype": str(self.loaded.dtype),
            "device": self.loaded.device.type,
            "text": fingerprint(self.settled.files),
        }

    def state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Everything that continues this run: (JSON, tensors)."""
        data, tensors = {}, {}
        for number, (label, scorer) in enumerate(self.scorers.items()):
            data[label], own = scorer.state()
            tensors |= {f"{number}/{name}": tensor.cpu() for name, tensor in own.items()}
        return {
            "step": self._step,
            "identity": self.identity(),
            "marker": self.marker,
            "scorers": data,
            "totals": {label: [t.nll, t.tokens] for label, t in self.totals.items()},
            "common": {label: [t.nll, t.tokens] for label, t in self.common.items()},
            "curves": {label: curve.to_json() for label, curve in self.curves.items()},
            "passages": self.passages.to_json(),
            "special": self.special.state(),
            "file_starts": self.file_starts,
            "marks": vars(self.marks),
            "memory": vars(self.memory) | {"items": [m.model_dump() for m in self.memory.items]},
            "scored": self.scored,
            "seconds": self.seconds,
            "spent": spent(),
            "peak_bytes": self.peak_bytes,
            "sink_rate": self.sink_rate,
            "sample": self._sample,
            "choices": self.choices,
        }, tensors

    def _restore(self, data: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        before = data.get("identity", {})
        for key, now in self.identity().items():
            if before.get(key) != now:
                raise ResumeError(_changed(key, before.get(key), now))
        for number, (label, scorer) in enumerate(self.scorers.items()):
            own = {n.partition("/")[2]: t for n, t in tensors.items() if n.startswith(f"{number}/")}
            scorer.restore(data["scorers"][label], own)
        for label in self.scorers:
            self.totals[label], self.common[label] = Total(*data["totals"][label]), Total(*data["common"][label])
            self.curves[label] = Curve.from_json(data["curves"][label])
        self.passages = Passages(self.loaded.tokenizer.decode, data["passages"])
        self.special.restore(data["special"])
        self.marks = Thinned(**data["marks"])
        items = [MemorySample(**item) for item in data["memory"]["items"]]
        self.memory = Thinned(**{**data["memory"], "items": items})
        self.file_starts = [tuple(start) for start in data["file_starts"]]
        carry(data["spent"])
        self.scored, self.seconds, self.sink_rate = data["scored"], data["seconds"], data["sink_rate"]
        self._sample, self.choices = data["sample"], data["choices"]
        self.marker, self._step, self.peak_bytes = data["marker"], data["step"], data["peak_bytes"]


def _changed(key: str, before: Any, now: Any) -> str:
    if key == "recipe":
        before = before or {}
        keys = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
        return f"the recipe changed since this run was started ({', '.join(keys)}); start a new run"
    if key == "text":
        names = [b["path"] for b, n in zip(before or [], now, strict=False) if b != n]
        return f"the text changed since this run was started ({', '.join(names) or 'other files'}); start a new run"
    return f"the {key} changed since this run was started ({before} before, {now} now); start a new run"
