"""Before several processes begin: what they can share, and what one alone can do."""

from pathlib import Path

from sinkctl.cache.policies import PerHead, Policy
from sinkctl.check.precision import config_of
from sinkctl.errors import UsageError
from sinkctl.launched import processes
from sinkctl.model.adapter_files import resolved
from sinkctl.model.named import resolve
from sinkctl.model.settings import ModelSettings
from sinkctl.model.shared_heads import check_heads_shared, check_launched
from sinkctl.recipe.checkpoints import checkpoints
from sinkctl.recipe.schema import Recipe
from sinkctl.text.source import is_pipe

FLAG = "--parallel tensor"
TASKS = ("stream", "generate", "measure")


def check_parallel(recipe: Recipe) -> None:
    """UsageError or ModelError for what processes cannot share, and for several where one alone can do it."""
    _check_laid_out(recipe)
    chats = recipe.task == "generate" and recipe.chat
    if recipe.model.parallel is None:
        if processes() > 1 and recipe.task in ("generate", "questions"):
            what = {"generate": "text is generated", "questions": "questions are asked"}[recipe.task]
            more = f"; {FLAG} has them share the model" if recipe.task == "generate" and not chats else ""
            raise UsageError(f"{processes()} processes: {what} by one{more}")
        return
    if recipe.task not in TASKS or chats:
        what = "a chat" if chats else f"sinkctl {'stream --questions' if recipe.task == 'questions' else recipe.task}"
        raise UsageError(f"{FLAG}: not for {what}; leave it out")
    check_launched(FLAG)
    models = [each.settings for each in checkpoints(recipe)] if recipe.task == "measure" else [recipe.model]
    for settings in models:
        _check_model(settings)
    policies = recipe.policies if recipe.task == "stream" else [recipe.policy] if recipe.task == "generate" else []
    for policy in policies:
        _check_policy(policy)
    if recipe.task == "stream" and recipe.text.each is not None:
        raise UsageError(f"--each {recipe.text.each}: with {FLAG} the processes go through one text; leave one out")
    files = {"stream": lambda: recipe.text.files, "generate": lambda: recipe.prompt_files,
             "measure": lambda: recipe.input.files}[recipe.task]()  # fmt: skip
    pipe = next(filter(is_pipe, files), None)
    if pipe is not None:
        raise UsageError(f"{pipe}: a pipe is read by one process alone; {processes()} of them need files")


def _check_model(settings: ModelSettings) -> None:
    named = resolve(resolved(settings).name)
    if settings.adapters or resolved(settings).name != settings.name:
        raise UsageError(f"{FLAG}: adapters are merged into whole weights; merge them into a checkpoint first")
    if named.form == "gguf":
        raise UsageError(f"{FLAG}: {settings.name} is a GGUF file, which is not shared out; leave the flag out")
    if settings.device.startswith("cuda:"):
        raise UsageError(f"--device {settings.device}: with {FLAG} every process has a GPU of its own; give cuda")
    if named.local and (named.path / "config.json").is_file():
        check_heads_shared(settings.name, config_of(settings))


def _check_laid_out(recipe: Recipe) -> None:
    """UsageError for a device map where none can be followed."""
    asked = recipe.model
    if asked.device_map is None:
        given = next((name for name in ("max_memory", "offload_folder") if getattr(asked, name)), None)
        if given is not None:
            raise UsageError(f"--{given.replace('_', '-')}: says more of a --device-map; give --device-map auto")
        return
    flag = f"--device-map {asked.device_map}"
    if asked.parallel is not None:
        raise UsageError(f"{flag}: with {FLAG} every process has a part of each layer; leave one out")
    if recipe.task in ("convert", "bench"):
        raise UsageError(f"{flag}: not for sinkctl {recipe.task}; leave it out")
    if asked.device.startswith("cuda:"):
        raise UsageError(f"{flag}: --device {asked.device} is one GPU; give cuda, or CUDA_VISIBLE_DEVICES")
    if asked.offload_folder is not None and not Path(asked.offload_folder).is_dir():
        raise UsageError(f"--offload-folder {asked.offload_folder}: no such folder; create it, or leave the flag out")
    models = [each.settings for each in checkpoints(recipe)] if recipe.task == "measure" else [asked]
    file = next((each.name for each in models if resolve(resolved(each).name).form == "gguf"), None)
    if file is not None:
        raise UsageError(f"{flag}: {file} is a GGUF file, which is read whole; leave the flag out")


def _check_policy(policy: Policy) -> None:
    given = policy.redistribute is not None and policy.redistribute.heads != "all"
    if isinstance(policy, PerHead) or given or policy.kind == "random":
        what = "--redistribute-heads: heads" if given else f"--policy {policy.kind}: what each head keeps"
        raise UsageError(f"{what} cannot be told apart where processes share them; leave {FLAG} out")
