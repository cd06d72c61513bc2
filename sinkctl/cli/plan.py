"""`--dry-run`: the resolved recipe on standard output, and what it would do on standard error."""

from rich.console import Console

from sinkctl.cli.printing import plan_words, show_recipe
from sinkctl.launched import processes
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.checkpoints import checkpoints
from sinkctl.recipe.schema import (
    ConvertRecipe,
    GenerateRecipe,
    MeasureRecipe,
    QuestionsRecipe,
    StreamRecipe,
)
from sinkctl.result.numbers import count, memory
from sinkctl.tasks.convert.settle import settle, size_of
from sinkctl.tasks.convert.training.plan import Plan
from sinkctl.tasks.generate import GenerateRun
from sinkctl.tasks.generate.chat import Conversation
from sinkctl.tasks.questions import QuestionsRun
from sinkctl.tasks.stream import StreamRun
from sinkctl.tasks.stream.parts import shared_out
from sinkctl.tasks.stream.plan import laid_out


def show_plan(recipe: StreamRecipe, loaded: LoadedModel, as_json: bool) -> None:
    """Settle every automatic choice, and print it all."""
    run = StreamRun(recipe, loaded)
    words = _told(run, as_json)
    if recipe.text.each is not None:
        _show_parts(run, words)
    for label, scorer in run.scorers.items():
        held = getattr(scorer, "bytes_a_token", None)
        size = getattr(scorer.policy, "reach", None)
        if held and size:  # a rounded cache has its size from the start
            words.print(f"{label}: cache of {size} tokens, {memory(scorer.cache_bytes or held * size)}")
        for line in [*scorer.layers, *(f"{what}: {choice}" for what, choice in scorer.choices.items())]:
            words.print(f"{label}: {line}")


def _told(run: StreamRun | QuestionsRun, as_json: bool) -> Console:
    """Print the settled recipe, what was chosen and why, and where BOS goes; returns what prints the rest."""
    show_recipe(run.recipe, as_json)
    words = plan_words()
    for what, choice in run.choices.items():
        words.print(f"{what}: {choice}")
    words.print(run.settled.bos)
    return words


def _show_parts(run: StreamRun, words: Console) -> None:
    """What is scored by itself, and by which process, by sizes on disk."""
    sizes, parts = laid_out(run.settled)
    held = [sum(sizes[first:end]) for first, end in parts]
    words.print(f"{count(len(sizes))} files, {memory(sum(held))} on disk, in {count(len(parts))} parts")
    for rank, share in enumerate(shared_out(held, processes()) if processes() > 1 else ()):
        own = sum(held[part] for part in share)
        words.print(f"process {rank}: {count(len(share))} parts, {memory(own)}")


def show_generation(recipe: GenerateRecipe, loaded: LoadedModel, as_json: bool) -> None:
    """The same for generation."""
    run = GenerateRun(recipe, loaded)
    _show_decoding(run.settled, run.decoder, as_json)


def show_chat(recipe: GenerateRecipe, loaded: LoadedModel, as_json: bool) -> None:
    """The same for a chat."""
    talk = Conversation(recipe, loaded)
    _show_decoding(talk.settled, talk.decoder, as_json)


def _show_decoding(settled, decoder, as_json: bool) -> None:
    show_recipe(settled.recipe, as_json)
    words = plan_words()
    for what, choice in (settled.choices | decoder.choices).items():
        words.print(f"{what}: {choice}")
    for note in settled.notes:
        words.print(f"note: {note}")
    if not settled.recipe.chat:
        words.print(settled.bos)
    words.print(f"{settled.recipe.policy.label}: cache of {memory(decoder.bytes_held())}")
    for line in decoder.layers:
        words.print(line)


def show_questions(recipe: QuestionsRecipe, loaded: LoadedModel, as_json: bool) -> None:
    """The same for questions."""
    run = QuestionsRun(recipe, loaded)
    words = _told(run, as_json)
    for label, lane in run.lanes.items():
        words.print(f"{label}: cache of {memory(lane.decoder.bytes_held())}")
        for line in [*lane.decoder.layers, *(f"{what}: {why}" for what, why in lane.decoder.choices.items())]:
            words.print(f"{label}: {line}")


def show_measurement(recipe: MeasureRecipe, as_json: bool) -> None:
    """A settled recipe, and what is measured one after the other; nothing is loaded."""
    show_recipe(recipe, as_json)
    words = plan_words()
    for label, settings, step in checkpoints(recipe):
        words.print(f"{label}: {settings.name}{'' if step is None else f', step {step:,}'}")
    shown = recipe.input
    words.print(f"{', '.join(shown.kinds)}, BOS {shown.bos}: {shown.samples:,} samples of {shown.length:,} tokens each")
    words.print(f"{' and '.join(recipe.parts)}; costs: {recipe.cost.run}")
    if recipe.budget is not None:
        words.print(f"within {recipe.budget}: fewer samples and tokens, chosen by a timed probe when it runs")


def show_conversion(recipe: ConvertRecipe, loaded: LoadedModel, as_json: bool) -> None:
    """A settled recipe, how the checkpoint is stored and trained, how much text it takes; nothing is written."""
    plan = settle(recipe, loaded)
    show_recipe(plan.recipe, as_json)
    words = plan_words()
    dtype = str(plan.dtype).removeprefix("torch.")
    words.print(f"{recipe.sink.kind}, stored as {plan.form.name}: {plan.form.reason}")
    words.print(f"about {memory(size_of(loaded, plan.dtype))}, weights in {dtype}")
    words.print(
        f"calibration: {plan.calibration:,} tokens, window {plan.window}" if plan.calibration else "no calibration"
    )
    words.print(
        f"evaluation: {plan.held_out:,} tokens after those ({plan.least:,} at least), samples of {plan.length:,}"
        if plan.least
        else "no evaluation"
    )
    if plan.plan is not None:
        words.print(_training(plan.plan))


def show_registers(recipe: ConvertRecipe, as_json: bool) -> None:
    """The recipe, and what is done for registers; nothing is loaded or written."""
    show_recipe(recipe, as_json)
    most, words = recipe.calibration.samples, plan_words()
    if recipe.sink.kind == "registers":
        words.print(f"{recipe.sink.kind}: {recipe.steps:,} steps on up to {most} images, judged by up to {most} others")
        return
    neurons = recipe.sink.neurons
    words.print(f"{recipe.sink.kind}: neurons found on up to {most} images, and judged by up to {most} others")
    words.print(f"neurons: {'the fewest that leave few outliers' if neurons == 'auto' else neurons}")


def _training(plan: Plan) -> str:
    """What a run trains, on what, how."""
    settings = plan.settings
    trained = {"new": "the mechanism", "attention": "attention and the mechanism", "all": "every weight"}.get(
        settings.trained, f"low-rank updates of attention (rank {settings.lora.rank}), and the mechanism"
    )
    text = ", ".join(settings.text.files) or "what follows the held-out text"
    rounded = f"keys and values in {settings.rounded.bits} bits; " if settings.rounded else ""
    return (
        f"training: {plan.steps:,} {'step' if plan.steps == 1 else 'steps'} of {settings.batch} sequences of "
        f"{plan.length} tokens "
        f"({plan.steps * plan.tokens:,} in all) of {text}; {trained}; "
        f"{'full attention' if plan.window is None else f'window {plan.window}'}; "
        f"{rounded}{'with' if plan.controlled else 'no'} control"
    )
