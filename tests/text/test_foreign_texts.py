"""What is no text is named, with what makes one of it; what only begins like it is read."""

import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from sinkctl.check.texts import check_texts
from sinkctl.errors import TextError


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
