"""Registers of a vision transformer, as tables and as the README.md of its checkpoint."""

from pathlib import PurePath

from sinkctl.report.markdown import escaped, fenced, table
from sinkctl.report.printable import as_yaml
from sinkctl.report.summary import ScoreTable
from sinkctl.result.numbers import count, figures, percent, share
from sinkctl.result.registers import RegistersDetail
from sinkctl.result.schema import Result

MOST_NEURONS = 8
LOADING = """\
from transformers import {auto}

model = {auto}.from_pretrained({name}{trust})
"""
LIMITS = (
    "The registers sit behind [CLS] in hidden_states and attentions; last_hidden_state leaves them out.",
    "The neurons were found on the images named in the recipe; others may have outliers that other neurons make.",
)

LEARNED = (
    "last_hidden_state has the registers behind [CLS], as transformers' class has: patches begin behind them.",
    "It was trained on the images named in the recipe alone.",
)


def tables(detail: RegistersDetail) -> list[tuple[str, ScoreTable]]:
    """(title, table): before and after, and the neurons."""
    found = [("Before and after", line_table(detail))] if detail.lines else []
    return [*found, *([("Register neurons", neuron_table(detail))] if detail.neurons else [])]


def line_table(detail: RegistersDetail) -> ScoreTable:
    """Metrics down, checkpoints across."""
    metrics = {
        "outlier patches": lambda line: f"{percent(line.outlier_percent)} ({count(line.outliers)})",
        "largest patch norm": lambda line: figures(line.patch_max),
        "median patch norm": lambda line: figures(line.patch_median),
        "norm of registers": lambda line: figures(line.register_norm),
        "smoothness": lambda line: share(line.smoothness),
        "[CLS] to the original's outliers": lambda line: share(line.cls_outliers),
        "[CLS] to registers": lambda line: share(line.cls_registers),
        "[CLS] to one patch, most": lambda line: share(line.cls_max),
        "cosine to the original, other patches": lambda line: share(line.cosine),
        "cosine to the original, its outliers": lambda line: share(line.cosine_outliers),
        "cosine to the original, [CLS]": lambda line: share(line.cosine_cls),
        "KL from the original, nats": lambda line: figures(line.kl),
    }
    rows = [[name, *(read(line) for line in detail.lines)] for name, read in metrics.items()]
    legend = [
        f"{count(detail.judged_on)} images; outliers: norm after the last block above {figures(detail.threshold)}; "
        "smoothness: mean cosine of neighbouring patches' features; [CLS]: its attention in the last layer, a mean "
        f"over heads; {_control(detail)}"
    ]
    return ScoreTable(["", *(line.checkpoint for line in detail.lines)], rows, set(), legend)


def _control(detail: RegistersDetail) -> str:
    if detail.training is None:
        return "random neurons: as many others, moved, as a control"
    return "control: trained just so, without registers"


def neuron_table(detail: RegistersDetail) -> ScoreTable:
    """The first of them."""
    rows = [[str(n.layer), str(n.index), figures(n.score)] for n in detail.neurons[:MOST_NEURONS]]
    legend = [
        f"score: mean |activation| at outlier patches, over {count(detail.found_on)} images; layers 0 to {detail.layer}"
    ]
    more = len(detail.neurons) - len(rows)
    legend += [f"and {count(more)} more"] if more > 0 else []
    tried = ", ".join(f"{number}: {count(left)}" for number, left in detail.tried.items())
    legend += [f"outliers left by so many neurons, of the images they were found on: {tried}"] if tried else []
    return ScoreTable(["layer", "neuron", "score"], rows, set(), legend, frozenset())


def register_card(result: Result, name: str) -> str:
    """The whole README.md; `name` is what the checkpoint is loaded by."""
    detail = result.registers
    trust = "" if detail.training else ", trust_remote_code=True"
    auto = "AutoModelForImageClassification" if detail.classifies else "AutoModel"
    front = {"library_name": "transformers", "tags": ["attention-sink", "registers", "sinkctl", detail.mechanism]}
    lines = ["---", as_yaml(front).rstrip("\n"), "---", "", f"# {escaped(PurePath(name).name or name)}", ""]
    lines += [escaped(line) for line in result.verdict] + ["", "## How to load", ""]
    lines += [*fenced("python", LOADING.format(auto=auto, name=repr(name), trust=trust))]
    for title, each in tables(detail):
        lines += [f"## {title}", "", *table(each)]
    lines += [
        "## Limits",
        "",
        *(f"- {escaped(line)}" for line in (*(LEARNED if detail.training else LIMITS), *result.notes)),
        "",
    ]
    lines += ["## Recipe", "", f"Written by sinkctl {escaped(result.sinkctl_version)} with this recipe:", ""]
    recipe = result.recipe | {"images": [PurePath(image).name for image in result.recipe["images"]]}
    recipe["model"] = recipe["model"] | {"name": PurePath(recipe["model"]["name"]).name}
    return "\n".join([*lines, *fenced("yaml", as_yaml(recipe))])
