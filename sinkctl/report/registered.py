"""Registers of a vision transformer, as tables."""

from sinkctl.report.parts import Section, Table, of, table_of, transposed
from sinkctl.result.numbers import count, figures, percent, share
from sinkctl.result.registers import RegistersDetail

MOST_NEURONS = 8


def tables(detail: RegistersDetail) -> list[tuple[str, Table]]:
    """Before and after, metrics down and checkpoints across; and the first neurons."""
    metrics = {
        "checkpoint": of("checkpoint"),
        "outlier patches": lambda line: f"{percent(line.outlier_percent)} ({count(line.outliers)})",
        "largest patch norm": of("patch_max", figures), "median patch norm": of("patch_median", figures),
        "norm of registers": of("register_norm", figures), "smoothness": of("smoothness", share),
        "[CLS] to the original's outliers": of("cls_outliers", share), "[CLS] to registers": of("cls_registers", share),
        "[CLS] to one patch, most": of("cls_max", share), "cosine to the original, other patches": of("cosine", share),
        "cosine to the original, its outliers": of("cosine_outliers", share),
        "cosine to the original, [CLS]": of("cosine_cls", share), "KL from the original, nats": of("kl", figures),
    }  # fmt: skip
    if any(line.knn is not None for line in detail.lines):
        metrics |= {"digits by neighbours of [CLS]": of("knn", percent)}
        metrics |= {"digits by a linear probe of [CLS]": of("linear", percent)}
    control = "control: trained just so, without registers"
    control = "random neurons: as many others, moved, as a control" if detail.training is None else control
    lines = table_of(
        detail.lines,
        metrics,
        f"{count(detail.judged_on)} images; outliers: norm after the last block above {figures(detail.threshold)}; "
        "smoothness: mean cosine of neighbouring patches' features; [CLS]: its attention in the last layer, a mean "
        f"over heads; {control}",
    )
    columns = {"layer": of("layer"), "neuron": of("index"), "score": of("score", figures)}
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
