"""What is no text is named, with what makes one of it; what only begins like it is read."""

import gzip
import io
import lzma
import os
import tarfile
import zipfile

import pytest

from sinkctl.check.texts import check_texts
from sinkctl.errors import TextError
from sinkctl.formats import BEGIN, RIFF, WORDS, ZIPPED
from sinkctl.text.foreign import TEXT_OF


def zipped(name: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr(name, "words" * 100)
    return held.getvalue()


def tarred(mode: str) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode=mode) as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"words"))
    return held.getvalue()


KINDS = [
    ("a.pdf", b"%PDF-1.7\n1 0 obj", "is a PDF, not text; pdftotext .*a.pdf"),
    ("a.docx", zipped("word/document.xml"), "is a Word document, not text; pandoc"),
    ("a.zip", zipped("a.txt"), "is a zip archive, not text; unzip"),
    ("a.tar.gz", tarred("w:gz"), "is a tar archive, not text; tar -xf"),
    ("a.tar", tarred("w"), "is a tar archive"),
    ("a.parquet", b"PAR1\x15\x04\x15\x00\xff", "is a Parquet file.*read_parquet"),
    ("a.txt", b"\x89PNG\r\n\x1a\n\0", "is a PNG image"),
    ("book", gzip.compress(b"words"), "name it .*book.gz"),
    ("book.txt", lzma.compress(b"words"), "name it .*book.txt.xz"),
    ("m.safetensors", b"\x40" + bytes(7) + b'{"a":{}}', "is a safetensors file, not text; --model takes the folder"),
    ("m.h5", b"\x89HDF\r\n\x1a\n\0", "is an HDF5 file, not text"),
    ("a.npy", b"\x93NUMPY\x01\0", "is a NumPy array, not text"),
    ("a.pkl", b"\x80\x04\x95\0", "is a pickle, not text"),
    ("a.mp3", b"ID3\x03\0\0", "is an MP3 recording, not text"),
    ("a.wav", b"RIFF\0\0\0\0WAVEfmt ", "is a WAV recording, not text"),
    ("a.mp4", b"\0\0\0\x20ftypisom\0", r"is a film \(MP4\), not text"),
    ("a.txt", "Ishmael.\n".encode("utf-16-le") * 20, "is UTF-16LE, not UTF-8.*iconv -f UTF-16LE"),
    ("a.txt", "Ishmael.\n".encode("utf-16-be") * 20, "is UTF-16BE, not UTF-8"),
    ("a.txt", ("Ishmael.\n" * 20).encode("utf-16"), "is UTF-16, not UTF-8.*iconv -f UTF-16 "),
    ("a.txt", ("Ishmael.\n" * 20).encode("utf-32"), "is UTF-32, not UTF-8"),
    ("a.txt", ("Ишмаэль.\n" * 20).encode("utf-32-be"), "is UTF-32BE, not UTF-8"),
    ("pointer", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not text; `git lfs pull`"),
    ("m.gguf", b"GGUF\x03\0\0\0", "is a GGUF model, not text; --model takes it"),
]


@pytest.mark.parametrize(("name", "content", "said"), KINDS, ids=[f"{name}-{said[:8]}" for name, _, said in KINDS])
@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_it_is_named(tmp_path, name, content, said, errors):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TextError, match=said):
        check_texts([str(path)], errors=errors)


def test_texts_that_begin_alike_and_compressed_ones_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("GIF8 was a format. PAR1 is a magic number.")
    (tmp_path / "b.txt").write_text("BZh stands in front of bzip2 data — and in front of this.")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"words"))
    check_texts([str(path) for path in sorted(tmp_path.iterdir())])


def test_every_format_has_advice_for_texts():
    assert set(WORDS) == set(TEXT_OF)
    assert {*BEGIN.values(), *ZIPPED.values(), *RIFF.values()} <= set(WORDS)


def test_zero_bytes_are_refused_unless_bad_bytes_are_let_be(tmp_path):
    path = tmp_path / "log.txt"
    path.write_bytes(b"a line of a log\n" * 9 + b"\0 and what a crash left\n")
    with pytest.raises(TextError, match=r"log.txt: byte 144 is zero, as in no text; .*or pass --errors replace"):
        check_texts([str(path)])
    check_texts([str(path)], errors="replace")


def test_what_ends_before_it_begins_is_told_at_once(tmp_path, monkeypatch):
    with pytest.raises(TextError, match="/dev/null: no text in it"):
        check_texts([os.devnull])
    (tmp_path / "empty").touch()
    for name in (os.devnull, tmp_path / "empty"):
        with open(name) as nothing:
            monkeypatch.setattr("sys.stdin", nothing)
            with pytest.raises(TextError, match="-: no text in it"):
                check_texts(["-"])
    read, write = os.pipe()
    with os.fdopen(read) as pipe, os.fdopen(write, "w"):
        monkeypatch.setattr("sys.stdin", pipe)
        check_texts(["-"])  # nobody knows yet
