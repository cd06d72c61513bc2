"""Measure one input of one checkpoint: batches through the model, into a tally."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

import torch
from torch import nn

from sinkctl.clock import phase
from sinkctl.errors import Interrupted, ModelError, within_memory
from sinkctl.metrics import ATTENTION
from sinkctl.metrics.maps import FROM_MAPS, observe_maps
from sinkctl.metrics.observe import blocks_of, observe
from sinkctl.metrics.samples import Part, Samples, laid_out
from sinkctl.metrics.views import Scope
from sinkctl.model.attention import sinks_of
from sinkctl.model.kinds import leading_tokens
from sinkctl.model.lengths import alike_up_to
from sinkctl.model.load import LoadedModel
from sinkctl.model.parts import stack_of, streams_axis, text_modules
from sinkctl.model.probe import restored
from sinkctl.model.recurrent import recurrent_cache
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.measure import InputScore
from sinkctl.tasks.measure.image_maps import image_maps
from sinkctl.tasks.measure.input_set import InputSet
from sinkctl.tasks.measure.score import arrays, input_score
from sinkctl.tasks.measure.tally import Tally

# Tokens a forward pass takes where nothing else is said; a sample is never divided.
TOKENS = {"cpu": 1024, "cuda": 32768}
FROM_DISK = 8192  # and at least where layers may be there
MOST = 256  # samples a forward pass: with all their heads they still number less than a launch's 65,535 rows
EARLY = 4  # samples of the first pass: enough to say what is to be expected


class InputRun:
    """One input set through one checkpoint; `choices` and `notes` are filled on the way."""

    def __init__(self, recipe: MeasureRecipe, loaded: LoadedModel, shown: InputSet):
        self.recipe, self.loaded, self.shown = recipe, loaded, shown
        self.choices: dict[str, str] = {}
        self.notes: list[str] = []
        scope = Scope(recipe.sinks, recipe.local, recipe.tail, recipe.massive.size, recipe.massive.ratio)
        self.tally = Tally(scope, recipe.epsilon)
        if "attention" not in recipe.parts:
            self.tally.attention_metrics = {}
        if "activations" not in recipe.parts:
            self.tally.block_metrics = {}
        self._mapped = False

    def __call__(self, progress: Callable[[float], None], stop: Callable[[], bool]) -> tuple[InputScore, dict]:
        """(the score, its arrays); raises Interrupted where `stop` says so."""
        began, samples = time.monotonic(), self.shown.samples
        size = self._batch()
        check_fits(self.loaded, max(map(len, samples)) if self._tokens else 0, self.recipe, self.shown.part)
        self._note_text()
        self._note_length(max(map(len, samples)) if self._tokens else 0)
        done = 0
        for batch in self._batches(size):
            with phase("measuring" if done else "first block"):
                self._measure(batch)
            done += len(batch)
            progress(done / len(samples))
            if stop():
                raise Interrupted("stopped")
        if int(self.tally.broken):
            every = sum(row.heads for row in self.tally.rows) * len(samples)
            self.notes.append(
                f"{self.shown.name}: attention is not finite in {int(self.tally.broken):,} of {every:,} (sample, head) "
                f"pairs, which no mean counts; a wider dtype may help."
            )
        score = self.score(time.monotonic() - began)
        if self.shown.names and "activations" in self.recipe.parts:
            with phase("looking at images"):
                score = score.model_copy(update={"images": image_maps(self.loaded.model, self.shown)})
        return score, arrays(self.tally)

    def score(self, seconds: float = 0.0) -> InputScore:
        """Of the samples measured by now."""
        model, shown = self.loaded.model, replace(self.shown, samples=self.shown.samples[: self.tally.found.samples])
        leading = leading_tokens(model) if self.loaded.kind == "vision" else []
        return input_score(shown, self.tally, self.recipe, kinds_of_layers(model, shown.part), leading, seconds)

    def _note_text(self) -> None:
        unequal = {sink.kind for sink in sinks_of(self.loaded.model) if not sink.normalises} - {"score_bias"}
        if unequal:
            self.notes.append(
                f"Weights by {unequal.pop()} need not sum to 1 a query; masses are of the weights as they are."
            )
        if streams_axis(self.loaded.model) is not None:
            self.notes.append(
                "This model has several residual streams; they are measured side by side, so that channels count on "
                "from one to the next."
            )
        if self.shown.kind == "natural" and not self.recipe.input.files:
            self.notes.append("Natural text: the built-in novel; rates on other text differ.")

    def _note_length(self, tokens: int) -> None:
        if "image" in self.shown.kind or self.loaded.kind == "diffusion":
            self.notes.append("Distances between patches are those of their reading order.")
        context = self.loaded.context
        if context is not None and tokens > context:
            self.notes.append(f"Samples of {tokens:,} tokens go past the model's context of {context:,}.")

    def _batches(self, size: int) -> Iterator[Sequence[torch.Tensor]]:
        """At most `size` samples in a row, few at first, of lengths that the stock class turns alike (it goes by the
        longest)."""
        samples, config = self.shown.samples, self.loaded.model.config
        if self.shown.given is not None:
            ends = [self.shown.shape(number) for number in range(len(samples))]
        else:
            ends = [alike_up_to(config, len(sample)) if self._tokens else None for sample in samples]
        first = 0
        while first < len(samples):
            most = size if first else min(size, EARLY)
            alike = takewhile(lambda end, own=ends[first]: end == own, ends[first : first + most])
            last = first + len(list(alike))
            yield samples[first:last]
            first = last

    def _measure(self, batch: Sequence[torch.Tensor]) -> None:
        model, device = self.loaded.model, self.loaded.device
        if self.shown.given is not None:
            samples = self.shown.laid_out(self.tally.found.samples, len(batch), device, self.loaded.dtype)
        elif self._tokens:
            longest = max(map(len, self.shown.samples))
            samples = laid_out(batch, device, self.recipe.layout, self._pad_id, longest)
        else:
            samples = Samples({"pixel_values": torch.stack(list(batch)).to(device, self.loaded.dtype)})
        less = "--batch takes fewer samples at once, --length shorter ones"
        # Dynamic NTK would go on with the frequencies of the longest batch.
        with within_memory(device, less), restored(model):
            self.choices |= observe(model, samples, self.tally)
            if "attention" in self.recipe.parts and (self._mapped or not self.tally.rows):
                self._read_maps(samples)
        self.tally.end(len(batch))

    def _read_maps(self, samples: Samples) -> None:
        if recurrent_only(self.loaded.model):
            self.notes.append("This model has no softmax attention: there are no attention maps to measure.")
            return
        if self.loaded.sharers > 1:
            kind = self.loaded.model.config.model_type
            raise ModelError(f"{kind} attends by itself, so that heads cannot be shared; leave --parallel tensor out")
        if not self._mapped:
            self._mapped = True
            self.choices["column_sums"] = "eager maps: the model does not call transformers' attention interface"
            self.tally.attention_metrics = {name: ATTENTION[name] for name in FROM_MAPS}
        observe_maps(self.loaded.model, samples, self.tally)

    @property
    def _tokens(self) -> bool:
        return self.shown.samples[0].dim() == 1

    @property
    def _pad_id(self) -> int:
        own = None if self.loaded.tokenizer is None else self.loaded.tokenizer.pad_token_id
        return own if own is not None else 0

    def _batch(self) -> int:
        if self.recipe.batch != "auto" and self.loaded.kind != "multimodal":
            return self.recipe.batch
        if self.loaded.kind == "multimodal":
            self.choices["batch"] = "1: an image stands elsewhere in every sample"
            return 1
        longest = max(map(len, self.shown.samples)) if self._tokens else 1024
        tokens = TOKENS.get(self.loaded.device.type, TOKENS["cpu"])
        why = f"a forward pass on {self.loaded.device.type}"
        if self.loaded.offloaded is not None:
            tokens, why = max(tokens, FROM_DISK), "a forward pass, each of which may read layers from the disk"
        size = min(MOST, max(1, tokens // longest))
        self.choices["batch"] = f"{size}: {tokens:,} tokens {why}"
        return size


def recurrent_only(model: nn.Module) -> bool:
    """Whether nothing in the model attends, such as Mamba."""
    found = recurrent_cache(model) if model.can_generate() else None
    return found is not None and not found.softmax


def check_fits(loaded: LoadedModel, tokens: int, recipe: MeasureRecipe, part: Part | None = None) -> None:
    """Raise ModelError for samples that this model, or that part of it, cannot be given."""
    if recipe.layout != "right" and loaded.kind != "decoder":
        raise ModelError(f"{loaded.name}: only decoders can be told where a sample stands; --set layout=right")
    if recipe.layout != "right" and recurrent_cache(loaded.model) is not None:
        raise ModelError(f"{loaded.name}: its recurrent layers see what stands before a sample; --set layout=right")
    own = text_modules(loaded.model) if part is None else dict(stack_of(loaded.model, part).named_modules())
    for name, module in own.items():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and ("position" in last or last in ("wpe", "embed_positions")):
            taken = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from there
            room = module.num_embeddings - getattr(module, "offset", taken)
            if tokens > room:
                raise ModelError(f"{loaded.name} has learned positions for {room} tokens; --length {room} or less")
        table = getattr(module, "embed_positions", None)
        if isinstance(table, torch.Tensor) and tokens > len(table):
            raise ModelError(f"{loaded.name} has a table of {len(table)} positions; --length {len(table)} or less")


def kinds_of_layers(model: nn.Module, part: Part | None = None) -> list[str]:
    """What each layer is, for those without a softmax map: as the config calls it, else by its class."""
    config, blocks = model.config.get_text_config(), blocks_of(model, part)
    named = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or []
    said = [str(name) for name in named] if len(named) == len(blocks) else [type(block).__name__ for block in blocks]
    return [f"{name}: no softmax map" for name in said]
