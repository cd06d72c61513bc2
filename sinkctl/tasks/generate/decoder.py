"""Streams of one model side by side: texts in, in blocks, and then a token a step, on a GPU as one replayed graph.

B rows, T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from sinkctl.cache.growth import Growth
from sinkctl.cache.layers import layer_lines
from sinkctl.cache.policies import Bounded, Policy
from sinkctl.cache.select import ring
from sinkctl.errors import ModelError
from sinkctl.model.attention import Attachment, hidden_states
from sinkctl.model.block_layers import block_layers
from sinkctl.model.compiled import CompiledLayers, blocks_of
from sinkctl.model.head import last_logits
from sinkctl.model.lengths import Lengths
from sinkctl.model.load import LoadedModel
from sinkctl.model.parallel import own_state, whole_state
from sinkctl.model.recurrent import recurrent_cache
from sinkctl.model.row_layers import RowLayers, row_layers
from sinkctl.model.threads import one_thread, single_threaded
from sinkctl.model.undocumented import cached
from sinkctl.tasks.generate.sampling import Sampler

# Steps before a recording, in which libraries and compilers make what they make once.
WARM_UPS = 3


def lengths_of(loaded: LoadedModel, policy: Policy) -> Lengths:
    """The stages of a model's streams under a policy."""
    return Lengths(loaded, policy.reach + 1 if isinstance(policy, Bounded) else None)


class Decoder:
    """B streams of a model under one cache policy that keeps keys and values, each continued by itself."""

    def __init__(
        self,
        loaded: LoadedModel,
        policy: Policy,
        sampler: Sampler,
        *,
        rows: int = 1,
        capacity: int | None = None,
        graph: bool = False,
        compiled: bool = False,
    ):
        """`dense` needs the `capacity` in tokens; `graph` captures the step (CUDA), `compiled` compiles its layers.

        A choice that asks the host comes after the captured step.
        """
        self.loaded, self.policy, self.sampler = loaded, policy, sampler
        model, device = loaded.model, loaded.device
        self._lengths = lengths_of(loaded, policy)
        facts = self._lengths.last.layers
        self.cache = ring(facts, policy, rows, capacity)
        self._growth, self._chunk = Growth(self.cache, self._lengths), 1
        self.recurrent = recurrent_cache(model)
        self._attachment = Attachment(model, self.cache)
        self._layers, self._layers_why, self._blocks, self._blocks_why = None, "", None, ""
        if not self.cache.watched(model):  # what stands in for a layer shows its output to no hook
            self._layers, self._layers_why = row_layers(model, blocks_of(model, facts), rows)
            self._blocks, self._blocks_why = block_layers(model, blocks_of(model, facts))
            if compiled and self._layers is None:  # plain reductions, tuned, come closer to the memory's speed
                self._layers = CompiledLayers(blocks_of(model, facts), coordinate_descent_tuning=True)
        self.ids_B = torch.zeros(rows, dtype=torch.int64, device=device)
        self._zeros, self._ones = (f(rows, 1, dtype=torch.int64, device=device) for f in (torch.zeros, torch.ones))
        self._one_thread = one_thread(model, rows)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._wants_graph = graph

    def feed(self, texts: Sequence[Tensor], chunk: int, prompt: bool = True) -> Tensor:
        """Take in a text a row (ids, [T] each, none empty), in blocks of `chunk`; returns the ids chosen next, [B].

        Shorter texts are padded on the left; padding is neither kept nor seen. `prompt`: a prompt ends with them, and
        with it what policies wait for that choose there.
        """
        for _ in self.feeding(texts, chunk, prompt):
            pass
        return self.ids_B

    def feeding(self, texts: Sequence[Tensor], chunk: int, prompt: bool = True) -> Iterator[int]:
        """The same block by block: yields how many tokens of the longest text are in."""
        model, longest = self.loaded.model, max(map(len, texts))
        ids_BT = torch.zeros(len(texts), longest, dtype=torch.int64)
        real_BT = torch.zeros(len(texts), longest, dtype=torch.int64)
        for row, text in enumerate(texts):
            ids_BT[row, longest - len(text) :], real_BT[row, longest - len(text) :] = text, 1
        if self.recurrent is not None and not bool(real_BT.all()):
            if max(self.cache.seen):
                raise ModelError("rows of a model with recurrent layers can only be continued by texts of one length")
            chunk = longest  # padding can only be told from tokens in a recurrent layer's first block
        self._chunk = chunk
        self._lengthen([len(text) for text in texts])
        if self.policy.needs_prompts:
            self.cache.prompt([len(text) for text in texts], ends=prompt)
        for start in range(0, longest, chunk):
            part_BT, here_BT = (x[:, start : start + chunk] for x in (ids_BT, real_BT))
            part_BT = part_BT.to(self.loaded.device)
            self._growth.add(part_BT, here_BT)
            output = self._take_in(part_BT, here_BT)
            yield start + part_BT.shape[1]
        logits_BV = last_logits(model, output, part_BT)
        if not bool(torch.isfinite(logits_BV).any(-1).all()) or bool(logits_BV.isnan().any()):
            dtype = str(self.loaded.dtype).removeprefix("torch.")
            raise ModelError(f"{self.loaded.name}: its logits are no numbers in {dtype}; try --dtype float32")
        self.sampler.prepare(1)
        self.ids_B.copy_(self.sampler.choose(logits_BV, texts))
        self.sampler.count(1)

    def _lengthen(self, tokens: Sequence[int]) -> None:
        """Before rows grow by so many tokens: where that changes how they turn, all they hold is taken in again."""
        # Padding can only be told from tokens in a recurrent layer's first block.
        again = self._growth.lengthen(tokens, self._chunk if self.recurrent is None else None)
        if again is None:
            return
        self._graph, self.recurrent = None, recurrent_cache(self.loaded.model)
        for part_BT, real_BT in again:
            self._take_in(part_BT, real_BT)

    def _take_in(self, part_BT: Tensor, real_BT: Tensor) -> ModelOutput:
        """Run the decoder over a block, and move the cache on."""
        self.cache.expect(real_BT.bool())
        with self._attachment.active(), nullcontext() if self._blocks is None else self._blocks.active():
            output = hidden_states(
                self.loaded.model, part_BT, past=self.recurrent, real_BT=real_BT.to(part_BT.device, torch.int64)
            )
        self.cache.advance(part_BT.shape[1])
        return output

    @torch.no_grad()
    def step(self) -> Tensor:
        """Feed the latest ids; returns those chosen after them, [B], in memory that the next step overwrites."""
        self._lengthen([1] * len(self.ids_B))
        if not self._growth.settled:  # the next step writes over these ids
            self._growth.add(self.ids_B[:, None].clone(), self._ones)
        self.sampler.prepare(1)
        if self._wants_graph and self._graph is None:
            self._capture()
        if self._graph is None:
            self._forward()
            self.cache.advance(1)
        else:
            self._graph.replay()
            self.cache.count(1)
        if not self.sampler.static:
            self._choose()
        self.sampler.count(1)
        return self.ids_B

    def bytes_held(self) -> int:
        """Bytes of keys, values and recurrent states."""
        held = self.cache.bytes_held() * self.loaded.sharers
        return held + (0 if self.recurrent is None else self.recurrent.bytes_held())

    @property
    def choices(self) -> dict[str, str]:
        """Which attention implementations run, and why."""
        chosen = {"stream_attention": self.cache.block_implementations, "decode_attention": self.cache.implementations}
        said = {op: "; ".join(f"{name}: {why}" for name, why in found.items()) for op, found in chosen.items()}
        if self._blocks is not None:
            said["layers"] = f"of prompts: {self._blocks_why}"
        if isinstance(self._layers, RowLayers):
            said |= {"row_products": self._layers_why, "compile": "off: row_products needs nothing compiled"}
        return said | self._lengths.choice(self.policy.label, max(self.cache.seen))

    @property
    def notes(self) -> list[str]:
        """What a reader of the text has to know."""
        return self._lengths.notes(self.policy.label, max(self.cache.seen))

    @property
    def layers(self) -> list[str]:
        """What is done in each layer, one line a kind of layer."""
        carried = [] if self.recurrent is None else self.recurrent.recurrent
        return layer_lines(self.policy, self._lengths.of(max(1, *self.cache.seen)).layers, carried)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(plain data, tensors) that continue the streams; copies."""
        held = whole_state(self.cache.state(), self.loaded.sharers)
        tensors = {f"ring.{name}": buffer.clone() for name, buffer in held.items()}
        if self.recurrent is not None:
            tensors |= {f"recurrent.{name}": tensor for name, tensor in self.recurrent.state().items()}
        tensors |= {f"fed.{name}": tensor for name, tensor in self._growth.state().items()}
        plain = {"seen": list(self.cache.seen), "ids": self.ids_B.tolist(), "chunk": self._chunk}
        return plain | {"sampler": self.sampler.state()}, tensors

    def restore(self, data: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue where `state` was taken."""
        own = {kind: {} for kind in ("ring", "recurrent", "fed")}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            own[kind][rest] = tensor
        self.cache.restore(own_state(own["ring"], self.loaded.sharers), data["seen"])
        if self._growth.restore(own["fed"], data["seen"]):
            self._graph = None
        self._chunk = data["chunk"]
        if self.recurrent is not None:
            self.recurrent.restore(own["recurrent"])
        self.ids_B.copy_(torch.tensor(data["ids"]))
        self.sampler.restore(data["sampler"])

    def _forward(self) -> None:
        carried = dict(use_cache=False)
        if self.recurrent is not None:
            carried = cached(self.loaded.model, self.recurrent)
        with ExitStack() as stack:
            stack.enter_context(self._attachment.active())
            if self._one_thread:
                stack.enter_context(single_threaded())
            if self._layers is not None:
                stack.enter_context(self._layers.active())
            logits_BV = self.loaded.model(
                input_ids=self.ids_B[:, None], position_ids=self._zeros, attention_mask=self._ones, **carried
            ).logits[:, -1]
        self._logits_BV = logits_BV  # of a captured step, in memory that the next one overwrites
        if self.sampler.static:
            self._choose()

    def _choose(self) -> None:
        self.ids_B.copy_(self.sampler.choose(self._logits_BV, self.ids_B))

    def _capture(self) -> None:
        """Record a step. What the steps before the recording leave in the ring, the first replay writes anew."""
        assert self.recurrent is None
        self.sampler.prepare(WARM_UPS + 1)
        seen, ids_B, place = list(self.cache.seen), self.ids_B.clone(), self.sampler.place()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        self.cache.rehearse(True)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._forward()
        self.cache.rehearse(False)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._forward()
            self.cache.advance(1)
        self.cache.rewind(seen)
        self.ids_B.copy_(ids_B)
        self.sampler.rewind(place)
