"""The training of a conversion: the checkpoint, then its control, on the same sequences."""

import hashlib
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.model.load import LoadedModel
from sinkctl.result.convert import CONTROL, CONVERTED, ORIGINAL, START, Training, TrainingCurve
from sinkctl.result.environment import environment
from sinkctl.result.store import ENVIRONMENT, STATE, RunFolder, resumable
from sinkctl.sinks import SINKS
from sinkctl.tasks.convert.conversion import Conversion
from sinkctl.tasks.convert.evaluate import Evaluation
from sinkctl.tasks.convert.streamed import Fed
from sinkctl.tasks.convert.training.corpus import Corpus, check_room, of_files, of_tokens
from sinkctl.tasks.convert.training.processes import accelerator_on, check_spread
from sinkctl.tasks.convert.training.states import Course, States
from sinkctl.tasks.convert.training.train import Original, Student, Trainer
from sinkctl.tasks.convert.training.trained import (
    Trainable,
    as_loaded,
    runnable,
    snapshot,
    taken_apart,
    trainable,
)
from sinkctl.tasks.convert.write import SINK
from sinkctl.text import is_records
from sinkctl.text.source import is_pipe


@dataclass(frozen=True)
class Trained:
    """The model to write, and what is said of how it came to be."""

    built: PreTrainedModel
    detail: Training


class TrainingRun:
    """Trains what `conversion` begins with, and its control; states are kept in `output`."""

    def __init__(self, conversion: Conversion, output: Path):
        self.conversion, self.output = conversion, output
        self.settled, self.loaded = conversion.settled, conversion.loaded
        self.plan, self.recipe, self.sink = self.settled.plan, conversion.recipe, conversion.sink
        self.settings = self.plan.settings
        self.accelerator = accelerator_on(self.loaded.device, self.plan.half)
        check_spread(self.accelerator, self.settings, self.sink.kind)
        self.main = self.accelerator.is_main_process
        conversion.others = self.others
        self.holding = ExitStack()  # the folder, until what is trained is written

    def __call__(self) -> Trained:
        """Raises what the trainer raises; TextError for a text too short."""
        conversion, corpus = self.conversion, self._corpus()
        starts = conversion.starts()

        def fresh() -> PreTrainedModel:
            model = runnable(self.loaded.model, self.sink, starts)
            conversion.place_row(model)
            return model

        model = fresh()
        trainer = self._trainer(corpus, self._folder(model))
        self._judge_start(model)
        part = trainable(model, self.settings, conversion.token and conversion.token.id, self._held)
        learned = part.numbers
        model, course = self._trained(trainer, CONVERTED, part, conversion.tokenizer, fresh)
        built, courses = self._to_write(model), {CONVERTED: course}
        del model, part  # the control needs the room
        if self.plan.controlled:
            courses |= self._control(trainer)
        conversion.choices |= trainer.choices
        conversion.notes += self.plan.notes
        return Trained(built, self._detail(corpus, learned, courses))

    def _trainer(self, corpus: Corpus, folder: RunFolder) -> Trainer:
        states = States(folder, self._made_of(corpus), self.main, self.accelerator.wait_for_everyone)
        states.begin()
        original = Original(self.loaded.model, Fed.of(ORIGINAL, self.loaded).front)
        return Trainer(self.plan, self.accelerator, corpus, original, states, self.conversion.stop)

    def _judges(self, label: str) -> bool:
        """Whether it is for this process to compare a checkpoint: while the main one has the original and the
        converted one, the next has the start and the control, where that is whole there."""
        sharded = self.accelerator.distributed_type == DistributedType.FSDP
        next_one = label == START or (label == CONTROL and not sharded)
        place = 1 % self.accelerator.num_processes if next_one else 0
        return self.conversion.judge is not None and self.accelerator.process_index == place

    def others(self) -> list[Evaluation]:
        """In the main process what the others compared, once they are done."""
        if self.accelerator.num_processes == 1 or self.conversion.judge is None:
            return []
        return gather_object([self.conversion.judge.found])[1:]

    def _judge_start(self, model: PreTrainedModel) -> None:
        conversion = self.conversion
        if self.accelerator.num_processes > 1 and self._judges(ORIGINAL):  # while the next process has the start
            conversion.judge_original()
        if self._judges(START) and self.recipe.scratch is None:
            held = snapshot(model, self.settled.dtype, self.loaded.dtype)
            first = LoadedModel(held, conversion.tokenizer, START, "in memory")
            conversion.judge(START, first, conversion.judging(START), conversion.named)

    @property
    def _held(self) -> torch.dtype:
        """How weights that do not learn are held, without rounding any; FSDP takes one dtype."""
        sharded = self.accelerator.distributed_type == DistributedType.FSDP
        return torch.bfloat16 if self.settled.dtype == torch.bfloat16 and not sharded else torch.float32

    def _corpus(self) -> Corpus:
        conversion, files = self.conversion, self.settings.text
        judged_by = {Path(name).resolve() for name in self.recipe.text.files}
        if self.settled.least and judged_by & {Path(name).resolve() for name in files.files}:
            conversion.notes.append("A text that judges is trained on too: what it says does not hold for other texts.")
        if files.files:
            records, read = any(is_pipe(name) or is_records(name) for name in files.files), self.recipe.text
            replaced = "replace" if "replace" in (files.errors, read.errors) else "strict"
            field = files.field or (read.field if records else None)  # --field and --errors are for both texts
            files = files.model_copy(update={"field": field, "errors": replaced})
            with conversion.pace.aside():
                corpus = of_files(
                    files, self.loaded, self.loaded.bos_id,
                    progress=lambda share: conversion.told(f"reading the text to train on, {share:.0%}"),
                    stop=conversion.stop, most=self.settings.unique,
                )  # fmt: skip
            conversion.notes += corpus.notes
        else:
            corpus = of_tokens(conversion.texts.rest_T, f"{conversion.texts.name} after its held-out part")
        corpus = corpus.first(self.settings.unique)
        check_room(corpus, self.plan.length)
        return corpus

    def _folder(self, model: PreTrainedModel) -> RunFolder:
        """Where states are kept; ModelError where they do not fit, ResumeError where another process is at work."""
        folder = RunFolder(self.output)
        if self.main:
            resumed = resumable(self.output)
            if not resumed:
                self._check_disk(model)
            self.holding.enter_context(folder.held())
            if not resumed:
                folder.check_free()
                folder.write_recipe(self.settled.recipe.model_dump(mode="json"))
                folder.write_json(ENVIRONMENT, environment())
        self.accelerator.wait_for_everyone()
        return folder

    def _check_disk(self, model: PreTrainedModel) -> None:
        """ModelError where states do not fit: weights and AdamW's two means; one beside the last, and the control's."""
        whole = self.settings.trained == "all"
        parts = {name: p.numel() for name, p in model.named_parameters() if whole or "att" in name or SINK in name}
        state = 12 * sum(parts.values()) + self._held.itemsize * (model.num_parameters() - sum(parts.values()))
        size, place = (3 if self.plan.controlled else 2) * state, self.output.absolute()
        free = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free
        if free < size:
            raise ModelError(
                f"--output {self.output}: training keeps states of up to {size / 1e9:.2g} GB and {free / 1e9:.2g} GB "
                "are free; make room, or name a folder on another disk"
            )

    def _made_of(self, corpus: Corpus) -> dict[str, Any]:
        """What a resumed run must find as it was."""
        recipe = self.settled.recipe.model_dump(mode="json", exclude={"evaluation", "fail_on", "shard", "store"})
        recipe["model"].pop("device")
        del recipe["training"]["save_seconds"]
        text = hashlib.sha256(corpus.tokens.tobytes() + corpus.starts.tobytes()).hexdigest()
        checkpoint = self.loaded.fingerprint
        if checkpoint == "in memory":
            sums = [float(p.detach().double().sum()) for p in self.loaded.model.parameters()]
            checkpoint = hashlib.sha256(repr(sums).encode()).hexdigest()
        return recipe | {"the checkpoint": checkpoint, "the text to train on": text}

    def _trained(
        self, trainer: Trainer, label: str, part: Trainable, tokenizer, fresh: Callable[[], PreTrainedModel]
    ) -> tuple[PreTrainedModel, Course]:
        front = Fed.of(label, LoadedModel(part.model, tokenizer, label, "in memory")).front
        student = Student(label, part, front, fresh)
        trainer.told = self.conversion.part(
            self.conversion.work.training, trainer.states.course(label).step / self.plan.steps
        )

        def probe(model: PreTrainedModel) -> dict:
            shown = LoadedModel(model, tokenizer, label, "in memory")
            return self.conversion.judge.glance(label, shown)

        return trainer(student, probe if self.settings.probe and self.conversion.judge is not None else None)

    def _to_write(self, model: PreTrainedModel) -> PreTrainedModel:
        form, dtype = self.conversion.form, self.settled.dtype
        for name, weight in model.named_parameters():
            if SINK not in name and not weight.to(dtype).isfinite().all():  # as it is held, it is
                raise ModelError(
                    f"training the converted checkpoint: {name} has grown to {weight.abs().max():.5g}, and "
                    f"{str(dtype).removeprefix('torch.')}, in which it is written, ends at "
                    f"{torch.finfo(dtype).max:.5g}; its states stay in {self.output / STATE}, but --resume comes to "
                    "the same; take a lower --lr (or --sink-lr) in a new run"
                )
        model = as_loaded(model, dtype, dtype).cpu()
        if form.own_code or form.name == "same class":
            return model
        return form.build(*taken_apart(model, self.loaded.model, self.sink))

    def _control(self, trainer: Trainer) -> dict[str, Course]:
        """Train the original just so, without the mechanism, and judge it."""
        conversion = self.conversion
        tokenizer = self.loaded.tokenizer if self.sink.kind == "sink_token" else conversion.tokenizer

        def fresh() -> PreTrainedModel:
            return runnable(self.loaded.model, SINKS["none"](), [])

        model, courses = fresh(), {}
        if self.settings.trained == "new":
            conversion.notes.append(
                "The control has nothing to train: it is the original, with the same in front of its texts as the "
                "converted checkpoint."
            )
        else:
            part = trainable(model, self.settings, None, self._held)
            model, courses[CONTROL] = self._trained(trainer, CONTROL, part, tokenizer, fresh)
        if self._judges(CONTROL):
            control = as_loaded(model, self.settled.dtype, self.loaded.dtype)
            trained = LoadedModel(control, tokenizer, CONTROL, "in memory")
            conversion.judge(CONTROL, trained, conversion.judging(CONTROL))
        return courses

    def _detail(self, corpus: Corpus, learned: int, courses: dict[str, Course]) -> Training:
        settings, tokens = self.settings, self.plan.tokens * self.plan.steps
        return Training(
            steps=self.plan.steps,
            batch=settings.batch,
            length=self.plan.length,
            window=self.plan.window,
            rounded=settings.rounded and settings.rounded.label,
            trained=settings.trained,
            trained_parameters=learned,
            text=corpus.name,
            text_tokens=len(corpus.tokens),
            epochs=tokens / len(corpus.tokens),
            optimizer=settings.optimizer,
            lr=settings.lr,
            precision="bfloat16" if self.plan.half else "float32",
            processes=self.accelerator.num_processes,
            attention=courses[CONVERTED].attention,
            tokens_per_second=tokens / courses[CONVERTED].seconds,
            curves=[
                TrainingCurve(
                    checkpoint=label,
                    loss=course.loss,
                    objective=course.objective,
                    gradient=course.gradient,
                    seconds=course.seconds,
                )
                for label, course in courses.items()
            ],
            probes=[probe for course in courses.values() for probe in course.probed()],
        )
