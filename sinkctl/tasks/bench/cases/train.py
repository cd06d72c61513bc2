"""A training step, as `sinkctl convert` takes it, beside one of the stock model, on the same sequences.

Each way trains float32 weights of its own, whose gradients and AdamW's two means stay in memory too: 16 bytes a
parameter and way. So this is for models that fit so, beside the loaded one; a 7B model takes over 200 GiB.

Shapes: B sequences, T tokens each.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from transformers import PreTrainedModel

from sinkctl.model.load import LoadedModel
from sinkctl.recipe.bench import TrainCase
from sinkctl.recipe.sizes import Size
from sinkctl.recipe.training import TrainingSettings
from sinkctl.result.bench import OURS, Work
from sinkctl.sinks import SINKS
from sinkctl.tasks.bench.costs import in_sample, token_flops
from sinkctl.tasks.bench.peers import attempted
from sinkctl.tasks.bench.subject import Subject
from sinkctl.tasks.bench.way import Group, Way
from sinkctl.tasks.convert.start import starts_of
from sinkctl.tasks.convert.training.corpus import of_tokens
from sinkctl.tasks.convert.training.optimizers import optimizers
from sinkctl.tasks.convert.training.plan import RATE, Plan
from sinkctl.tasks.convert.training.processes import accelerator_on
from sinkctl.tasks.convert.training.states import Course
from sinkctl.tasks.convert.training.train import Original, Running, Step, Student, Trainer
from sinkctl.tasks.convert.training.trained import check_family, runnable, trainable


def group(case: TrainCase, subject: Subject, size: Size) -> Group:
    """Matrix products of a forward pass count three times, for backward; stock sees all of the past."""
    tokens, batch, loaded = int(size["tokens"]), int(size["batch"]), subject.loaded

    def work(window: int | None) -> Work:
        each = 3 * token_flops(loaded, in_sample(tokens, window), tokens)
        return Work(count=batch * tokens, flops=batch * tokens * each)

    running, step = ours(case, loaded, subject.ids(batch * tokens + 1), tokens)
    ways = {OURS: Way(partial(running.step, step), work(case.window))}
    ways[OURS].run()
    choices = {"sink_attention": running.course.attention}
    if "stock" in case.peers:
        other = None if case.window is None else "it sees all of the past"
        ways["stock"] = attempted(lambda: Way(stock(loaded, step.packed[0].ids_BT)[1], work(None), other=other))
    return Group("tokens_per_s", ways, "stock" if "stock" in ways else None, choices=choices)


def ours(case: TrainCase, loaded: LoadedModel, corpus_N: Tensor, tokens: int) -> tuple[Running, Step]:
    """A conversion's training from its start, whose `step` trains, and a step's sequences, all in one forward pass.

    A sink logit begins at 0, which takes no calibration. ModelError for a family that training does not reach.
    """
    check_family(loaded.model, loaded.name, case.sink)
    half = loaded.device.type == "cuda"
    settings = TrainingSettings(batch=case.batch, micro_batch=case.batch, lr=RATE)
    plan = Plan(
        settings, 1, tokens, case.window, half, compiled=False, compiled_because="one step", controlled=False, notes=()
    )
    sink = SINKS[case.sink](**({} if case.sink == "none" else {"start": "zero"}))
    starts = [] if case.sink == "none" else starts_of(sink, loaded, [], tokens - 1)
    part = trainable(runnable(loaded.model, sink, starts), settings, None, torch.float32)
    accelerator = accelerator_on(loaded.device, half)
    corpus, original = of_tokens(corpus_N, loaded.name), Original(loaded.model, ())
    trainer = Trainer(plan, accelerator, corpus, original, states=None, stop=lambda: False)  # nothing is kept
    made = optimizers(settings, part.new.values(), part.rest, part.inner, fused=half)
    model, *prepared = accelerator.prepare(part.model, *made)
    student = Student(case.sink, part, (), fresh=lambda: part.model)
    running = Running(trainer, student, model, prepared, [], Course())  # at a constant rate
    return running, running.drawn(0)


def stock(loaded: LoadedModel, ids_BT: Tensor) -> tuple[PreTrainedModel, Callable[[], Tensor]]:
    """(the model it trains, a step, which gives the loss before it), in transformers and torch alone."""
    settings, device = TrainingSettings(), loaded.device
    model = copy.deepcopy(loaded.model).float().requires_grad_(True).train()
    half = device.type == "cuda"
    optimizer = AdamW(model.parameters(), lr=RATE, betas=settings.betas, weight_decay=0.0, fused=half)

    def step() -> Tensor:
        ids = ids_BT.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return model, step
