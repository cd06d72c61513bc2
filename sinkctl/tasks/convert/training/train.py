"""Training, step by step, on one process or several.

Every process draws the same sequences of a step and takes its share of them, so what is learned does not depend on how
many there are; and a resumed run draws what the first would have.
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor
from transformers import PreTrainedModel

from sinkctl.errors import Interrupted, ModelError, TextError
from sinkctl.model.attention import sinks_of
from sinkctl.model.compiled import CompiledLayers
from sinkctl.tasks.convert.training.attention import Seen, attending
from sinkctl.tasks.convert.training.corpus import Corpus
from sinkctl.tasks.convert.training.losses import divergence, parts
from sinkctl.tasks.convert.training.massive import excesses
from sinkctl.tasks.convert.training.optimizers import optimizers, schedule
from sinkctl.tasks.convert.training.packing import NO_TARGET, Body, Packed, after_prefix, drawn, packed
from sinkctl.tasks.convert.training.plan import Plan, micro_batch
from sinkctl.tasks.convert.training.rounded import keys_and_values_rounded
from sinkctl.tasks.convert.training.states import Course, States
from sinkctl.tasks.convert.training.trained import Trainable, decoder_layers
from sinkctl.tasks.convert.write import SINK

LOOK_EVERY = 10  # steps on a GPU, between two looks at the losses: each waits for what is under way
SAVE_SHARE = 0.05  # of the time, that saving may take


@dataclass(frozen=True)
class Student:
    """A checkpoint to train."""

    label: str
    trainable: Trainable
    front: tuple[int, ...]  # what stands in front of its texts
    fresh: Callable[[], PreTrainedModel]  # such a model, to take weights that were sharded


@dataclass(frozen=True)
class Original:
    """The frozen model that a KL term holds to."""

    model: PreTrainedModel
    front: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """This process's sequences of a step, in as many parts as there are forward passes."""

    bodies: list[list[Body]]
    packed: list[Packed]
    predicted: int  # tokens, of all processes


class Trainer:
    """Trains one checkpoint after the other on the same sequences; `choices` says what was settled on the way."""

    def __init__(
        self, plan: Plan, accelerator: Accelerator, corpus: Corpus, original: Original, states: States,
        stop: Callable[[], bool],
    ):  # fmt: skip
        self.plan, self.accelerator, self.corpus, self.original = plan, accelerator, corpus, original
        self.states, self.stop = states, stop
        self.told: Callable[[str, float], None] = lambda what, share: None  # of the checkpoint's own training
        self.choices = {"compile": f"{'on' if plan.compiled else 'off'}: {plan.compiled_because}"}
        self.size: int | None = None  # sequences a forward pass takes
        assert plan.settings.batch % accelerator.num_processes == 0

    def __call__(
        self, student: Student, probe: Callable[[PreTrainedModel], dict] | None = None
    ) -> tuple[PreTrainedModel, Course]:
        """Train it, from where its last state is; returns (the model, as it was given; how it went).

        Raises Interrupted where asked to stop, the state saved; ModelError where a loss is not finite.
        """
        settings, part = self.plan.settings, student.trainable
        course = self.states.course(student.label)
        torch.manual_seed(settings.seed)
        fused = next(part.model.parameters()).is_cuda
        made = optimizers(settings, part.new.values(), part.rest, part.inner, fused)
        schedules = [schedule(each, settings, self.plan.steps) for each in made]
        model, *prepared = self.accelerator.prepare(part.model, *made, *schedules)
        running = Running(self, student, model, prepared[: len(made)], prepared[len(made) :], course)
        if (place := self.states.place(student.label)) is not None:
            self.accelerator.load_state(str(place))
        rounding = keys_and_values_rounded(running.plain, settings.rounded)
        with rounding, excesses(running.layers, settings.loss.massive_limit) as running.massive:
            running(probe)
        if self.sharded:
            weights, trained = self.accelerator.get_state_dict(model), student.fresh()
            if self.accelerator.is_main_process:
                trained.load_state_dict(weights)
        else:
            trained = self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        del running, made, schedules, prepared  # and with them what the optimizer holds
        self.accelerator.free_memory()
        trained.zero_grad(set_to_none=True)
        part.model = trained
        return part.merged().eval(), course

    @property
    def sharded(self) -> bool:
        """Whether weights are divided among the processes (FSDP)."""
        return self.accelerator.distributed_type == DistributedType.FSDP

    def rows(self, bodies: list, size: int) -> list[list]:
        """This process's share of a step's sequences, by forward pass."""
        share = len(bodies) // self.accelerator.num_processes
        first = share * self.accelerator.process_index
        return [bodies[n : min(n + size, first + share)] for n in range(first, first + share, size)]


class Running:
    """The steps of one checkpoint."""

    def __init__(self, trainer: Trainer, student: Student, model, optimizers: list, schedules: list, course: Course):
        self.trainer, self.student, self.model, self.course = trainer, student, model, course
        self.optimizers, self.schedules = optimizers, schedules
        self.plan, self.accelerator = trainer.plan, trainer.accelerator
        plain = self.accelerator.unwrap_model(model)
        self.plain = plain.get_base_model() if hasattr(plain, "get_base_model") else plain
        share = self.plan.settings.batch // self.accelerator.num_processes
        if trainer.size is None:  # the control's is the same
            learned = student.trainable.numbers
            maps = any(not sink.normalises for sink in sinks_of(self.plain))
            trainer.size, reason = micro_batch(self.plan, self.plain, share, maps, learned)
            trainer.choices["micro_batch"] = f"{trainer.size}: {reason}"
        self.size = trainer.size
        layers = list(decoder_layers(self.plain))
        held_to = list(decoder_layers(trainer.original.model)) if self.plan.settings.loss.kl else []
        self.compiled = CompiledLayers([*layers, *held_to]).active if self.plan.compiled else nullcontext
        self.layers = layers if self.plan.settings.loss.massive else []  # whose outputs a loss looks at
        self.massive: list[Tensor] = []
        self.look_every = LOOK_EVERY if self.plain.device.type == "cuda" else 1
        self.pending: list[Tensor] = []
        self.saved, self.cost = time.monotonic(), 0.0

    def __call__(self, probe: Callable[[PreTrainedModel], dict] | None) -> None:
        course, steps, every = self.course, self.plan.steps, self.plan.settings.probe
        self._probe(probe, every)
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.drawn, course.step)
            began = time.monotonic()
            for step in range(course.step, steps):
                now, coming = coming.result(), ahead.submit(self.drawn, step + 1)
                with self.compiled():
                    self.pending.append(self.step(now))
                probes = bool(every) and (step + 1) % every == 0
                if len(self.pending) < self.look_every and step + 1 < steps and not probes:
                    continue
                self._look(began)
                if probes:
                    self._probe(probe, every)
                self._pause(step + 1 == steps)
                began = time.monotonic()

    def drawn(self, step: int) -> Step:
        settings, front = self.plan.settings, self.student.front
        width = max(len(front), len(self.trainer.original.front) if settings.loss.kl else 0)
        bodies = drawn(
            self.trainer.corpus, settings.batch, self.plan.length, width, settings.boundaries, settings.seed, step
        )
        ours = self.trainer.rows(bodies, self.size)

        def laid_out(rows: list[Body]) -> Packed:
            return after_prefix(packed(rows, front, settings.boundaries), settings.prefix)

        packs = [laid_out(rows) for rows in ours]
        everything = laid_out(bodies) if self.accelerator.num_processes > 1 else None
        counted = packs if everything is None else [everything]
        predicted = sum(int((p.target_BT != NO_TARGET).sum()) for p in counted)
        if not predicted:
            raise TextError(
                f"{self.trainer.corpus.name}: step {step + 1:,} has nothing to predict, for its documents are one "
                "token each, with nothing in front; give longer ones, or training.boundaries none"
            )
        return Step(ours, packs, predicted)

    def step(self, step: Step) -> Tensor:
        """One update; returns (loss, objective, norm of the gradient), of all processes once they are summed."""
        accelerator, settings = self.accelerator, self.plan.settings
        self.model.train()
        sums = torch.zeros(2, device=self.plain.device)
        for number, (bodies, pack) in enumerate(zip(step.bodies, step.packed, strict=True)):
            last = number + 1 == len(step.packed)
            with nullcontext() if last else accelerator.no_sync(self.model):
                lm, objective = self._losses(bodies, pack)
                # Processes average their gradients, and each has a part of the sum over all predicted tokens.
                accelerator.backward(objective * (accelerator.num_processes / step.predicted))
            sums += torch.stack([lm, objective.detach()]).float() / step.predicted
        if self.course.step + len(self.pending) < settings.alone:
            for name, parameter in self.plain.named_parameters():
                parameter.grad = parameter.grad if SINK in name else None
        norm = accelerator.clip_grad_norm_(self.model.parameters(), settings.clip)
        for each in (*self.optimizers, *self.schedules):
            each.step()
        for each in self.optimizers:
            each.zero_grad()
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else torch.as_tensor(norm, device=sums.device)
        return torch.cat([sums, norm.float().reshape(1)])

    def _losses(self, bodies: Sequence[Body], pack: Packed):
        plan, weights, device = self.plan, self.plan.settings.loss, self.plain.device
        seen = Seen(plan.window, pack.documents_N, plan.settings.prefix, measures_first=weights.first > 0)
        self.massive.clear()
        with attending(self.plain, seen):
            logits_BTV = self.model(input_ids=_on(pack.ids_BT, device), use_cache=False).logits
        self.course.attention = seen.attention
        apart = self._divergence(bodies, pack, logits_BTV) if weights.kl else None
        return parts(weights, logits_BTV, _on(pack.target_BT, device), apart, seen.first, self.massive)

    def _divergence(self, bodies: Sequence[Body], pack: Packed, logits_BTV: Tensor) -> Tensor:
        original, device = self.trainer.original, self.plain.device
        theirs = packed(bodies, original.front, self.plan.settings.boundaries)
        seen = Seen(None, theirs.documents_N)
        with torch.no_grad(), attending(original.model, seen), self.accelerator.autocast():
            true_BTV = original.model(input_ids=_on(theirs.ids_BT, device), use_cache=False).logits
        return divergence(logits_BTV, pack, true_BTV, theirs, min(true_BTV.shape[-1], logits_BTV.shape[-1]))

    def _look(self, began: float) -> None:
        """Wait for the steps under way, and take down how they went."""
        course, accelerator = self.course, self.accelerator
        rows = torch.stack(self.pending)
        if accelerator.num_processes > 1:
            rows = torch.cat([accelerator.reduce(rows[:, :2].contiguous()), rows[:, 2:]], dim=1)
        for lm, objective, norm in rows.tolist():
            if not (math.isfinite(objective) and math.isfinite(norm)):
                self._broken("gradient" if math.isfinite(objective) else "loss", course.step + 1)
            course.step += 1
            course.loss.append(lm)
            course.objective.append(objective)
            course.gradient.append(norm)
        self.pending = []
        course.seconds += time.monotonic() - began
        recent = course.loss[-20:]
        words = f"step {course.step:,} of {self.plan.steps:,}, loss {sum(recent) / len(recent):.3f}"
        self.trainer.told(f"training the {self.student.label} checkpoint: {words}", course.step / self.plan.steps)

    def _broken(self, what: str, step: int) -> None:
        place = self.trainer.states.place(self.student.label)
        kept = f"; the state of step {place.name.rpartition('-')[2]} is kept in {place}" if place else ""
        raise ModelError(
            f"training the {self.student.label} checkpoint: the {what} {'are' if what == 'weights' else 'is'} not "
            f"finite at step {step}{kept}; take a lower --lr (or --sink-lr) in a new run"
        )

    def _finite(self) -> bool:
        """Whether all weights that are trained are finite, on every process."""
        own = [p.to_local() if hasattr(p, "to_local") else p for p in self.model.parameters() if p.requires_grad]
        broken = torch.stack([~p.isfinite().all() for p in own]).any().float().reshape(1)
        return not bool(self.accelerator.reduce(broken) if self.accelerator.num_processes > 1 else broken)

    def _pause(self, last: bool) -> None:
        """Save where it is time to, or the end; stop where asked to. All processes agree."""
        waited = time.monotonic() - self.saved
        due = last or waited >= max(self.plan.settings.save_seconds, self.cost / SAVE_SHARE)
        flags = torch.tensor([float(due), float(self.trainer.stop())], device=self.plain.device)
        if self.accelerator.num_processes > 1:
            flags = self.accelerator.reduce(flags)
        due, stops = (bool(flag) for flag in flags.tolist())
        if due or stops:
            if not self._finite():  # the last update overflowed, which no loss has shown yet
                self._broken("weights", self.course.step)
            began = time.monotonic()
            self.trainer.states.save(self.student.label, self.course, self.accelerator.save_state)
            self.saved = time.monotonic()
            self.cost = self.saved - began
        if stops and not last:
            raise Interrupted(f"stopped at step {self.course.step:,} of the {self.student.label} checkpoint")

    def _probe(self, probe: Callable[[PreTrainedModel], dict] | None, every: int | None) -> None:
        course = self.course
        done = any(each["step"] == course.step for each in course.probes)
        if probe is None or not every or course.step % every or done or not self.accelerator.is_main_process:
            return
        self.model.eval()
        try:
            shown = probe(self.plain)
        except Interrupted:  # whoever stops it saves the steps too, and then asks again
            return
        course.probes.append({"checkpoint": self.student.label, "step": course.step, **shown})


def _on(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)
