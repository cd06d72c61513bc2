"""Registers of a vision transformer, as tables."""

from sinkctl.report.parts import Section, Table, table_of, transposed
from sinkctl.result.numbers import count, figures, percent, share
from sinkctl.result.registers import RegistersDetail

MOST_NEURONS = 8


def tables(detail: RegistersDetail) -> list[tuple[str, Table]]:
    """Before and after, metrics down and checkpoints across; and the first neurons."""
    metrics = {
        "checkpoint": lambda line: line.checkpoint,
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
    control = "control: trained just so, without registers"
    control = "random neurons: as many others, moved, as a control" if detail.training is None else control
    lines = table_of(
        detail.lines,
        metrics,
        f"{count(detail.judged_on)} images; outliers: norm after the last block above {figures(detail.threshold)}; "
        "smoothness: mean cosine of neighbouring patches' features; [CLS]: its attention in the last layer, a mean "
        f"over heads; {control}",
    )
    columns = {
        "layer": lambda neuron: str(neuron.layer),
        "neuron": lambda neuron: str(neuron.index),
        "score": lambda neuron: figures(neuron.score),
    }
    tried = ", ".join(f"{number}: {count(left)}" for number, left in detail.tried.items())
    more = len(detail.neurons) - MOST_NEURONS
    neurons = table_of(
        detail.neurons[:MOST_NEURONS],
        columns,
        f"score: mean |activation| at outlier patches, over {count(detail.found_on)} images; layers 0 to "
        f"{detail.layer}",
        more > 0 and f"and {count(more)} more",
        tried and f"outliers left by so many neurons, of the images they were found on: {tried}",
        words=[],
    )
    return [("Before and after", transposed(lines) if lines else lines), ("Register neurons", neurons)]


def sections(detail: RegistersDetail) -> list[Section]:
    return [Section(title, [("table", table)]) for title, table in tables(detail)]
