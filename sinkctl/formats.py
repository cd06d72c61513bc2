"""What kind of file one is, by its first bytes; what to do with it, those say who were given it."""

import struct

# In words, by what the rest of sinkctl calls them.
WORDS = {
    "pdf": "a PDF", "word": "a Word document", "epub": "an EPUB book", "open_document": "an OpenDocument file",
    "excel": "an Excel workbook", "powerpoint": "a PowerPoint file", "old_office": "an old Office document",
    "png": "a PNG image", "jpeg": "a JPEG image", "gif": "a GIF image", "webp": "a WebP image", "tiff": "a TIFF image",
    "mp3": "an MP3 recording", "wav": "a WAV recording", "ogg": "an Ogg recording", "flac": "a FLAC recording",
    "mp4": "a film (MP4)", "avi": "a film (AVI)", "matroska": "a film (Matroska or WebM)",
    "parquet": "a Parquet file", "arrow": "an Arrow file", "sqlite": "an SQLite database",
    "zip": "a zip archive", "tar": "a tar archive", "7z": "a 7z archive", "rar": "a RAR archive",
    "gzip": "gzip data", "bzip2": "bzip2 data", "xz": "xz data", "zstd": "Zstandard data",
    "gguf": "a GGUF model", "ggml": "a GGML model", "safetensors": "a safetensors file", "torch": "a PyTorch file",
    "pickle": "a pickle", "npy": "a NumPy array", "npz": "an archive of NumPy arrays", "hdf5": "an HDF5 file",
    "keras": "a Keras model", "program": "a program", "pointer": "a Git LFS pointer",
}  # fmt: skip
BEGIN = {
    b"%PDF-": "pdf", b"PAR1": "parquet", b"ARROW1": "arrow", b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg",
    b"GIF8": "gif", b"II*\0": "tiff", b"MM\0*": "tiff", b"ID3": "mp3", b"\xff\xfb": "mp3", b"\xff\xf3": "mp3",
    b"OggS": "ogg", b"fLaC": "flac", b"\x1a\x45\xdf\xa3": "matroska", b"\xd0\xcf\x11\xe0": "old_office",
    b"SQLite format 3": "sqlite", b"7z\xbc\xaf": "7z", b"Rar!": "rar", b"\x1f\x8b": "gzip", b"BZh": "bzip2",
    b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"GGUF": "gguf", b"lmgg": "ggml", b"fmgg": "ggml", b"tjgg": "ggml",
    b"\x89HDF\r\n\x1a\n": "hdf5", b"\x93NUMPY": "npy", b"\x7fELF": "program",
    b"version https://git-lfs": "pointer",
}  # fmt: skip
PICKLES = tuple(bytes((0x80, version)) for version in range(2, 6))
ZIPPED = {  # by a name near the start of a zip
    b"word/": "word", b"mimetypeapplication/epub": "epub", b"mimetypeapplication/vnd.oasis": "open_document",
    b"xl/": "excel", b"ppt/": "powerpoint", b"/data.pkl": "torch", b"model.weights.h5": "keras", b".npy": "npz",
}  # fmt: skip
ZIP, TAR, TAR_AT, NEAR = b"PK\x03\x04", b"ustar", 257, 1 << 16
RIFF = {b"WEBP": "webp", b"WAVE": "wav", b"AVI ": "avi"}
LONGEST_HEADER = 100_000_000  # of a safetensors file, as its own library has it


def format_of(head: bytes) -> str | None:
    """The key of `WORDS` for a file with these first bytes (64 KiB tell most); None where nothing says so."""
    if head.startswith(ZIP):
        return next((kind for mark, kind in ZIPPED.items() if mark in head[:NEAR]), "zip")
    if head[TAR_AT : TAR_AT + len(TAR)] == TAR:
        return "tar"
    if head.startswith(b"RIFF"):
        return RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return "mp4"
    if head.startswith(PICKLES):
        return "pickle"
    if _is_safetensors(head):
        return "safetensors"
    return next((kind for begin, kind in BEGIN.items() if head.startswith(begin)), None)


def _is_safetensors(head: bytes) -> bool:
    """The length of its header in eight bytes, then the header, a JSON object."""
    if len(head) < 10:
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return 2 <= length <= LONGEST_HEADER and head[8:10] in (b'{"', b"{}", b"{ ")
