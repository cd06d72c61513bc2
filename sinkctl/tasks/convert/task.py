"""Give a checkpoint a sink: calibrate, compute the start, write, load what was written, compare."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sinkctl import __version__
from sinkctl.errors import Interrupted, ModelError
from sinkctl.metrics.first_token import FirstToken
from sinkctl.model.load import LoadedModel, load
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.result.convert import ConvertDetail
from sinkctl.result.environment import environment
from sinkctl.result.schema import Result
from sinkctl.result.store import ENVIRONMENT, RunFolder
from sinkctl.sinks.storage.token_row import with_row
from sinkctl.sinks.tokenizer import with_sink_token, without_bos
from sinkctl.tasks.convert.calibrate import calibrate, sample_length
from sinkctl.tasks.convert.evaluate import Evaluation, evaluate, go_on
from sinkctl.tasks.convert.outcome import measurements_of, verdict_of
from sinkctl.tasks.convert.settle import Settled, check_place, settle, size_of
from sinkctl.tasks.convert.start import Start, best_token, calibration_of, starts_of
from sinkctl.tasks.convert.texts import Texts, read
from sinkctl.tasks.convert.write import SINK, files_in, whole_or_nothing, write_checkpoint
from sinkctl.tasks.stream.outcome import model_report

# Shares of the whole at which parts begin.
CALIBRATING, WRITING, COMPARING = 0.05, 0.3, 0.4


@dataclass(frozen=True)
class Progress:
    """Where a run is."""

    what: str
    share: float


@dataclass(frozen=True)
class Outcome:
    """The Result, and where the checkpoint is."""

    result: Result = field(repr=False)
    path: Path
    verdict: list[str] = field(init=False)  # of the result; what a notebook shows

    def __post_init__(self) -> None:
        object.__setattr__(self, "verdict", self.result.verdict)


def run(
    recipe: ConvertRecipe,
    loaded: LoadedModel | None = None,
    *,
    output: str | Path,
    progress: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    finish: Callable[[RunFolder, Result], None] = lambda folder, result: None,
) -> Outcome:
    """Convert the recipe's checkpoint (`loaded` stands in for it) into the new folder `output`.

    The folder appears when all of it is there. `stop` is asked now and then: where it says yes, Interrupted is raised
    and nothing is left behind. `finish` may add to the folder.
    """
    began, output = time.monotonic(), Path(output)
    check_place(output)

    def told(what: str, share: float) -> None:
        progress(Progress(what, share))

    told("loading", 0.0)
    loaded = load(recipe.model) if loaded is None else loaded
    settled = settle(recipe, loaded)
    conversion = _Conversion(settled, loaded, told, stop)
    try:
        result = _converted(conversion, output, began, finish)
    except Interrupted as error:
        raise Interrupted("stopped; nothing was written") from error
    except torch.OutOfMemoryError as error:
        hint = "--no-eval compares nothing, and fewer --samples or a smaller --window take less"
        raise ModelError(f"{loaded.device} is out of memory (two models are compared): {hint}") from error
    return Outcome(result, output)


def _converted(
    conversion: "_Conversion", output: Path, began: float, finish: Callable[[RunFolder, Result], None]
) -> Result:
    settled, loaded = conversion.settled, conversion.loaded
    with whole_or_nothing(output, size_of(loaded, settled.dtype)) as folder:
        written, found = conversion(folder, str(output))
        detail = conversion.detail(folder, written, found)
        seconds = time.monotonic() - began
        result = Result(
            task="convert",
            sinkctl_version=__version__,
            recipe=settled.recipe.model_dump(mode="json"),
            model=model_report(loaded, []),
            choices=loaded.choices | conversion.choices,
            seconds=seconds,
            complete=True,
            measurements=measurements_of(detail, seconds),
            verdict=verdict_of(detail),
            notes=conversion.notes + found.notes,
            convert=detail,
        )
        kept = RunFolder(folder)
        kept.write_recipe(result.recipe)
        kept.write_json(ENVIRONMENT, environment())
        finish(kept, result)
        kept.write_result(result)
    return result


class _Conversion:
    """One conversion, with what was chosen and noted on the way."""

    def __init__(
        self, settled: Settled, loaded: LoadedModel, told: Callable[[str, float], None], stop: Callable[[], bool]
    ):
        self.settled, self.loaded, self.told, self.stop = settled, loaded, told, stop
        self.recipe, self.sink, self.form = settled.recipe, settled.recipe.sink, settled.form
        self.choices = {"stored": f"{self.form.name}: {self.form.reason}"}
        self.notes: list[str] = []
        self.calibration = None
        self.bos = ""

    def __call__(self, folder: Path, name: str) -> tuple[LoadedModel, Evaluation]:
        """Write the checkpoint into `folder`; returns it, loaded from there under `name`, and what it then does."""
        settled, loaded = self.settled, self.loaded
        texts = None
        if settled.least or self.sink.measured or self.sink.kind == "sink_token":
            texts = read(self.recipe.text, loaded, settled.calibration, settled.held_out, settled.least)
        starts = self._starts(texts)
        go_on(self.stop)
        self.told("writing", WRITING)
        tokenizer = copy.deepcopy(loaded.tokenizer)
        built = self.form.build(loaded.model, starts)
        self._front(tokenizer, built, texts)
        write_checkpoint(folder, built, self.form, tokenizer, settled.dtype, self.recipe.shard)
        del built
        go_on(self.stop)
        self.told("loading what was written", (WRITING + COMPARING) / 2)
        spread = len(set((getattr(loaded.model, "hf_device_map", None) or {}).values())) > 1
        dtype = str(loaded.dtype).removeprefix("torch.")
        own = ModelSettings(name=str(folder), device="auto" if spread else str(loaded.device), dtype=dtype)
        written = load(own)
        written.name = name
        if not settled.least:
            return written, Evaluation()

        def compared(what: str, share: float) -> None:
            self.told(what, COMPARING + (1 - COMPARING) * share)

        evaluation = self.recipe.evaluation
        return written, evaluate(
            self.sink, loaded, written, texts.held_out_T, settled.window, evaluation.samples, settled.length, compared,
            self.stop,
        )  # fmt: skip

    def _starts(self, texts: Texts | None) -> list[Start | None]:
        if self.sink.kind in ("none", "sink_token"):
            return []
        window = self.settled.window - 1  # and the first token: a cache of `window` tokens
        seen: list[FirstToken | None] = []
        if self.sink.measured:
            samples = self._samples(texts)
            seen = calibrate(
                self.loaded, samples, window, whole_rows=self.sink.whole_rows, hidden=self.sink.hidden,
                progress=lambda share: self.told("calibrating", CALIBRATING + (WRITING - CALIBRATING) * share),
                stop=self.stop,
            )  # fmt: skip
            facts = self.loaded.layers(window + 1)
            if not any(one is not None for one in seen):
                raise ModelError(
                    f"{self.loaded.name}: every layer has a sliding window of its own of at most {window} tokens, so "
                    f"none keeps a first token; take --window {max(f.window for f in facts)} or less, or --start zero"
                )
        starts = starts_of(self.sink, self.loaded, seen, window)
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

    def _samples(self, texts: Texts) -> list[Tensor]:
        """Of the length that calibration takes, each with what the tokenizer puts in front."""
        front = torch.tensor([self.loaded.bos_id] if self.loaded.uses_bos else [], dtype=torch.long)
        body = sample_length(self.settled.window - 1) - len(front)
        count = self.recipe.calibration.samples
        return [torch.cat([front, texts.calibration_T[n * body : (n + 1) * body]]) for n in range(count)]

    def _front(self, tokenizer, built, texts: Texts | None) -> None:
        """Settle what the written tokenizer puts in front of a text."""
        sink, model = self.sink, self.loaded.model
        if sink.kind == "sink_token":
            if tokenizer is None:
                raise ModelError(f"{self.loaded.name} has no tokenizer to put a sink token in front with")
            matrices = [m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings())]
            rows, reason = [matrix_VC.float().mean(0) for matrix_VC in matrices], "the mean of all rows"
            if sink.start == "match":
                ids_T = texts.calibration_T[: 4 * self.settled.window]
                best, reason = best_token(self.loaded, ids_T, self.settled.window - 1)
                rows = [matrix_VC[best] for matrix_VC in matrices]
            token = with_sink_token(tokenizer, len(matrices[0]), sink.token)
            with_row(built, token, rows[0], None if matrices[0] is matrices[1] else rows[1])
            self.choices["embedding"] = f"token {token.id}: {reason}"
            self.bos = f"{sink.token} (token {token.id}, {'a spare' if token.spare else 'an added'} row)"
        elif tokenizer is not None and (sink.bos == "drop" or (sink.bos == "auto" and sink.replaces_first)):
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

    def detail(self, folder: Path, written: LoadedModel, found: Evaluation) -> ConvertDetail:
        """What the result says of it."""
        settled, model = self.settled, written.model
        ours = [p for name, p in model.named_parameters() if SINK in name or name.endswith(".sinks")]
        new = model.num_parameters() - self.loaded.model.num_parameters()
        runs = {"sdpa": model._supports_sdpa, "flex_attention": model._supports_flex_attn}
        plain = str(settled.dtype).removeprefix("torch.")
        # As others load it: a stock class casts its sinks with the rest.
        kept = "float32" if self.form.own_code and ours else plain
        return ConvertDetail(
            mechanism=self.sink.kind,
            settings=self.sink.model_dump(mode="json", exclude={"kind"}),
            model_type=model.config.model_type,
            stored=self.choices["stored"],
            own_code=self.form.own_code,
            attention=["eager", *(name for name, can in runs.items() if can)],
            dtype=plain,
            sink_dtype=kept,
            parameters=new,
            files=files_in(folder),
            bos=self.bos,
            calibration=self.calibration,
            window=settled.window,
            held_out=found.streamed,
            scored=found.scored,
            streams=found.streams,
            checkpoints=found.checkpoints,
        )
