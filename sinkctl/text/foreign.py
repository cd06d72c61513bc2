"""What begins as no text: other kinds of file by their first bytes, and what makes a text of them."""

ZIPPED = {  # by a name near the start of a zip
    b"word/": ("a Word document", "pandoc FILE -o FILE.txt"),
    b"mimetypeapplication/epub": ("an EPUB book", "pandoc FILE -o FILE.txt"),
    b"mimetypeapplication/vnd.oasis": ("an OpenDocument file", "pandoc FILE -o FILE.txt"),
    b"xl/": ("an Excel workbook", "save its column of texts as CSV or JSON lines"),
    b"ppt/": ("a PowerPoint file", "save its texts"),
    b"archive/data.pkl": ("a PyTorch file", "--model takes the folder it is in"),
}
BEGIN = {  # first bytes → what it is, what to do
    b"%PDF-": ("a PDF", "pdftotext FILE FILE.txt"),
    b"PAR1": ("a Parquet file", 'python -c "import pandas; pandas.read_parquet(\'FILE\').to_json(\'FILE.jsonl\', '
              'orient=\'records\', lines=True)", then --field with its column'),
    b"ARROW1": ("an Arrow file", "write its records as JSON lines, then --field with the column"),
    b"\x89PNG": ("a PNG image", "give a text; of images only `sinkctl measure` of a vision model has use"),
    b"\xff\xd8\xff": ("a JPEG image", "give a text; of images only `sinkctl measure` of a vision model has use"),
    b"GIF8": ("a GIF image", "give a text; of images only `sinkctl measure` of a vision model has use"),
    b"\xd0\xcf\x11\xe0": ("an old Office document", "soffice --headless --convert-to txt FILE"),
    b"SQLite format 3": ("an SQLite database", "write its texts as JSON lines, then --field with the column"),
    b"7z\xbc\xaf": ("a 7z archive", "7z x FILE, then name the files in it"),
    b"Rar!": ("a RAR archive", "unpack it, then name the files in it"),
    b"\x1f\x8b": ("gzip data", "name it FILE.gz, and it is read as such"),
    b"BZh": ("bzip2 data", "name it FILE.bz2, and it is read as such"),
    b"\xfd7zXZ": ("xz data", "name it FILE.xz, and it is read as such"),
    b"\x28\xb5\x2f\xfd": ("Zstandard data", "name it FILE.zst, and it is read as such"),
    b"GGUF": ("a GGUF model", "--model takes it"),
    b"\x7fELF": ("a program", "give a text"),
}  # fmt: skip
ZIP, TAR, TAR_AT, NEAR = b"PK\x03\x04", b"ustar", 257, 1 << 16


def foreign(name: str, head: bytes) -> str | None:
    """What the file `name` is instead of text, and what to do, in words; None where nothing says so.

    `head` are its first bytes, decompressed. What is UTF-8 without zero bytes is text, however it begins.
    """
    found = _kind(head)
    if found is None or (not head.startswith(b"%PDF-") and _is_text(head)):
        return None
    what, instead = found
    return f"is {what}, not text; {instead.replace('FILE', name)}"


def _kind(head: bytes) -> tuple[str, str] | None:
    if head.startswith(ZIP):
        inside = head[:NEAR]
        return next((said for mark, said in ZIPPED.items() if mark in inside),
                    ("a zip archive", "unzip FILE, then name the files in it"))  # fmt: skip
    if head[TAR_AT : TAR_AT + len(TAR)] == TAR:
        return "a tar archive", "tar -xf FILE, then name the files in it"
    return next((said for begin, said in BEGIN.items() if head.startswith(begin)), None)


def _is_text(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.end == len(head) and b"\0" not in head  # cut inside its last character
    return b"\0" not in head
