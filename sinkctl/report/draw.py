"""Pictures drawn by matplotlib: inside a page as SVG that takes the page's colours and says its values, or as files."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sinkctl.report.parts import LinePicture, y_range
from sinkctl.report.printable import shorten, visible

COLOURS = ("#0072b2", "#d55e00", "#008060", "#b3568c", "#a87500", "#5a5a5a")
INK = "#1f2328"
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 3)))
STYLE = {
    "svg.hashsalt": "sinkctl", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "path.simplify": False, "figure.facecolor": "none",
    "axes.facecolor": "none", "font.family": "DejaVu Sans",
}  # fmt: skip
NARROW, WIDE = (4.4, 2.9), (8.6, 3.6)  # inches; a picture that is wide has a narrow copy for small screens
MOST_HOVERS, LABEL_CELLS, DOTS_PER_INCH = 90, 64, 160
FAMILY = re.compile(r" ?font-family:[^;]*;?")
DIGITS = {"d": re.compile(r"(\.\d)\d+")} | dict.fromkeys(("x", "y", "transform"), re.compile(r"(\.\d\d)\d+"))
SVG = "{http://www.w3.org/2000/svg}"


@contextmanager
def style() -> Iterator[None]:
    """How every picture looks."""
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a token in a script that the font lacks
        warnings.filterwarnings("ignore", message="Attempting to set identical low and high")  # before ours are set
        yield


def inline(picture: LinePicture, name: str, size: tuple[float, float] = NARROW) -> str:
    """A whole <svg> for a page; `name` keeps ids apart, colours are the page's, marks say their values."""
    with style():
        figure = _figure(size)
        hovers = lines(figure, picture, legend=False)
        written = StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _for_page(written.getvalue(), name, picture, hovers)


def write(path: Path, size: tuple[float, float], draw: Callable[[Any], Any]) -> None:
    """What `draw` puts on a figure, as a file of the kind that its name says."""
    figure = _figure(size)
    draw(figure)
    figure.savefig(
        path,
        dpi=DOTS_PER_INCH,
        facecolor="white",
        metadata={"Date": None} if path.suffix == ".svg" else {"Software": None},
    )


def lines(figure: Any, picture: LinePicture, legend: bool = True) -> dict[str, list[str]]:
    """Draw it; the words of every mark, by the id of its group."""
    axes, hovers = figure.subplots(), {}
    for number, (label, points) in enumerate(picture.lines.items()):
        colour = {"color": COLOURS[number % len(COLOURS)], "clip_on": False}
        faint = picture.faint.get(label)
        if faint:
            axes.plot(*zip(*faint, strict=True), linewidth=0.6, alpha=0.35, **colour)
        marker = "o" if len(points) == 1 or (legend and len(points) < 30) else None
        axes.plot(
            *zip(*points, strict=True), label=plain(label), linestyle=DASHES[number % len(DASHES)], linewidth=1.5,
            marker=marker, markersize=3, **colour,
        )  # fmt: skip
        if not legend:
            few = points[:: -(-len(points) // MOST_HOVERS)]
            axes.plot(
                *zip(*few, strict=True), marker="o", markersize=7, linestyle="", alpha=0, gid=f"hover{number}", **colour
            )
            hovers[f"hover{number}"] = [f"{visible(label)}: {value(y)} at {value(x)}" for x, y in few]
    for at, label in picture.guides:
        axes.axvline(at, color=INK, alpha=0.5, linestyle=":", linewidth=1)
        place = {"xycoords": ("data", "axes fraction"), "xytext": (0, 2), "textcoords": "offset points", "ha": "center"}
        axes.annotate(plain(label), (at, 1), **place)
    _scale(axes, picture)
    axes.set(xlabel=plain(picture.x_title), ylabel=plain(picture.y_title))
    axes.grid(axis="y", color=INK, alpha=0.13, linewidth=0.6)
    if legend:
        axes.set_title(
            "\n".join(map(plain, picture.title.split("\n", 1))), fontsize=10, pad=16 if picture.guides else None
        )
        if len(picture.lines) > 1:
            axes.legend(frameon=False)
    return hovers


def plain(text: str) -> str:
    """Words from anywhere: no formula, nothing hidden, and seen by a legend, which leaves out a leading underscore."""
    shown = shorten(visible(text), LABEL_CELLS).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def value(number: float) -> str:
    """Four figures: 12,345; 0.02917."""
    return f"{number:,.0f}" if abs(number) >= 999.5 or number == int(number) else f"{number:.4g}"


def _figure(size: tuple[float, float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _scale(axes: Any, picture: LinePicture) -> None:
    """Limits and ticks: whole numbers where all places are, round ones on a logarithmic axis."""
    xs = [x for line in picture.lines.values() for x, _ in line] + [at for at, _ in picture.guides]
    low, high = y_range(picture)
    left = 0.0 if not picture.log_x and 0 <= min(xs) < 0.1 * max(xs) else min(xs)
    _ticks(axes.xaxis, left, max(xs), picture.log_x, all(x == int(x) for x in xs))
    if picture.log_y:
        pad = (high / low) ** 0.05 if high > 1.001 * low else 1.02
        _ticks(axes.yaxis, low / pad, high * pad, True, False)
    else:
        _ticks(axes.yaxis, low, high + 0.03 * (high - low), False, False)


def _ticks(axis: Any, low: float, high: float, log: bool, whole: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if high <= low:
        low, high = (low / 1.2, high * 1.2) if log else (low, low + 1)
    axis.axes.set(**{f"{axis.axis_name}scale": "log" if log else "linear", f"{axis.axis_name}lim": (low, high)})
    if not log or high < 4 * low:
        axis.set_major_locator(MaxNLocator(6, integer=whole))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 500 * low else (1,), numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:,.6g}".replace("-", "−")))


def _for_page(written: str, name: str, picture: LinePicture, hovers: dict[str, list[str]]) -> str:
    """matplotlib's file as a part of a page: colours by variables, a title for every mark, ids of its own."""
    root = ElementTree.fromstring(written)
    for element in list(root.iter()):
        _tidy(element)
    for group in root.iter("g"):
        if words := hovers.get(group.get("id", "")):
            group.set("class", "hover")
            for mark, said in zip(list(group.iter("use")), words, strict=True):
                mark.attrib.pop("style")  # the page's, by the class of the group
                ElementTree.SubElement(mark, "title").text = said
    width, height = (float(root.attrib.pop(side).removesuffix("pt")) for side in ("width", "height"))
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title", "viewBox": f"0 0 {width:g} {height:g}"}
    title = ElementTree.Element("title", {"id": f"{name}-title"})
    title.text = visible(f"{picture.title}. {picture.caption}")
    root.insert(0, title)
    page = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) | {f"{name}-title"}
    page = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", page)
    for one in used - {f"{name}-title"}:
        page = page.replace(f'id="{one}"', f'id="{name}-{one}"').replace(f"#{one}", f"#{name}-{one}")
    for number, colour in enumerate((*COLOURS, INK)):
        page = page.replace(colour, f"var(--c{number})" if colour != INK else "var(--ink)")
    return page


def _tidy(element: ElementTree.Element) -> None:
    """Without what a page has no use for: names of fonts, more digits than show, what lies outside being cut."""
    element.tag = element.tag.removeprefix(SVG)
    for child in list(element):
        if child.tag.endswith(("metadata", "}style", "}clipPath")):
            element.remove(child)
    element.attrib.pop("clip-path", None)  # nothing lies outside
    for key in [key for key in element.attrib if key.startswith("{")]:
        element.set("href", element.attrib.pop(key))
    for key in DIGITS.keys() & set(element.attrib):
        element.set(key, DIGITS[key].sub(r"\1", " ".join(element.get(key).split())))
    if element.tag == "text":
        element.set("style", FAMILY.sub("", element.get("style", "")))
    else:
        element.text = None
    element.tail = None
