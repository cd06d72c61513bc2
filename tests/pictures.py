"""Pictures of pages that no test looks at: put together, but not laid out and written, which takes longest."""

from sinkctl.report import draw, html


def put_together(picture, name, size) -> str:
    """Stands in for `inline`: what cannot be drawn still fails, but for the size and the place of its words."""
    with draw.style():
        draw.lines(draw._figure(size), picture, legend=False)
    return f'<svg id="{name}"></svg>'


def only_put_together() -> None:
    """In a process of its own."""
    html.inline = put_together
