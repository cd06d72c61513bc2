"""One conversion: its texts, its start, what is written of it and how that compares."""

import copy
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sinkctl.clock import phase
from sinkctl.errors import ModelError
from sinkctl.metrics.first_token import FirstToken
from sinkctl.model.adapter_files import resolved
from sinkctl.model.load import LoadedModel, load
from sinkctl.model.parts import towers_of
from sinkctl.model.settings import ModelSettings
from sinkctl.model.undocumented import runs_by
from sinkctl.result.convert import CONVERTED, ORIGINAL, ConvertDetail, Training
from sinkctl.sinks.storage.token_row import with_row
from sinkctl.sinks.tokenizer import PlacedToken, with_sink_token, without_bos
from sinkctl.tasks.convert.calibrate import calibrate, sample_length
from sinkctl.tasks.convert.evaluate import Evaluation, Judge
from sinkctl.tasks.convert.pace import Work
from sinkctl.tasks.convert.settle import Settled
from sinkctl.tasks.convert.start import Start, best_token, calibration_of, starts_of
from sinkctl.tasks.convert.texts import Texts, read
from sinkctl.tasks.convert.write import SINK, copy_processor, files_in, write_checkpoint
from sinkctl.tasks.pace import PROBE, Pace, probed
from sinkctl.tasks.stopping import go_on, stoppable


class Conversion:
    """One conversion, with what was chosen and noted on the way."""

    def __init__(
        self, settled: Settled, loaded: LoadedModel, told: Callable[[str, Pace], None], stop: Callable[[], bool]
    ):
        self.settled, self.loaded, self._told, self.stop = settled, loaded, told, stop
        self.work = Work.of(settled, loaded)
        self.pace = Pace(self.work.whole, probed(loaded, [torch.arange(PROBE) % loaded.rows]))
        self.recipe, self.sink, self.form = settled.recipe, settled.recipe.sink, settled.form
        self.choices = {"stored": f"{self.form.name}: {self.form.reason}"}
        self.notes = [*loaded.notes, *filter(None, (_towers(loaded), _written_out(loaded, settled.dtype)))]
        self.calibration = None
        self.bos = ""
        self.tokenizer_class = "AutoTokenizer"  # of transformers, that loads it as it is written
        self.tokenizer: PreTrainedTokenizerBase | None = None  # as it is written, once the start is there
        self.token: PlacedToken | None = None  # of a sink token
        self.others: Callable[[], list[Evaluation]] = list  # what other processes found, which train with this one
        self._original = False  # whether it was compared already

    @cached_property
    def texts(self) -> Texts:
        """Read once they are asked for."""
        settled = self.settled
        whole = settled.plan is not None and not self.recipe.training.text.files
        found = read(self.recipe.text, self.loaded, settled.calibration, settled.held_out, settled.least, whole)
        self.notes += found.notes
        return found

    @cached_property
    def judge(self) -> Judge | None:
        """What compares checkpoints; None where nothing is to be compared."""
        settled = self.settled
        if not settled.least:
            return None
        reference = self.loaded if self.recipe.scratch is None else None
        return Judge(self.sink, reference, self.texts.held_out_T, settled.window, self.recipe.evaluation, self.stop)

    def starts(self) -> list[Start | None]:
        """What each layer begins with; none where the mechanism is no part of the layers. Settles the tokenizer."""
        if self.settled.least or self.sink.measured or self.sink.kind == "sink_token":
            self.texts  # noqa: B018  so that a text that is too short is refused at once
        starts = self._starts()
        self._front()
        return starts

    def start(self) -> PreTrainedModel:
        """The checkpoint to write, untrained."""
        built = self.form.build(self.loaded.model, self.starts())
        self.place_row(built)
        return built

    def place_row(self, built: PreTrainedModel) -> None:
        """Give a sink token its row in the embedding."""
        if self.token is not None:
            tied = self.rows[0] is self.rows[1]
            with_row(built, self.token, self.rows[0], None if tied else self.rows[1])

    def written(self, built: PreTrainedModel, folder: Path, name: str) -> tuple[LoadedModel, Evaluation]:
        """Write the checkpoint into `folder`; returns it, loaded from there under `name`, and what all of them do."""
        settled, loaded = self.settled, self.loaded
        go_on(self.stop)
        self.told("writing")
        with phase("writing"):
            write_checkpoint(folder, built, self.form, self.tokenizer, settled.dtype, self.recipe.shard)
            if towers_of(built.config):
                copy_processor(folder, resolved(self.recipe.model))
        go_on(self.stop)
        self.told("loading what was written")
        spread = len(set((getattr(loaded.model, "hf_device_map", None) or {}).values())) > 1
        dtype = str(loaded.dtype).removeprefix("torch.")
        own = ModelSettings(name=str(folder), device="auto" if spread else str(loaded.device), dtype=dtype)
        written = load(own)
        if "tokenizer" in written.choices:
            self.tokenizer_class = "TokenizersBackend"
            self.notes.append(
                f"AutoTokenizer does not load the tokenizer as it was written, since {written.model.config.model_type} "
                "models have a class of their own; TokenizersBackend.from_pretrained does, as README.md shows."
            )
        written.name = name
        if self.judge is None:
            return written, Evaluation()
        with phase("comparing"):
            self.judge_original()
            self.judge(CONVERTED, written, self.judging(CONVERTED), self.named)
            for found in self.others():
                self.judge.found.join(found)
        return written, self.judge.found.ordered()

    def judge_original(self) -> None:
        """Once, where there is one."""
        if self.recipe.scratch is None and not self._original:
            self._original = True
            self.judge(ORIGINAL, self.loaded, self.judging(ORIGINAL))

    @property
    def named(self) -> str | None:
        """What the converted tokenizer puts in front, where it is no BOS token."""
        return "sink token" if self.sink.kind == "sink_token" else None

    def told(self, what: str) -> None:
        """Say what is under way."""
        self._told(what, self.pace)

    def part(self, work: float, done: float = 0.0) -> Callable[[str, float], None]:
        """A callback for a part of the work that begins now, of which the share `done` was done in an earlier run."""
        self.pace.ahead -= done * work
        before = self.pace.done

        def told(what: str, share: float) -> None:
            self.pace.do(before + max(0.0, share - done) * work - self.pace.done)
            self.told(what)

        return told

    def judging(self, label: str) -> Callable[[str, float], None]:
        """The callback of a checkpoint's judgement."""
        return self.part(self.work.judging[label])

    def _starts(self) -> list[Start | None]:
        if self.sink.kind in ("none", "sink_token"):
            return []
        window = self.settled.window - 1  # and the first token: a cache of `window` tokens
        seen: list[FirstToken | None] = []
        if self.sink.measured:
            samples, told = self._samples(), self.part(self.work.calibrating)
            told("calibrating", 0.0)
            seen = calibrate(
                self.loaded, samples, window, whole_rows=self.sink.whole_rows, hidden=self.sink.hidden,
                folded=self.sink.folds,
                progress=lambda share: told("calibrating", share),
                stop=self.stop,
            )  # fmt: skip
            facts = self.loaded.layers(window + 1)
            if not any(one is not None for one in seen):
                raise ModelError(
                    f"{self.loaded.name}: every layer has a sliding window of its own of at most {window} tokens, so "
                    f"none keeps a first token; take --window {max(f.window for f in facts)} or less, or --start zero"
                )
        starts = starts_of(self.sink, self.loaded, seen, window)
        if self.sink.folds:
            self.choices["biases"] = (
                "keys lose what of the first token's turns by less than a radian over all its layer reads, values its "
                "value"
            )
        if seen:
            self.calibration = calibration_of(
                self.loaded, seen, starts, window, len(samples), sum(len(ids) for ids in samples)
            )
            without = [
                str(f.number) for f, one in zip(self.loaded.layers(window + 1), seen, strict=True) if one is None
            ]
            if without:
                self.notes.append(
                    f"Layers {', '.join(without)} have a sliding window of their own and keep no first token in a "
                    "stream; they stay as they are."
                )
        return starts

    def _samples(self) -> list[Tensor]:
        """Of the length that calibration takes, each with what the tokenizer puts in front."""
        front = torch.tensor([self.loaded.bos_id] if self.loaded.uses_bos else [], dtype=torch.long)
        body = sample_length(self.settled.window - 1) - len(front)
        count = self.recipe.calibration.samples
        return [torch.cat([front, self.texts.calibration_T[n * body : (n + 1) * body]]) for n in range(count)]

    def _front(self) -> None:
        """Settle what the written tokenizer puts in front of a text."""
        sink, model = self.sink, self.loaded.model
        tokenizer = self.tokenizer = copy.deepcopy(self.loaded.tokenizer)
        if sink.kind == "sink_token":
            matrices = [m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings())]
            rows, reason = [matrix_VC.float().mean(0) for matrix_VC in matrices], "the mean of all rows"
            if self.recipe.scratch is not None:
                rows, reason = [_random_row(model)] * 2, "random, as the others"
            elif sink.start == "match":
                ids_T = self.texts.calibration_T[: 4 * self.settled.window]
                told = self.part(self.work.calibrating)
                with stoppable(model, self.stop):
                    best, reason = best_token(
                        self.loaded, ids_T, self.settled.window - 1, lambda share: told("choosing a row", share)
                    )
                rows = [matrix_VC[best] for matrix_VC in matrices]
            self.rows = [rows[0]] * 2 if matrices[0] is matrices[1] else rows
            token = self.token = with_sink_token(tokenizer, len(matrices[0]), sink.token)
            self.choices["embedding"] = f"token {token.id}: {reason}"
            self.bos = f"{sink.token} (token {token.id}, {'a spare' if token.spare else 'an added'} row)"
        elif sink.bos == "drop" or (sink.bos == "auto" and sink.replaces_first):
            self.bos = without_bos(tokenizer) or "nothing, as before"
        else:
            self.bos = "BOS, as before" if self.loaded.uses_bos else "nothing, as before"
        if self.form.name == "stock qwen3_5_text" and self.settled.dtype != torch.float32:
            self.notes.append(
                "qwen3_5_text stores norm weights less 1, which rounds small ones in half precision; --store code does "
                "not."
            )
        if sink.replaces_first and not self.loaded.uses_bos and sink.kind != "sink_token":
            self.notes.append(
                "The tokenizer puts no BOS token in front, so texts still begin with a token of their own, which may "
                "sink beside the mechanism; the start is made for streams that leave it behind."
            )

    def detail(self, folder: Path, written: LoadedModel, found: Evaluation, training: Training | None) -> ConvertDetail:
        """What the result says of it."""
        settled, model = self.settled, written.model
        ours = [p for name, p in model.named_parameters() if SINK in name or name.endswith(".sinks")]
        new = model.num_parameters() - self.loaded.model.num_parameters()
        plain = str(settled.dtype).removeprefix("torch.")
        # As others load it: a stock class casts its sinks with the rest.
        kept = "float32" if self.form.own_code and ours else plain
        return ConvertDetail(
            mechanism=self.sink.kind,
            settings=self.sink.model_dump(mode="json", exclude={"kind"}),
            model_type=model.config.model_type,
            stored=self.choices["stored"],
            own_code=self.form.own_code,
            attention=["eager", *runs_by(model)],
            dtype=plain,
            sink_dtype=kept,
            parameters=new,
            files=files_in(folder),
            bos=self.bos,
            tokenizer_class=self.tokenizer_class,
            calibration=self.calibration,
            window=settled.window,
            held_out=found.streamed,
            scored=found.scored,
            streams=found.streams,
            checkpoints=found.checkpoints,
            rounded=found.rounded,
            from_scratch=self.recipe.scratch is not None,
            training=training,
        )


def _towers(loaded: LoadedModel) -> str | None:
    """What becomes of the parts of a multimodal checkpoint that are no text decoder."""
    if towers := towers_of(loaded.model.config):
        return f"The {' and '.join(towers)} part is written as it was; the conversion is of the text decoder alone."
    said = loaded.choices.get("decoder")  # of a class that loads the text decoder alone
    return said and f"What is written is the text decoder alone ({said})."


def _written_out(loaded: LoadedModel, dtype: torch.dtype) -> str | None:
    """What became of quantized weights."""
    said = loaded.choices.get("quantized")
    plain = str(dtype).removeprefix("torch.")
    return said and f"The original's weights are {said.partition(',')[0]}; what is written is not quantized ({plain})."


def _random_row(model: PreTrainedModel) -> Tensor:
    """[C], drawn as the rows of a new model are."""
    width = model.get_input_embeddings().weight.shape[1]
    drawn = torch.randn(width, generator=torch.Generator().manual_seed(0))
    return drawn * (getattr(model.config.get_text_config(), "initializer_range", None) or 0.02)
