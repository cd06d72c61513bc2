"""What is no text, by its first bytes, and what makes a text of it."""

from sinkctl.formats import WORDS, format_of
from sinkctl.text.decode import marked

IMAGE = "give a text; of images only `sinkctl measure` of a vision model has use"
SOUND = "give a text: what a speech recognizer writes of it, say"
RECORDS = "write its texts as JSON lines, then --field with the column"
MODEL = "a model goes behind --model"
COMPRESSED = "name it FILE.{}, and it is read as such"
TEXT_OF = {  # format → what to do
    "pdf": "pdftotext FILE FILE.txt",
    "word": "pandoc FILE -o FILE.txt", "epub": "pandoc FILE -o FILE.txt", "open_document": "pandoc FILE -o FILE.txt",
    "excel": "save its column of texts as CSV or JSON lines", "powerpoint": "save its texts",
    "old_office": "soffice --headless --convert-to txt FILE",
    "parquet": 'python -c "import pandas; pandas.read_parquet(\'FILE\').to_json(\'FILE.jsonl\', orient=\'records\', '
               'lines=True)", then --field with its column',
    "arrow": RECORDS, "sqlite": RECORDS,
    "zip": "unzip FILE, then name the files in it", "tar": "tar -xf FILE, then name the files in it",
    "7z": "7z x FILE, then name the files in it", "rar": "unpack it, then name the files in it",
    "gzip": COMPRESSED.format("gz"), "bzip2": COMPRESSED.format("bz2"), "xz": COMPRESSED.format("xz"),
    "zstd": COMPRESSED.format("zst"),
    "png": IMAGE, "jpeg": IMAGE, "gif": IMAGE, "webp": IMAGE, "tiff": IMAGE,
    "mp3": SOUND, "wav": SOUND, "ogg": SOUND, "flac": SOUND, "mp4": SOUND, "avi": SOUND, "matroska": SOUND,
    "gguf": "--model takes it", "ggml": MODEL, "torch": "--model takes the folder it is in",
    "safetensors": "--model takes the folder it is in", "keras": MODEL, "hdf5": "give a text", "pickle": "give a text",
    "npy": "give a text (--train-text of `sinkctl convert` takes token ids)", "npz": "give a text",
    "program": "give a text", "pointer": "`git lfs pull` in its folder fetches what it stands for",
}  # fmt: skip
SURELY = ("pdf", "pointer")  # though they may be UTF-8 throughout
FEW = 64  # bytes that say nothing yet of how zeros lie


def foreign(name: str, head: bytes) -> str | None:
    """What the file `name` is instead of text, and what to do, in words; None where nothing says so.

    `head` are its first bytes, decompressed. What is UTF-8 without zero bytes is text, however it begins.
    """
    found = format_of(head)
    if found in SURELY or (found is not None and not _is_text(head)):
        return f"is {WORDS[found]}, not text; {TEXT_OF[found].replace('FILE', name)}"
    if (wide := _wide(head)) is not None:
        wide = marked(head) or wide
        return f"is {wide}, not UTF-8; convert it first: iconv -f {wide} -t UTF-8 {name}"
    return None


def _wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32 of a script whose other bytes are mostly 0."""
    if len(head) < FEW:
        return None
    zeros = [part.count(0) / len(part) for part in (head[lane::4] for lane in range(4))]
    for low, upper, highest, order in ((0, 2, 3, "LE"), (3, 1, 0, "BE")):  # of the four bytes of a UTF-32 character
        if zeros[low] < 0.05 and zeros[highest] > 0.4:
            return f"UTF-{32 if min(zeros[upper], zeros[highest]) > 0.95 else 16}{order}"
    return None


def _is_text(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.end == len(head) and b"\0" not in head  # cut inside its last character
    return b"\0" not in head
