"""The flags that commands share, each written once."""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sinkctl.cli import completing
from sinkctl.errors import UsageError

Complete = Callable[[str], list[str]]


def sizes(given: list[str] | None) -> dict[str, str] | None:
    """What each device may take; UsageError where one is not named so."""
    if not given:
        return None
    from sinkctl.model.settings import PLACE, SIZE  # its schema would take half of the time of a --help

    pairs = [each.partition("=") for each in given]
    fits = [re.fullmatch(PLACE, name) and re.fullmatch(SIZE, size) for name, _, size in pairs]
    wrong = next((each for each, fit in zip(given, fits, strict=True) if not fit), None)
    if wrong is not None:
        raise UsageError(f"--max-memory {wrong}: say cpu=8GiB or cpu=500MB, or the number of a GPU, 0=20GiB")
    return {name: size for name, _, size in pairs}


def option(panel: str, help: str, *names: str, metavar: str | None = None, complete: Complete | None = None):
    """A flag of one command, in a panel of its help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, autocompletion=complete)


Model = Annotated[
    str | None, typer.Option("--model", "-m", help="A folder, a GGUF file, a Hub id, or demo.", rich_help_panel="Model")
]
Adapter = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter", metavar="DIR", help="A PEFT adapter, merged into the model. May repeat, in order.",
        rich_help_panel="Model",
    ),
]  # fmt: skip
AdapterBeside = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter", metavar="DIR", help="A PEFT adapter: CHECKPOINT is measured as it is and with it merged.",
        rich_help_panel="Model",
    ),
]  # fmt: skip
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub id.", rich_help_panel="Model")]
Device = Annotated[
    str | None,
    typer.Option(
        help="auto (default: an accelerator if there is one), cpu, mps, cuda, cuda:N.", rich_help_panel="Model"
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="auto (default: float32 on a CPU, else as stored), float32, bfloat16, float16, float64.",
        rich_help_panel="Model",
    ),
]
Parallel = Annotated[
    str | None,
    typer.Option(
        help="tensor: the processes that torchrun starts share the heads and weights of every layer.",
        rich_help_panel="Model",
        metavar="tensor",
    ),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        help="auto, balanced, …: layers over the GPUs, then the memory, then the disk, as accelerate lays them out.",
        rich_help_panel="Model",
        metavar="auto",
    ),
]
MaxMemory = Annotated[
    list[str] | None,
    typer.Option(help="What each may take of it. May repeat.", rich_help_panel="Model", metavar="cpu=8GiB|0=20GiB"),
]
OffloadFolder = Annotated[
    str | None,
    typer.Option(
        help="Where layers go that cannot be read from the checkpoint as they stand (default: a temporary folder).",
        rich_help_panel="Model",
        metavar="DIR",
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint.", rich_help_panel="Model")
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Load weights that are not safetensors.", rich_help_panel="Model")
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        help="Where AutoTokenizer loads another one: file (default: tokenizer.json as it stands), or its class.",
        rich_help_panel="Model",
        metavar="file|class",
    ),
]
SpecialTokens = Annotated[
    str | None,
    typer.Option(
        help="Special tokens that a text spells: parse (default) reads them as such, text as ordinary text.",
        rich_help_panel="Model",
        metavar="parse|text",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe", "-r", help="A recipe file, or the name of a built-in one; flags override it.",
        autocompletion=completing.recipes,
    ),
]  # fmt: skip
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any recipe field, dotted: policies.0.window=512."),
]
SetSink = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any recipe field, dotted; so what only some mechanisms have: sink.place=value, sink.mix=0.5; and of "
        "training: training.loss.kl=1, training.probe=250.",
    ),
]
FailOn = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        metavar="METRIC<=NUMBER",
        autocompletion=completing.metrics("stream"),
        help="Exit 1 where this fails (also >=): perplexity or exact_match (of the first policy), 4+252.perplexity, "
        "stream.tokens_per_s, stream.peak_memory, sink_rate (in %), generate.ms_per_token. May repeat.",
    ),
]
FailOnSinks = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        metavar="METRIC<=NUMBER",
        autocompletion=completing.metrics("measure"),
        help="Exit 1 where this fails (also >=): sink_rate (in %), natural_no_bos.sink_rate, alpha_max, massive_max, "
        "kurtosis_max, value_drain, cost.first_key_scored, cost.no_sinks, balance_error, …; of one of several "
        "checkpoints: sink_rate@LABEL. May repeat.",
    ),
]
FailOnConverted = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        metavar="METRIC<=NUMBER",
        autocompletion=completing.metrics("convert"),
        help="Exit 1 where this fails (also >=): perplexity (streamed), gap_closed (in %), kl, samples.perplexity, "
        "sink_rate (in %), mechanism_mass, massive_max; of the original and the control: original.kept, "
        "control.perplexity, beside_control (in %), …. May repeat.",
    ),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Keep a run folder here.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="With -o: where a run of this kind is kept there, it goes once the new one is done."
    ),
]
Resume = Annotated[Path | None, typer.Option("--resume", metavar="DIR", help="Continue the run kept there.")]
Json = Annotated[bool, typer.Option("--json", help="Print result.json instead of the report.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, and no report unless --json.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and the plan; run nothing.")]

OF_A_MODEL: dict[str, Any] = {
    "model": Model, "adapter": Adapter, "revision": Revision, "device": Device, "dtype": Dtype, "parallel": Parallel,
    "device_map": DeviceMap, "max_memory": MaxMemory, "offload_folder": OffloadFolder,
    "trust_remote_code": TrustRemoteCode, "allow_pickle": AllowPickle, "tokenizer": Tokenizer,
    "special_tokens": SpecialTokens,
}  # fmt: skip
SPREAD = ("parallel", "device_map", "max_memory", "offload_folder")  # over processes or devices
Command = Callable[..., None]


def taking(more: Iterable[inspect.Parameter]) -> Callable[[Command], Command]:
    """The command with these flags behind its own; they come to it as keyword arguments."""
    more = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in more]

    def extended(command: Command) -> Command:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind != p.VAR_KEYWORD]
        command.__signature__ = inspect.Signature([*own, *more])
        command.__annotations__ = {p.name: p.annotation for p in (*own, *more)}
        return command

    return extended


def of_a_model(but: Sequence[str] = (), **others: Any) -> Callable[[Command], Command]:
    """The command with the flags that say which model, and how; `but` leaves some out, `others` take their place."""
    chosen = {name: kind for name, kind in (OF_A_MODEL | others).items() if name not in but}
    return taking(
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind,
                          default=False if kind in (TrustRemoteCode, AllowPickle) else None)
        for name, kind in chosen.items()
    )  # fmt: skip


def flags_of(model: dict[str, Any]) -> dict[str, Any]:
    """What these flags were given, by their names; what was not is None."""
    given = {name.replace("_", "-"): value or None for name, value in model.items()}
    return given | ({"max-memory": sizes(model["max_memory"])} if "max_memory" in model else {})
