"""What can be read: plain, compressed, piped and several files, and how each failure is reported."""

import bz2
import gzip
import io
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sinkctl.errors import ResumeError, TextError
from sinkctl.text import TextPosition, TokenStream, fingerprint
from sinkctl.text.source import Source
from sinkctl.text.tokens import AT_ONCE

TEXT = "The first line.\nThe second, with é and 東京.\n" * 40
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.fixture
def demo(tokenizer_of):
    return tokenizer_of("demo")


def ids(stream: TokenStream) -> list[int]:
    return [token for block in stream for token in block.ids.tolist()]


def expected(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_text_gives_the_tokens_and_offsets_of_the_text(demo, tmp_path: Path, suffix):
    plain, packed = tmp_path / "text.txt", tmp_path / f"text.txt{suffix}"
    plain.write_text(TEXT)
    half = len(TEXT.encode()) // 2
    parts = TEXT.encode()[:half], TEXT.encode()[half:]
    packed.write_bytes(b"".join(map(COMPRESS[suffix], parts)))  # two members, as `cat a.gz b.gz` makes
    stream = TokenStream([packed], demo, block_bytes=100)
    blocks = list(stream)
    for block, other in zip(blocks, TokenStream([plain], demo, block_bytes=100), strict=True):
        assert block.ids.tolist() == other.ids.tolist()
        assert block.byte_offsets.tolist() == other.byte_offsets.tolist()
        assert block.start == other.start
    assert stream.share_read == 1
    assert stream.bytes_total is None
    assert stream.bytes_read == len(TEXT.encode())
    again = TokenStream([packed], demo, block_bytes=100, start=blocks[3].start)
    assert ids(again) == [token for block in blocks[3:] for token in block.ids.tolist()]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_truncated_or_corrupt_compressed_data_is_named(demo, tmp_path: Path, suffix):
    path = tmp_path / f"text.txt{suffix}"
    data = COMPRESS[suffix](TEXT.encode())
    for broken in (data[:-6], data[: len(data) // 2], b"not compressed at all"):
        path.write_bytes(broken)
        with pytest.raises(TextError, match=rf"text\.txt\{suffix}: damaged or cut short .* get the file again"):
            ids(TokenStream([path], demo))


def test_zstd_missing_says_what_to_install(demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.zst").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(TextError, match=r"pip install 'sinkctl\[zstd\]'"):
        ids(TokenStream([tmp_path / "a.zst"], demo))


def test_several_files_are_tokenized_one_by_one_and_empty_ones_give_nothing(demo, tmp_path: Path):
    texts = ["no space between", "", "these two"]
    files = [tmp_path / f"{index}.txt" for index in range(3)]
    for path, text in zip(files, texts, strict=True):
        path.write_text(text)
    stream = TokenStream(files, demo)
    assert [(block.file, block.ids.tolist()) for block in stream] == [
        (0, expected(demo, texts[0])),
        (2, expected(demo, texts[2])),
    ]
    assert stream.bytes_read == stream.bytes_total == 25
    assert fingerprint(files) == [
        {"path": str(path), "size": len(text)} for path, text in zip(files, texts, strict=True)
    ]


def test_a_byte_order_mark_is_dropped_and_counts_in_the_offsets(demo, tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfa b")
    (block,) = TokenStream([path], demo)
    assert block.ids.tolist() == expected(demo, "a b")
    assert block.byte_offsets.tolist() == [3, 4]


def test_standard_input_is_read_in_full_blocks(demo, monkeypatch: pytest.MonkeyPatch):
    class Trickle(io.RawIOBase):
        """A pipe that gives at most three bytes at a time."""

        source = io.BytesIO(TEXT.encode())

        def read(self, size: int = -1) -> bytes:
            return self.source.read(min(size, 3))

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Trickle()}))
    stream = TokenStream(["-"], demo, block_bytes=100)
    assert ids(stream) == expected(demo, TEXT)
    assert stream.share_read is None
    assert fingerprint(["-"]) == [{"path": "-", "size": None}]


def test_nothing_waits_for_a_pipe_to_give_more(demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, pipe = tmp_path / "text.txt", io.BytesIO(TEXT.encode())
    path.write_text(TEXT)
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": pipe}))
    taken = []
    for block in TokenStream([path, "-", path], demo, block_bytes=100):
        if block.file == 0:
            assert pipe.tell() == 0
        if block.file == 1:
            taken.append((block.start.read, pipe.tell()))
    assert len(taken) > AT_ONCE
    assert [begin for begin, _ in taken[1:]] == [read for _, read in taken[:-1]]  # nothing is read ahead


def until_error(stream: TokenStream) -> tuple[list[TextPosition], str]:
    starts = []
    try:
        for block in stream:
            starts.append(block.start)
    except Exception as error:  # of the tokenizer, too
        return starts, str(error)
    raise AssertionError("no error")


def test_an_error_comes_after_every_block_before_it(demo, tmp_path: Path):
    good, bad, gone = (tmp_path / name for name in ("good.txt", "bad.txt", "gone.txt"))
    good.write_text(TEXT)
    bad.write_bytes(TEXT.encode() + b"\xff")
    gone.write_text(TEXT)
    starts = [block.start for block in TokenStream([good], demo, block_bytes=100)]
    assert len(starts) > AT_ONCE
    found, error = until_error(TokenStream([bad], demo, block_bytes=100))
    assert found == starts[:-1]
    assert "is not UTF-8" in error
    stream = TokenStream([good, gone], demo, block_bytes=100)
    gone.unlink()
    found, error = until_error(stream)
    assert found == starts
    assert f"{gone}: cannot be opened" in error


def test_a_character_that_a_tokenizer_refuses_costs_no_block_before_it(tmp_path: Path):
    characters = Tokenizer(models.WordLevel({"a": 0, " ": 1}, unk_token="none"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    path, tokenizer = tmp_path / "text.txt", PreTrainedTokenizerFast(tokenizer_object=characters)
    path.write_text("a " * 2000)
    starts = [block.start for block in TokenStream([path], tokenizer, block_bytes=100)]
    assert len(starts) > 2 * AT_ONCE
    path.write_text("a " * 1900 + "b " + "a " * 99)
    found, error = until_error(TokenStream([path], tokenizer, block_bytes=100))
    assert found == [start for start in starts if start.read < 3800]
    assert "WordLevel error" in error


def test_no_block_waits_for_a_file_that_gives_no_cut(demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One endless line, or a tokenizer without exact cuts: the whole file would be read before the blocks in front."""
    files = [tmp_path / name for name in ("one.txt", "two.txt", "endless.txt")]
    for path, text in zip(files, ("It was dark.", "It was cold.", "a" * 5000), strict=True):
        path.write_text(text)
    read, really = [], Source.read
    monkeypatch.setattr(Source, "read", lambda self, size: read.append(self.name) or really(self, size))
    blocks = iter(TokenStream(files, demo, block_bytes=64))
    assert [next(blocks).file for _ in range(2)] == [0, 1]
    assert read.count(str(files[2])) <= 1


def test_standard_input_holds_records_when_a_field_is_named(demo, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"t": "one"}\n{"t": "two"}\n')))
    assert ids(TokenStream(["-"], demo, field="t")) == expected(demo, "one\n\ntwo")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"good \xff bad", r"a\.txt: byte 5 is not UTF-8 \(0xff\); .*--errors replace"),
        ("a.txt", b"cut \xe2\x82", r"a\.txt: byte 4 is not UTF-8 \(0xe2\)"),
        ("a.txt", "hi".encode("utf-16"), r"a\.txt: is UTF-16, not UTF-8; .*iconv -f UTF-16"),
        ("a.txt", "hi".encode("utf-32"), r"a\.txt: is UTF-32, not UTF-8; .*iconv -f UTF-32"),
        ("piped", gzip.compress(b"It was a dark night"), r"piped: is gzip data, not text; send it through gzip -dc"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": ', r"a\.jsonl:3: not JSON \(.*\); each line"),
        ("a.jsonl", b'["text"]', r"a\.jsonl:1: a JSON list, not an object"),
        ("a.jsonl", b'{"body": "x", "n": 1}', r"a\.jsonl:1: no field 'text'; --field .*\(string fields here: body\)"),
        ("a.jsonl", b'{"text": 1}', r"a\.jsonl:1: field 'text' is not a string; .*\(string fields here: none\)"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', r"a\.jsonl:2: byte 24 is not UTF-8 \(0xff\)"),
        ("a.jsonl", rb'{"text": "\ud800"}', r"a\.jsonl:1: half a surrogate pair"),
    ],
)
def test_bad_text_is_reported_with_its_place_and_the_next_step(demo, tmp_path: Path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    for block_bytes in (1, 1 << 16):
        with pytest.raises(TextError, match=message) as caught:
            ids(TokenStream([path], demo, block_bytes=block_bytes))
        assert "\n" not in str(caught.value)


def test_bad_names_are_reported_before_anything_is_read(demo, tmp_path: Path):
    for files, message in [
        ([tmp_path / "none.txt"], "no such file"),
        ([tmp_path], "is a directory"),
        ([], "no text given"),
        (["-", "-"], "only once"),
    ]:
        with pytest.raises(TextError, match=message):
            TokenStream(files, demo)


def test_a_tokenizer_without_a_fast_implementation_is_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(TextError, match="object has no fast implementation"):
        TokenStream([tmp_path / "a.txt"], object())


def test_a_changed_or_shorter_file_cannot_be_resumed(demo, tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    start = list(TokenStream([path], demo, block_bytes=100))[4].start
    for changed in (TEXT.replace("first", "fIrst"), TEXT[:50]):
        path.write_text(changed)
        with pytest.raises(ResumeError, match=r"text\.txt: changed since the run was started"):
            ids(TokenStream([path], demo, block_bytes=100, start=start))


def test_a_pipe_or_a_missing_file_cannot_be_resumed(demo, tmp_path: Path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ResumeError, match="-: a pipe cannot be read again"):
        TokenStream(["-"], demo, start=TextPosition())
    with pytest.raises(ResumeError, match="text 3 of 1"):
        TokenStream([tmp_path / "a.txt"], demo, start=TextPosition(file=2))


def test_compressed_records_are_records(demo, tmp_path: Path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(json.dumps({"text": text}) for text in ("one", "two")).encode()))
    assert ids(TokenStream([path], demo)) == expected(demo, "one\n\ntwo")
