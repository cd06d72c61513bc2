"""A recipe against the disk: what can be known to be wrong before torch is imported and anything is loaded.

Every command and every Python call asks here first; a task's `settle` asks its `rules` again. One file a task.
"""

from importlib import import_module
from pathlib import Path

from sinkctl.check.parallel import check_parallel
from sinkctl.check.policies import check_policies
from sinkctl.check.precision import check_heads, head_width
from sinkctl.check.redistribution import check_named
from sinkctl.errors import UsageError
from sinkctl.launched import first, processes
from sinkctl.model.files import check_device, check_model
from sinkctl.recipe.checkpoints import checkpoints
from sinkctl.recipe.schema import Recipe
from sinkctl.result.replaced import check_replaceable
from sinkctl.result.store import RunFolder


def check(
    recipe: Recipe, *, output: str | Path | None = None, resume: bool = False, loads: bool = True,
    overwrite: bool = False,
) -> None:  # fmt: skip
    """Raise the SinkctlError that a run would; `loads`: whether it loads the model, and has not got it.

    `output` is the run's folder: new, with `overwrite` perhaps that of a run of the same task, or with `resume` that of
    a run to go on with.
    """
    if overwrite and (output is None or resume):
        raise UsageError("--overwrite: name the run folder to be replaced with --output")
    _check_resumable(recipe, output, resume)
    rows = {"stream": lambda: ("lines", recipe.passages.save_as), "measure": lambda: ("heads", recipe.save_as)}
    what, forms = rows.get(recipe.task, lambda: ("", ()))()
    if forms and output is None:
        raise UsageError(f"--save-as {forms[0]}: {what} are kept in a run folder; name one with --output")
    check_parallel(recipe)
    if loads:
        _check_models(recipe)
    of_task = import_module(f"sinkctl.check.{recipe.task}")
    if recipe.task == "measure" and not loads:  # the model in hand says whether it reads text or images
        of_task.rules(recipe)
    else:
        of_task.check_inputs(recipe)
    if recipe.task == "convert" and output is not None:
        of_task.check_folder(Path(output), resume)
    elif processes() > 1 and (recipe.task in ("stream", "measure") or not first()):
        return  # the run asks the first of them, and the others hear of it
    elif output is not None:
        _check_run_folder(recipe, output, resume, overwrite)


def _check_run_folder(recipe: Recipe, output: str | Path, resume: bool, overwrite: bool) -> None:
    RunFolder(output).check_idle()
    if resume:
        RunFolder(output).state_data()
    elif overwrite:
        check_replaceable(output, recipe.task)
    else:
        RunFolder(output).check_free(replaceable=recipe.task != "bench")


def _check_models(recipe: Recipe) -> None:
    if recipe.task == "measure":
        for checkpoint in checkpoints(recipe):
            check_model(checkpoint.settings)
    elif getattr(recipe, "shape", None) or getattr(recipe, "scratch", None):  # random weights
        check_device(recipe.model.device)
    else:
        check_model(recipe.model)
        if recipe.task in ("stream", "generate", "questions"):
            policies = [recipe.policy] if recipe.task == "generate" else recipe.policies
            check_heads(policies, recipe.model)
            check_named(policies, recipe.model)
            check_policies(policies, recipe.model)
        elif recipe.task == "convert" and (rounded := recipe.training.rounded) is not None:
            width = head_width(recipe.model)
            if width is not None and (problem := rounded.misfit(width)) is not None:
                raise UsageError(problem)


def _check_resumable(recipe: Recipe, output: str | Path | None, resume: bool) -> None:
    if recipe.task == "questions" and resume:
        raise UsageError("--resume: a run with questions cannot be resumed; start it again with another --output")
    if recipe.task == "generate" and recipe.chat and resume:
        raise UsageError(f"--resume {output}: a chat cannot be resumed, and no other run goes on as one")
    if recipe.task == "generate" and recipe.chat and output is not None:
        raise UsageError("--output: a chat keeps no run folder; redirect standard output, or use --json")
    if resume and output is None:
        raise UsageError("resume=True continues the run kept in `output`; name it")
