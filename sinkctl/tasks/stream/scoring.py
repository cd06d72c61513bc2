"""`stream`: score texts under one or more cache policies, block by block, resumably."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch

from sinkctl.clock import carry, phase, spent
from sinkctl.errors import TextError
from sinkctl.metrics.sink_rate import LENGTH, sink_rate
from sinkctl.model.load import LoadedModel
from sinkctl.model.memory import device_bytes
from sinkctl.recipe.schema import StreamRecipe
from sinkctl.result.stream import MemorySample
from sinkctl.tasks.stream.feed import Block, Feed
from sinkctl.tasks.stream.identity import check_same, identity
from sinkctl.tasks.stream.passages import WARM, Passages
from sinkctl.tasks.stream.shared import Shared
from sinkctl.tasks.stream.tally import Tally
from sinkctl.tasks.stream.texts import Piece, Separate, side_by_side
from sinkctl.text import SpecialTokens, TextPosition, TokenStream, check_ids, fingerprint


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
    texts: np.ndarray  # int64 [texts that begin here, 4]: index of the first scored token, its file, byte and line


# The published sink rate is a mean over 100 samples; 16 give it to a few per cent.
SAMPLES = 16


class StreamRun:
    """One pass over some texts; iterate it for `ScoredBlock`s, then `outcome.result_of` tells what it found."""

    def __init__(
        self, recipe: StreamRecipe, loaded: LoadedModel, state: tuple[dict, dict] | None = None, *,
        shared: Shared | None = None, files: range | None = None, who: str = "0.0",
        stop: Callable[[], bool] = lambda: False,
    ):  # fmt: skip
        """Of a run in parts: what these share, and `files`, the part's own, by number; else all of them.

        `who` is the launch and process; where `stop` says yes, iteration ends, before what is under way is counted.
        """
        self.shared = shared or Shared.of(recipe, loaded)
        self.settled, self.scorers, self.loaded = self.shared.settled, self.shared.scorers, loaded
        self.recipe, self.choices = self.settled.recipe, dict(self.settled.choices)
        self.choices["text"] = self.shared.tokenizer.cuts.reason
        own = slice(None) if files is None else slice(files.start, files.stop)
        self.part, self.files, self.names = files, self.settled.files[own], self.settled.names[own]
        self.tally = Tally(list(self.scorers), self._passages())
        self.special = SpecialTokens(loaded.tokenizer, loaded.rows, self.settled.bos_id)
        # The first tokens, until the sink rate is measured on them.
        self._sample: list[int] | None = [] if files is None or not files.start else None
        self._place: tuple[int, int] | None = None  # file and byte of the last scored token
        self._sizes = fingerprint(self.files)
        self._who, self._stop = who, stop
        self._step, self.ended = 0, False
        self.marker: dict[str, Any] | None = None
        if state is not None:
            self._restore(*state)
        self._reader = self._made_reader()

    def _made_reader(self) -> TokenStream | Separate:
        text = self.recipe.text
        if text.each is not None:
            return Separate(
                self.files, self.shared.tokenizer, self.recipe, self.settled.bos_id, self.shared.fits, self.marker
            )
        start = None if self.marker is None else TextPosition.model_validate(self.marker["position"])
        return TokenStream(self.files, self.shared.tokenizer, field=text.field, errors=text.errors, start=start)

    def _pieces(self) -> Iterator[Piece]:
        if isinstance(self._reader, Separate):
            yield from self._reader
            return
        recipe, begins = self.recipe, self.marker is None
        bos = self.settled.bos_id, recipe.text.bos_each_file
        for block in Feed(self._reader, recipe.chunk, *bos, recipe.limit, self.marker):
            yield Piece([block], begins, False, block.after)
            begins = False

    def __iter__(self) -> Iterator[ScoredBlock]:
        assert all(each.redistribute is None or each.redistribute.settled for each in self.recipe.policies)
        began = time.perf_counter()
        for piece in self._pieces():
            with phase("scoring" if self._step else "first block"):
                losses = self._losses(piece)
            if losses is None:
                return
            scored = self._counted(piece, losses)
            self._measure_sink(scored.ids)
            self.marker, self._step = piece.after, self._step + 1
            now = time.perf_counter()
            self.tally.spend(self._who, now - began)
            began = now
            self._watch_memory()
            yield scored
        self._measure_sink(None)
        self.ended = True
        if not self.tally.scored and self.part is None:
            raise TextError(nothing_in(self.names))

    def _losses(self, piece: Piece) -> dict[str, list[np.ndarray]] | None:
        """Of each block, by policy; None where asked to stop before all are there."""
        for block in piece.blocks:
            ids = np.append(block.ids, block.targets[-1:])
            check_ids(self.loaded.tokenizer, ids, self.loaded.rows, self._where(block))
        if not piece.whole:
            (block,) = piece.blocks
            ids, targets = torch.from_numpy(block.ids), torch.from_numpy(block.targets)
            for scorer in self.scorers.values() if piece.begins else ():
                scorer.begin()
            return {label: [scorer.step(ids, targets)] for label, scorer in self.scorers.items()}
        counts = [len(block.ids) for block in piece.blocks]
        losses: dict[str, list] = {label: [None] * len(counts) for label in self.scorers}
        rows = None if self.recipe.rows == "auto" else self.recipe.rows
        for group in side_by_side(counts, self.recipe.chunk, rows):
            if self._stop():
                return None
            tokens = [counts[text] for text in group]
            ids_BT, target_BT = torch.zeros(2, len(group), max(tokens), dtype=torch.int64)
            for row, text in enumerate(group):
                ids_BT[row, : tokens[row]] = torch.from_numpy(piece.blocks[text].ids)
                target_BT[row, : tokens[row]] = torch.from_numpy(piece.blocks[text].targets)
            for label, scorer in self.scorers.items():
                for text, nll in zip(group, scorer.texts(ids_BT, target_BT, tokens), strict=True):
                    losses[label][text] = nll
        return losses

    def _counted(self, piece: Piece, losses: dict[str, list[np.ndarray]]) -> ScoredBlock:
        """Take what was scored into everything that is kept of it."""
        first, found, texts = self.tally.scored, [], []
        for number, block in enumerate(piece.blocks):
            text = block.is_text
            places = (block.targets[text], block.byte_offsets[text], block.lines[text], block.files[text])
            if piece.begins:
                self.tally.begin()
                if self.settled.bos_id is None:  # the first token of a text without BOS is no target
                    self.special.add(block.ids[:1], None, self._where(block))
                texts.append((self.tally.scored, block.files[0], block.byte_offsets[0], block.lines[0]))
            self.special.add(places[0], block.ids[text], self._where(block))
            nll = {label: of_blocks[number][text] for label, of_blocks in losses.items()}
            self.tally.add(nll, *places)
            found.append((*nll.values(), *places))
            if text.any():
                self._place = int(places[3][-1]), int(places[1][-1])
        for label, scorer in self.scorers.items():
            self.tally.cache_bytes[label] = max(self.tally.cache_bytes[label], scorer.cache_bytes)
        *nll, ids, byte_offsets, lines, files = map(np.concatenate, zip(*found, strict=True))
        starts = np.array(texts, np.int64).reshape(-1, 4)
        return ScoredBlock(first, dict(zip(self.scorers, nll, strict=True)), ids, byte_offsets, lines, files, starts)

    def _where(self, block: Block) -> str:
        """Of the largest id, which may be no row of the embedding."""
        place = int(block.targets.argmax())
        return f"{self.names[block.files[place]]}:{block.lines[place]}"

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
            self.tally.sink_rate = sink_rate(self.loaded.model, samples)

    def _watch_memory(self) -> None:
        process = psutil.Process().memory_info().rss
        device = device_bytes(self.loaded.device)
        peak = process if device is None else device_bytes(self.loaded.device, peak=True)
        self.tally.peak_bytes = max(self.tally.peak_bytes, peak)
        self.tally.memory.offer(MemorySample(tokens=self.tally.scored, process_bytes=process, device_bytes=device))

    def progress(self) -> Progress:
        latest, scored, recipe = self.tally.memory.items[-1], self.tally.scored, self.recipe
        share = self._share_scored()
        if recipe.limit is not None and recipe.text.each is None:
            share = max(share or 0.0, min(1.0, scored / recipe.limit))
        return Progress(
            scored, share, scored / max(self.tally.seconds, 1e-9),
            {label: total.perplexity for label, total in self.tally.totals.items()},
            latest.process_bytes, latest.device_bytes,
        )  # fmt: skip

    def _share_scored(self) -> float | None:
        """By the place of the last token where sizes tell; else only how much of the files was read is known."""
        if isinstance(self._reader, Separate):
            return self.bytes_read / max(1, sum(file["size"] or 0 for file in self._sizes))
        if self._reader.bytes_total is None or self._place is None:
            return self._reader.share_read
        file, byte = self._place
        before = sum(item["size"] for item in self._sizes[:file])
        return min(1.0, (before + byte) / max(1, self._reader.bytes_total))

    @property
    def name(self) -> str:
        """Of the file that is read, where texts are on their own; the last one where all are."""
        return self.names[min(self._reader.file, len(self.names) - 1)]

    @property
    def bytes_read(self) -> float:
        """Of texts on their own: bytes on disk."""
        return self._reader.bytes_read

    @property
    def resumable(self) -> bool:
        """Whether the texts can be read again."""
        return all(file["size"] is not None for file in self._sizes)

    @property
    def _between(self) -> bool:
        """Whether the next token begins a text, so that nothing is carried to it."""
        return self.recipe.text.each is not None and (self.marker is None or self.marker["inside"] is None)

    def state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Everything that continues this run: (JSON, tensors)."""
        data, tensors = {}, {}
        for number, (label, scorer) in enumerate(() if self._between else self.scorers.items()):
            data[label], own = scorer.state()
            tensors |= {f"{number}/{name}": tensor.cpu() for name, tensor in own.items()}
        return self.found() | {
            "step": self._step,
            "identity": self._identity(),
            "marker": self.marker,
            "scorers": data,
            "sample": self._sample,
            "choices": self.choices,
            "spent": spent(),
        }, tensors

    def found(self) -> dict[str, Any]:
        """What was found so far, as JSON."""
        return {"tally": self.tally.to_json(), "special": self.special.state()}

    def join(self, found: dict[str, Any], files: int) -> None:
        """Add what was `found` in the files from this number on, which come next."""
        self.tally.join(Tally.from_json(found["tally"], self._passages()), files)
        self.special.join(found["special"])

    def _passages(self) -> Passages:
        """None found yet; in one text the first tokens tell nothing."""
        asked = self.recipe.passages
        return Passages(asked.by, asked.top, WARM if self.recipe.text.each is None else 0)

    def _identity(self) -> dict[str, Any]:
        return identity(self.settled, self.loaded, self.files, whole=self.part is None)

    def _restore(self, data: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        check_same(data.get("identity", {}), self._identity())
        self.tally = Tally.from_json(data["tally"], self._passages())
        self.special.join(data["special"])
        self._sample, self.choices = data["sample"], data["choices"]
        self.marker, self._step = data["marker"], data["step"]
        if self.part is None:  # of a run in parts the plan says what the whole took
            carry(data["spent"])
        for number, (label, scorer) in enumerate(() if self._between else self.scorers.items()):
            own = {n.partition("/")[2]: t for n, t in tensors.items() if n.startswith(f"{number}/")}
            scorer.restore(data["scorers"][label], own)


def nothing_in(names: Sequence[str]) -> str:
    """What is wrong with texts of which no token can be scored."""
    return f"{', '.join(names)}: no token to score (a text needs at least two, or one after a BOS)"
