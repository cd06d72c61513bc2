"""Pages in a real browser, where there is one: narrow and wide, light and dark, and on paper."""

import re
import shutil
import subprocess
from html import escape

import pytest
from benched_example import bench_result
from example_result import curve, passage, policy, stream_result
from measured_example import measure_result

from sinkctl.report.html import html

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=2000",
]  # fmt: skip
PAGES = {
    "stream": stream_result(
        [policy("4+252", curve([30.0] * 40)), policy("dense", curve([30.0] * 20 + [300.0] * 20))],
        [passage("a passage that is long " * 20)],
    ),
    "measure": measure_result(),
    "bench": bench_result(),
}
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")


def browsed(tmp_path, page: str, *flags: str) -> str:
    """What Chromium says of a page, with a profile of its own."""
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, (tmp_path / "page.html").as_uri()]
    return subprocess.run(command, check=True, capture_output=True, timeout=60, text=True).stdout


def test_no_page_is_wider_than_a_phone_or_a_screen(tmp_path):
    """A frame of 400 pixels, as headless Chromium takes no window under 500; its own script measures what is in it."""
    frames = [
        f'<iframe data-kind="{kind}" width="{width}" height="900" srcdoc="{escape(html(report, {}))}"></iframe>'
        for kind, report in PAGES.items()
        for width in (400, 1280)
    ]
    script = """<script>
      const of = f => [f.dataset.kind, f.width, f.contentDocument.documentElement.scrollWidth].join(" ");
      onload = () => { document.title = [...document.querySelectorAll("iframe")].map(of).join(";") };
    </script>"""
    seen = browsed(tmp_path, f"<title></title>{''.join(frames)}{script}", "--dump-dom")
    measured = [line.split() for line in re.search("<title>(.*?)</title>", seen)[1].split(";")]
    assert [kind for kind, *_ in measured] == [kind for kind in PAGES for _ in range(2)]
    assert all(int(inside) <= int(width) for _, width, inside in measured), measured


@pytest.mark.parametrize(("scheme", "least", "most"), [(1, 200, 256), (0, 0, 80)], ids=["light", "dark"])
def test_a_page_and_its_pictures_follow_the_scheme(tmp_path, scheme, least, most):
    import numpy as np
    from PIL import Image

    picture = tmp_path / "page.png"
    flags = (f"--blink-settings=preferredColorScheme={scheme}", "--window-size=900,1400", f"--screenshot={picture}")
    browsed(tmp_path, html(PAGES["stream"], {}), *flags)
    rows = np.median(np.asarray(Image.open(picture).convert("L")), axis=1)
    strips = rows[: len(rows) // 50 * 50].reshape(-1, 50).mean(1)  # a picture is higher than one, a rule is not
    assert least < strips.min() <= strips.max() < most


def test_paper_shows_what_is_folded(tmp_path):
    """Two pages and more, where the folded parts closed would leave one."""
    printed = tmp_path / "page.pdf"
    browsed(tmp_path, html(PAGES["stream"], {str(n): "a line" for n in range(150)}), f"--print-to-pdf={printed}")
    assert len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes())) >= 4
