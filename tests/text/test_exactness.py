"""The ids, offsets and lines of a stream are those of the whole text, however it is read."""

import copy
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from sinkctl.text import TextPosition, TokenBlock, TokenStream
from sinkctl.text import tokens as tokens_module

FRAGMENTS = [
    "a", "e", " hello", "The", "HELLO", " ", "  ", "     ", "\n", "\n\n", "\r\n", "\r", "\t", " \n", "'s", "'ll", "'",
    "’s", "1", "123456", "1.5", "...", "!?", "--------", "<|bos|>", "<|b", "os|>", "<s>", "</s>", "</", "s>", "<mask>",
    "<ma", "sk>", " <mask> ", "<l>", " <l>", "<r> ", "yes", " yes ", "eyes", "a  b", "<|endoftext|>", "<|endof", "中",
    "東京", "。", "日本の首都", "한국어", "\u1112\u1161\u11ab", "\u11a8", "e\u0301", "\u0301", "\u0308\u0301", "é",
    "नमस्ते", "👨‍👩‍👧‍👦", "😀", "\u200d", "\u00a0", "\u3000", "ﾊﾟ", "\uff9e", "ﬁ", "Å", "aaaaaaaaaaaaaaaaaa", "İ", "σας",
    "▁", "▁▁", "_", "<a b>", "<", ">", "\x00", "\x85", "\u2028", "ก",
]  # fmt: skip
TEXTS = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join),
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=4).flatmap(
        lambda few: st.lists(st.sampled_from([*few, " hello", "."]), max_size=60).map("".join)
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
).map(lambda text: text.removeprefix("\ufeff"))
BLOCK_BYTES = st.sampled_from([1, 2, 3, 7, 16, 64])
FEW = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def prepared_once(monkeypatch: pytest.MonkeyPatch, _prepared: dict = {}) -> None:  # noqa: B006 (the cache is meant)
    """Examine each tokenizer once, not once an example."""
    prepare = tokens_module.prepared

    def cached(tokenizer: PreTrainedTokenizerFast):
        if id(tokenizer) not in _prepared:
            _prepared[id(tokenizer)] = prepare(tokenizer), tokenizer
        return _prepared[id(tokenizer)][0]

    monkeypatch.setattr(tokens_module, "prepared", cached)


def joined(blocks: list[TokenBlock], name: str) -> list[int]:
    return [value for block in blocks for value in getattr(block, name).tolist()]


@cache
def untrimmed(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    spec = json.loads(tokenizer.backend_tokenizer.to_str()) | {"post_processor": None}
    return Tokenizer.from_str(json.dumps(spec))


def whole(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[list[int], list[int], list[int]]:
    """Ids of the tokenizer itself; bytes and lines from its own character offsets, before they are trimmed."""
    encoding = untrimmed(tokenizer).encode(text, add_special_tokens=False)
    characters = [min(start, len(text) - 1) for start, _ in encoding.offsets]
    return (
        tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"],
        [len(text[:character].encode()) for character in characters],
        [1 + text[:character].count("\n") for character in characters],
    )


def assert_same(first: list[TokenBlock], second: list[TokenBlock]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert (one.file, one.start) == (other.file, other.start)
        for name in ("ids", "byte_offsets", "lines"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@given(text=TEXTS, block_bytes=BLOCK_BYTES)
@FEW
def test_ids_offsets_and_lines_are_those_of_the_whole_text(any_tokenizer, tmp_path: Path, text, block_bytes):
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    blocks = list(TokenStream([path], any_tokenizer, block_bytes=block_bytes))
    ids, offsets, lines = whole(any_tokenizer, text) if text else ([], [], [])
    assert joined(blocks, "ids") == ids
    assert joined(blocks, "byte_offsets") == offsets
    assert joined(blocks, "lines") == lines
    bare = list(TokenStream([path], any_tokenizer, block_bytes=block_bytes, places=False))
    assert joined(bare, "ids") == ids
    assert [block.start for block in bare] == [block.start for block in blocks]
    assert not joined(bare, "byte_offsets") + joined(bare, "lines")


@pytest.mark.parametrize("name", ["demo", "stories", "llama2_legacy", "stripping"])
@given(text=TEXTS.filter(bool), block_bytes=BLOCK_BYTES)
@FEW
def test_ids_are_those_of_the_whole_text_where_special_tokens_are_read_as_text(
    tokenizer_of, tmp_path: Path, name, text, block_bytes
):
    path, tokenizer = tmp_path / "text.txt", reading_as_text(tokenizer_of(name))
    path.write_bytes(text.encode())
    ids = joined(list(TokenStream([path], tokenizer, block_bytes=block_bytes)), "ids")
    assert ids == tokenizer_of(name)(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@cache
def reading_as_text(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    changed = copy.deepcopy(tokenizer)
    changed.split_special_tokens = True
    return changed


@pytest.mark.parametrize("name", ["demo", "stories", "llama3", "stripping", "unigram"])
@given(text=TEXTS.filter(bool), block_bytes=BLOCK_BYTES, data=st.data())
@FEW
def test_a_stream_restarted_at_a_block_goes_on_with_the_same_blocks(
    tokenizer_of, tmp_path: Path, name, text, block_bytes, data
):
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    tokenizer = tokenizer_of(name)
    blocks = list(TokenStream([path, path], tokenizer, block_bytes=block_bytes))
    at = data.draw(st.integers(0, max(0, len(blocks) - 1)))
    for index in {0, at, len(blocks) - 1} if blocks else ():
        start = TextPosition.model_validate_json(blocks[index].start.model_dump_json())
        assert_same(list(TokenStream([path, path], tokenizer, block_bytes=block_bytes, start=start)), blocks[index:])


@pytest.mark.parametrize("name", ["gptneox", "stories", "unigram"])
def test_blocks_tokenized_at_once_are_those_of_one_by_one_and_reading_is_known_at_each(
    tokenizer_of, tmp_path: Path, monkeypatch, name
):
    path, other = tmp_path / "long.txt", tmp_path / "short.txt"
    path.write_text(natural_text(20_000))
    other.write_text(natural_text(300))
    files, tokenizer = [path, other, path], tokenizer_of(name)
    stream = TokenStream(files, tokenizer, block_bytes=256)
    blocks = [(block, stream.bytes_read, stream.share_read) for block in stream]
    assert len(blocks) > 8 * tokens_module.AT_ONCE
    monkeypatch.setattr(tokens_module, "AT_ONCE", 0)
    one_by_one = list(TokenStream(files, tokenizer, block_bytes=256))
    assert_same([block for block, *_ in blocks], one_by_one)
    sizes = [file.stat().st_size for file in files]
    for (block, read, share), following in zip(blocks, one_by_one[1:], strict=False):
        ends = following.start.read if following.file == block.file else sizes[block.file]
        assert read == sum(sizes[: block.file]) + ends
        assert share == read / sum(sizes)
    assert (stream.bytes_read, stream.share_read) == (sum(sizes), 1)


@given(data=st.binary(max_size=80), block_bytes=BLOCK_BYTES)
@settings(FEW, max_examples=200)
def test_replaced_bytes_give_the_text_python_gives_for_the_whole_file(tokenizer_of, tmp_path, data, block_bytes):
    data = data.removeprefix(b"\xef\xbb\xbf")
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    text = data.decode("utf-8", errors="replace")
    tokenizer = tokenizer_of("demo")
    blocks = list(TokenStream([path], tokenizer, errors="replace", block_bytes=block_bytes))
    assert joined(blocks, "ids") == (tokenizer(text, add_special_tokens=False)["input_ids"] if text else [])
    for offset, line in zip(joined(blocks, "byte_offsets"), joined(blocks, "lines"), strict=True):
        before = data[:offset].decode("utf-8", errors="replace")
        assert text.startswith(before)
        assert line == 1 + before.count("\n")


RECORDS = st.lists(TEXTS, max_size=6)


@given(records=RECORDS, block_bytes=BLOCK_BYTES, blank=st.sampled_from([b"", b"\n", b" \r\n"]))
@settings(FEW, max_examples=40)
def test_records_are_one_text_joined_by_blank_lines(tokenizer_of, tmp_path: Path, records, block_bytes, blank):
    path = tmp_path / "records.jsonl"
    lines = [json.dumps({"body": text, "id": 1}, ensure_ascii=False).encode() + b"\n" + blank for text in records]
    path.write_bytes(b"".join(lines))
    text = "\n\n".join(records)
    for name in ("demo", "stories"):
        tokenizer = tokenizer_of(name)
        stream = TokenStream([path], tokenizer, field="body", block_bytes=block_bytes)
        blocks = list(stream)
        assert joined(blocks, "ids") == (tokenizer(text, add_special_tokens=False)["input_ids"] if text else [])
        starts = np.cumsum([0, *map(len, lines)]).tolist()
        assert set(joined(blocks, "byte_offsets")) <= set(starts)
        for index, block in enumerate(blocks):
            again = TokenStream([path], tokenizer, field="body", block_bytes=block_bytes, start=block.start)
            assert_same(list(again), blocks[index:])


def test_a_token_of_a_record_has_the_offset_and_line_of_the_record(tokenizer_of, tmp_path: Path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'\n{"text": "a"}\n\n{"text": "b"}')
    (block,) = TokenStream([path], tokenizer_of("stories"))
    assert block.byte_offsets.tolist() == [1, 16, 16, 16]  # ▁a, the two joining newlines, b
    assert block.lines.tolist() == [2, 4, 4, 4]


def natural_text(size: int) -> str:
    """Sentences, paragraphs, numbers and some other scripts, drawn from one seed."""
    rng = np.random.default_rng(0)
    words = [
        "the",
        "of",
        "sink",
        "Café",
        "東京は首都です。",
        "don't",
        "1,234",
        "(see)",
        "“quoted”",
        "naïve",
        "word's",
        "😀",
    ]
    ends = [" ", " ", " ", " ", ", ", ". ", ".\n", "\n\n", "  ", " — "]
    picked, gaps = rng.integers(len(words), size=size // 4), rng.integers(len(ends), size=size // 4)
    return "".join(words[word] + ends[gap] for word, gap in zip(picked, gaps, strict=True))[:size]


def test_half_a_megabyte_is_streamed_through_a_small_buffer(real_tokenizer, tmp_path: Path):
    path, text = tmp_path / "long.txt", natural_text(400_000)
    path.write_text(text)
    stream = TokenStream([path], real_tokenizer, block_bytes=1 << 14)
    ids = np.concatenate([block.ids for block in stream])
    np.testing.assert_array_equal(ids, real_tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    assert path.stat().st_size > 5e5
    assert stream.bounded
    assert stream.largest_buffer < 2 << 14
    assert stream.share_read == 1


def test_a_split_at_what_no_text_holds_any_more_is_no_split(tokenizer_of, tmp_path: Path):
    path = tmp_path / "long.txt"
    path.write_text(natural_text(50_000))
    stream = TokenStream([path], tokenizer_of("gemma"), block_bytes=1 << 12)
    assert len(list(stream)) > 10
    assert stream.bounded_reason.startswith("no splitting pre-tokenizer")
    assert stream.largest_buffer < 2 << 12


@pytest.mark.parametrize(("name", "letter"), [("stories", "l"), ("bytes_unsplit", "a"), ("demo", " ")])
def test_a_run_nothing_can_cut_is_held_whole_and_stays_exact(tokenizer_of, tmp_path: Path, name, letter):
    path, text, tokenizer = tmp_path / "run.txt", "of " + letter * 5000 + " end of it.", tokenizer_of(name)
    path.write_text(text)
    stream = TokenStream([path], tokenizer, block_bytes=512)
    assert joined(list(stream), "ids") == tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert stream.largest_buffer > 4000


@pytest.mark.parametrize(
    ("name", "reason"), [("unigram_unsplit", "Unigram"), ("brackets", "across words"), ("lines", "across words")]
)
def test_a_tokenizer_without_known_cuts_is_fed_whole_files_and_says_why(tokenizer_of, tmp_path: Path, name, reason):
    path = tmp_path / "text.txt"
    path.write_text("a few <words in brackets> here\n" * 50)
    stream = TokenStream([path], tokenizer_of(name), block_bytes=64)
    assert len(list(stream)) == 1
    assert not stream.bounded
    assert reason in stream.bounded_reason


def test_the_tokenizer_keeps_its_settings_and_they_do_not_matter(tokenizer_of, tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("one two three")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer_of("demo").backend_tokenizer)
    expected = tokenizer("one two three", add_special_tokens=False)["input_ids"]
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=16)
    before = tokenizer.backend_tokenizer.to_str()
    assert joined(list(TokenStream([path], tokenizer)), "ids") == expected
    assert tokenizer.backend_tokenizer.to_str() == before
