"""The report as one page."""

import re
from html.parser import HTMLParser

import yaml
from example_result import curve, passage, policy, result, stream_result

from sinkctl.report.html import html

HOSTILE = '<script>alert("1")</script><img src=//evil.example/x onerror=alert(1)>'
TAGS_WITHOUT_END = {"meta", "br"}


class Page(HTMLParser):
    """Tags that balance, their attributes, and the text of <pre>."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.tags, self.attributes, self.pre = [], set(), [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in TAGS_WITHOUT_END:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "pre":
            self.pre.append(data)


def hostile_page() -> str:
    report = stream_result(
        [policy(HOSTILE, curve([30.0] * 3))],
        [passage(HOSTILE, file=HOSTILE)],
        recipe={"text": {"files": (HOSTILE,)}},
        choices={HOSTILE: HOSTILE},
        verdict=[HOSTILE],
        notes=[HOSTILE],
    )
    model = report.model.model_copy(update={"name": HOSTILE, "layers": [HOSTILE], "fingerprint": HOSTILE})
    return html(report.model_copy(update={"model": model}), {HOSTILE: HOSTILE})


def test_no_text_from_outside_becomes_a_tag_or_an_attribute():
    page = hostile_page()
    found = Page(page)
    assert not found.tags & {"script", "img", "link", "iframe"}
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert page.count("&lt;script&gt;") >= 10


def test_the_page_asks_for_nothing_outside_itself():
    values = [value or "" for name, value in Page(hostile_page()).attributes if name != "xmlns"]
    assert not [value for value in values if "//" in value]
    assert not re.search(r"@import|url\(", hostile_page())


def test_the_recipe_on_the_page_can_be_run_again():
    recipe = {"task": "stream", "text": {"files": ("a & b.txt",)}, "policies": [{"kind": "window", "window": 252}]}
    page = Page(html(stream_result([policy("0+252", curve([30.0]))], recipe=recipe), {}))
    assert yaml.safe_load("".join(page.pre)) == recipe | {"text": {"files": ["a & b.txt"]}}


def test_everything_the_result_says_is_on_the_page():
    report = stream_result(
        [policy("4+252", curve([30.0] * 3)), policy("dense", curve([40.0] * 3))], [passage("Call me")]
    )
    page = html(report, {"libraries": {"torch": "2.12.0"}, "cuda": None})
    for said in [
        *report.verdict,
        *report.notes,
        *report.model.layers,
        *report.choices.values(),
        "book.txt:7",
        "byte 1,234",
        "Call me",
        "4+252",
        "dense",
        "3,760 tok/s",
        "libraries.torch",
        "2.12.0",
    ]:
        assert said in page, said


def test_a_task_without_a_stream_and_an_empty_stream_are_whole_pages():
    empty = policy("dense", [], tokens=0, perplexity=None, common_perplexity=None, common_tokens=0)
    for report in (result(task="measure"), stream_result([empty], complete=False), stream_result([])):
        page = html(report, {})
        assert Page(page).tags >= {"h1", "pre"}
        assert not re.search(r"\bnan\b", page, re.IGNORECASE)
