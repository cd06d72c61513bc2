"""Before a checkpoint is converted."""

import re
from importlib.util import find_spec
from pathlib import Path

from sinkctl.cache.precision.settings import FORMATS, NAMES
from sinkctl.check.registers import check_images, register_rules
from sinkctl.check.texts import check_field, check_texts
from sinkctl.errors import ModelError, ResumeError, UsageError
from sinkctl.launched import processes
from sinkctl.model.adapter_files import resolved
from sinkctl.model.files import decoder_type, designed_sink
from sinkctl.model.gguf.header import read_header
from sinkctl.model.named import resolve
from sinkctl.model.weight_file import shapes_in, weight_files
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.registers import REGISTERS
from sinkctl.result.compare import check_names, parse
from sinkctl.result.store import RESULT, RunFolder, check_writable, resumable
from sinkctl.sinks.storable import never_stock, unstorable_for
from sinkctl.text.source import check

METRICS = (
    "perplexity", "original.kept", "original.bare", "gap_closed", "kl", "samples.perplexity",
    "original.samples.perplexity", "sink_rate", "original.sink_rate", "mechanism_mass", "massive_max", "kurtosis",
    "original.kurtosis", "start.perplexity", "beside_control", "control.perplexity", "control.kl",
    "control.samples.perplexity", "control.sink_rate", "control.kurtosis", "loss", "control.loss",
    "train.tokens_per_s", "convert.seconds",
)  # fmt: skip
OF_ROUNDING = tuple(f"{whose}kv_{name}.cost" for whose in ("", "original.", "control.") for name in FORMATS)
OUTPUT_BIAS = re.compile(r"att(n|ention)\.(o_proj|dense|out_proj)\.bias$")
LEAST_WINDOW = 33  # of a cache whose keys can be rounded, 32 together, besides a first token
OF_TRAINING = METRICS[METRICS.index("start.perplexity") : -1]


def check_inputs(recipe: ConvertRecipe) -> None:
    """Raises UsageError, ModelError or TextError."""
    rules(recipe)
    if recipe.sink.kind in REGISTERS:
        check_images(recipe.images)
        return
    if recipe.scratch is None:
        _check_storable(recipe)
    check_texts(recipe.text.files, recipe.text.field, recipe.text.errors)
    files = recipe.training.text.files if recipe.steps else ()
    if files:
        check(files)
    texts = [name for name in files if Path(name).suffix.lower() != ".npy"]
    check_texts(texts, recipe.training.text.field, recipe.training.text.errors)


def rules(recipe: ConvertRecipe) -> None:
    """UsageError for what does not go together, whatever the model; ModelError for low-rank updates without peft."""
    sink, asked = recipe.sink, [parse(text) for text in recipe.fail_on]
    if sink.kind in REGISTERS:
        register_rules(recipe)
        return
    if recipe.images:
        raise UsageError(f"--images {recipe.images[0]}: {sink.kind} reads text, not images; --text takes files of it")
    if recipe.evaluation.digits:
        raise UsageError(f"evaluation.digits={recipe.evaluation.digits}: {sink.kind} reads text; leave it out")
    check_names(asked, [*METRICS, *OF_ROUNDING])
    for metric in (each.metric for each in asked):
        if not recipe.steps and metric in OF_TRAINING:
            raise UsageError(f"--fail-on {metric}: nothing is trained; say for how long, --steps N")
        if "control" in metric and not (recipe.training.control and sink.kind != "none"):
            raise UsageError(f"--fail-on {metric}: there is no control; leave --no-control out")
    rounded = [f"kv_{NAMES[bits]}.cost" for bits in recipe.evaluation.kv_bits]
    for metric in (each.metric for each in asked if each.metric in OF_ROUNDING):
        name = metric.removeprefix("original.").removeprefix("control.")
        if name not in rounded:
            form = name.removeprefix("kv_").removesuffix(".cost")
            raise UsageError(f"--fail-on {metric}: keys and values are not rounded to that; give --eval-kv {form}")
    check_rounded(recipe, recipe.calibration.window)
    if recipe.fail_on and not recipe.evaluation.run:
        raise UsageError(f"--fail-on {recipe.fail_on[0]}: nothing is measured; leave --no-eval out")
    if recipe.scratch is not None and not recipe.steps:
        raise UsageError("scratch: random weights are worth nothing untrained; give --steps")
    if recipe.scratch is not None and recipe.model.adapters:
        raise UsageError(f"--adapter {recipe.model.adapters[0]}: scratch draws random weights, to which none belongs")
    if recipe.scratch is None and sink.from_scratch:
        others = "no checkpoint computes what it did with it; give a recipe with `scratch`, or another mechanism"
        raise UsageError(f"--to {sink.kind}: serves training from scratch alone, {others}")
    if recipe.scratch is not None and sink.measured:
        raise UsageError(f"start {sink.start}: random weights have no sink to replace; choose --start zero")
    check_field(recipe.text.field, (*recipe.text.files, *recipe.training.text.files))
    if recipe.steps:
        training_rules(recipe)
    elif recipe.training.rounded is not None:
        raise UsageError("training.rounded: nothing is trained; say for how long, --steps N")


def check_rounded(recipe: ConvertRecipe, window: int | str) -> None:
    """UsageError for streams with rounded keys and values that are not compared, twice the same, or too short."""
    forms = [NAMES[bits] for bits in recipe.evaluation.kv_bits]
    if forms and not recipe.evaluation.run:
        raise UsageError(f"--eval-kv {forms[0]}: nothing is compared; leave --no-eval out")
    twice = next((form for form in forms if forms.count(form) > 1), None)
    if twice is not None:
        raise UsageError(f"--eval-kv {twice}: is there twice; give it once")
    if forms and window != "auto" and window < LEAST_WINDOW:
        short = f"a cache of {window} tokens holds no 32 keys to round together besides the first token"
        raise UsageError(f"--eval-kv {forms[0]}: {short}; take --window {LEAST_WINDOW} or more")


def _check_storable(recipe: ConvertRecipe) -> None:
    if recipe.store == "stock" and never_stock(recipe.sink):
        said = f"no class of transformers has {recipe.sink.kind} as asked for; leave --store stock out"
        raise ModelError(f"{recipe.sink.kind} cannot be stored in a stock class: {said}")
    name = resolved(recipe.model).name
    if (said := designed_sink(name)) is not None:
        raise ModelError(f"{name} is a converted checkpoint ({said}); convert the original")
    kind = decoder_type(name)
    biased = _output_bias(name) if kind is not None and recipe.sink.kind == "value_bias" else None
    why = None if kind is None else unstorable_for(recipe.sink, kind, biased)
    if why is not None:
        raise ModelError(f"{name} ({kind}) cannot be given {recipe.sink.kind}: {why}; --to sink_token needs neither")


def _output_bias(name: str) -> bool | None:
    """Whether the weights of a folder or GGUF file have biases behind their heads; None where no header tells."""
    named = resolve(name)
    if named.form == "gguf":
        return any(tensor.name.endswith("attn_output.bias") for tensor in read_header(named.path).tensors)
    names = [name for path in weight_files(named.path) for name, _ in shapes_in(path)]
    return any(OUTPUT_BIAS.search(name) for name in names) if names else None


def training_rules(recipe: ConvertRecipe) -> None:
    """The same for what is about training."""
    sink, settings = recipe.sink, recipe.training
    fixed = sink.kind == "softmax1" and not sink.replaces_first  # a logit of 0 and no bias
    fixed = fixed or (sink.from_scratch and sink.kind not in ("kernel", "fixed_kv_bias", "positions"))
    if settings.alone and settings.trained == "new":
        raise UsageError("--trained new: the mechanism learns alone throughout; add --set training.alone=0")
    if (settings.trained == "new" or settings.alone) and (sink.kind == "none" or fixed):
        what = f"the mechanism {sink.kind} has nothing to train"
        if settings.trained == "new":
            raise UsageError(f"--trained new: {what}; choose attention, all or lora")
        raise UsageError(f"training.alone: {what}; leave it out")
    if settings.alone and sink.kind == "sink_token":
        raise UsageError(
            "training.alone: a sink token is a row of the embedding, which learns as a whole; leave it out"
        )
    if settings.alone >= recipe.steps:
        raise UsageError(
            f"training.alone: {settings.alone} of {recipe.steps} steps leave none for other weights; "
            f"give more --steps, --set training.alone={recipe.steps // 5}, or --trained new --set training.alone=0"
        )
    if settings.rounded is not None and settings.rounded.keys == "channel" and settings.boundaries == "mask":
        raise UsageError(
            "training.rounded.keys: by channel keys share ranges over documents, which boundaries: mask keeps apart; "
            "add --set training.boundaries=none (or bos), or leave keys out"
        )
    if settings.trained == "lora" and find_spec("peft") is None:
        raise ModelError("--trained lora takes peft; pip install 'sinkctl[lora]'")
    if settings.trained == "new" and sink.kind == "sink_logit" and sink.start == "exact":
        raise UsageError("--start exact: a logit so far below every score never trains; begin warm, zero or match")
    if getattr(sink, "mix", 1.0) == 0:
        raise UsageError("sink.mix: of 0 the mechanism has no part, and never trains; give it more")
    if sink.kind in ("sink_token", "score_bias") and settings.window not in ("auto", "full"):
        hides = f"hides the first token, which {sink.kind} keeps"
        raise UsageError(f"--train-window {settings.window}: {hides}; leave it out")
    if settings.prefix is not None:
        _check_prefix(recipe)
    if settings.unique is not None and settings.length != "auto" and settings.unique <= settings.length:
        holds = f"a sequence takes {settings.length:,} and one to predict"
        raise UsageError(f"training.unique: {settings.unique} tokens, and {holds}; give more, or a smaller --length")
    if settings.warmup != "auto" and settings.warmup >= recipe.steps:
        raise UsageError(f"training.warmup: {settings.warmup} of {recipe.steps} steps never reach the full rate")
    if settings.loss.kl and recipe.scratch is not None:
        raise UsageError("training.loss.kl: there is no original to stay near, the weights begin at random")
    if not (settings.loss.lm or settings.loss.kl):
        raise UsageError("training.loss: nothing to learn; give lm or kl a weight")
    if settings.text.field is not None and not settings.text.files:
        raise UsageError("training.text.field: names a field of --train-text files, and there are none")


def _check_prefix(recipe: ConvertRecipe) -> None:
    """UsageError for a prefix that training cannot show, or that leaves nothing to predict."""
    settings, name = recipe.training, f"training.prefix: {recipe.training.prefix}"
    if recipe.scratch is None:
        raise UsageError(f"{name}: checkpoints see what comes before alone; give a recipe with `scratch`")
    if recipe.sink.kind != "none":
        raise UsageError(f"{name}: is for a model without a mechanism; take sink none, not {recipe.sink.kind}")
    if settings.boundaries == "mask" or settings.window != "full" or settings.loss.first:
        asked = "training.boundaries bos or none, training.window full and no training.loss.first"
        raise UsageError(f"{name}: whole sequences see it; give {asked}")
    if settings.length != "auto" and settings.prefix >= settings.length:
        raise UsageError(f"{name}: leaves nothing to predict of {settings.length} tokens; give a smaller one")


def check_folder(output: Path, resume: bool) -> None:
    """UsageError for a place that is taken, or with `resume` ResumeError for one without a training to go on with."""
    if not resume:
        _check_place(output)
    elif not resumable(output):
        finished = (output / RESULT).exists()
        what = "is finished, and nothing is left to do" if finished else "holds no training to go on with; use --output"
        raise ResumeError(f"--resume {output}: {what}")
    elif processes() == 1:
        with RunFolder(output).held():
            pass  # or another process is at work there


def _check_place(output: Path) -> None:
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise UsageError(f"--output {output}: exists already; name another folder, or remove it")
    if output.resolve() == Path.cwd() or output.is_mount():
        raise UsageError(f"--output {output}: cannot be replaced as a whole; name a new folder inside it")
    check_writable(output.absolute().parent, f"--output {output}")
