"""Pictures of pages that no test looks at: put together, but not laid out and written, which takes longest."""

import re

WRITTEN = {"report", "cli", "test_questions.py", "test_measure_kinds.py", "test_readme.py"}  # folders and files


def are_written(test: str) -> bool:
    """Whether this test, as pytest names it, has pages as a user has them."""
    return not WRITTEN.isdisjoint(re.split("[/:]+", test))


def put_together(picture, name, size) -> str:
    """Stands in for `inline`: what cannot be drawn still fails, but for the size and the place of its words."""
    from sinkctl.report import draw

    with draw.style():
        draw.lines(draw._figure(size), picture, legend=False)
    return f'<svg id="{name}"></svg>'


def only_put_together(patch=setattr) -> None:
    """From here on, in this process."""
    from sinkctl.report import html

    patch(html, "inline", put_together)
