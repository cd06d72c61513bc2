"""A GGUF file made ready for transformers' own reader, without what costs it minutes.

transformers reads the whole vocabulary, string by string, each time it looks for the config, the tokenizer or the
weights: four times half a minute for one of 262,144 tokens. So config and weights are read from a copy of the file
without it (the same bytes of every tensor), which is gone after loading, the config a second time where the tokenizer's
class is looked for; and the tokenizer, once made, is kept.
"""

import hashlib
import json
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from huggingface_hub import hf_hub_download
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from sinkctl.model.gguf.agrees import BLOCK
from sinkctl.model.gguf.check import check_gguf, quantization
from sinkctl.model.gguf.header import PLAIN, Header, aligned
from sinkctl.model.kept import KEPT, cache_folder, keep, work_folder
from sinkctl.model.named import Named
from sinkctl.model.undocumented import Say, gguf_config_of, gguf_told

VOCABULARY = tuple(f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type", "merges"))
QUICK = ("qwen35", "qwen35moe", "lfm2")  # read by another reader of transformers, which needs the vocabulary's length
COPY = "weights.gguf"
ROOM = 256 << 20  # for a tokenizer, beside the copy
MADE = "2"  # of how the kept tokenizers are made
DIGESTS = "digests.json"  # beside the files of a kept tokenizer: name → sha256
FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


@dataclass(frozen=True)
class Opened:
    """What from_pretrained is given: `weights` and `gguf_file` with the config, `tokenizer` a folder of its own."""

    path: Path
    header: Header
    config: PreTrainedConfig
    weights: str
    gguf_file: str
    tokenizer: str
    left: list[str]  # tensors that transformers took no notice of, once it has loaded


@contextmanager
def opened(path: Path, fingerprint: str, notes: list[str], say: Say, data: bool = True) -> Iterator[Opened]:
    """The file, ready to load inside the `with`; ModelError where it is not one that transformers reads.

    Without `data` every weight is 0: for its config and tokenizer alone.
    """
    header = check_gguf(path)
    with work_folder(path.stat().st_size * data + ROOM, notes) as work, gguf_told(say) as left:
        weights = _copied(path, header, work, data)
        config = AutoConfig.from_pretrained(weights.parent, gguf_file=weights.name)
        config.vocab_size = header.fields.get(f"{header.architecture}.vocab_size", len(header.tokens))
        tokenizer = _tokenizer(path, header, config, work, _kept(fingerprint), notes, say)
        yield Opened(path, header, config, str(weights.parent), weights.name, str(tokenizer), left)


def located(named: Named, revision: str | None) -> Path:
    """The file on this disk; of a Hub repository its copy in the Hub's cache, downloaded if need be."""
    return named.path if named.local else Path(hf_hub_download(named.source, named.file, revision=revision))


def stored_as(header: Header, dtype: torch.dtype) -> str:
    """In words, for the result's choices."""
    kinds = quantization(header)
    said = ", ".join(f"{kind} ({count}{' tensors' * (place == 0)})" for place, (kind, count) in enumerate(kinds))
    done = "loaded as" if kinds[0][0] in FLOATS else "dequantized to"
    return f"{said} in the file, {done} {str(dtype).removeprefix('torch.')}"


def own_dtype(header: Header) -> tuple[torch.dtype, str]:
    """What "auto" means where no CPU decides: the type of most weights, and why."""
    kind = quantization(header)[0][0]
    if kind in FLOATS:
        return FLOATS[kind], "as the file is stored"
    return torch.bfloat16, f"{kind} blocks have no dtype of their own; float32 keeps every bit of them"


def left_aside(file: Opened) -> list[str]:
    """A note on tensors that the loaded model is without: of other names than its class has in llama.cpp."""
    kinds = list(dict.fromkeys(BLOCK.sub("blk.*.", name) for name in file.left))
    if not kinds:
        return []
    shown = ", ".join(kinds[:3]) + (f" and {len(kinds) - 3} kinds more" if len(kinds) > 3 else "")
    rope = "; its rotary frequencies are not scaled" * ("rope_freqs.weight" in kinds)
    return [
        f"transformers {transformers.__version__} leaves {len(file.left)} of the file's {len(file.header.tensors)} "
        f"tensors aside ({shown}), and the model is without them{rope}."
    ]


def _copied(path: Path, header: Header, work: Path, data: bool) -> Path:
    """The file without its vocabulary, in `work`; the file itself where that has no room, or need not be."""
    size = path.stat().st_size
    if header.architecture in QUICK or shutil.disk_usage(work).free < size * data + ROOM:
        return path
    with path.open("rb") as file, (work / COPY).open("wb") as copy:
        kept = [span for key, span in header.spans.items() if key not in VOCABULARY]
        said = f"{header.architecture}.vocab_size"
        own = b"" if said in header.fields else _field(said, len(header.tokens))
        copy.write(struct.pack("<4sIQQ", b"GGUF", header.version, len(header.tensors), len(kept) + bool(own)) + own)
        for start, end in (*kept, header.table):
            file.seek(start)
            copy.write(file.read(end - start))
        copy.write(b"\0" * (aligned(copy.tell(), header.alignment) - copy.tell()))
        if data:
            file.seek(header.data)
            shutil.copyfileobj(file, copy, 16 << 20)
        else:
            copy.truncate(copy.tell() + size - header.data)
    return work / COPY


def _field(key: str, number: int) -> bytes:
    kind = next(kind for kind, letter in PLAIN.items() if letter == "I")
    return struct.pack("<Q", len(key.encode())) + key.encode() + struct.pack("<II", kind, number)


def _tokenizer(
    path: Path, header: Header, config: PreTrainedConfig, work: Path, kept: Path | None, notes: list[str], say: Say
) -> Path:  # fmt: skip
    """A folder with the tokenizer that transformers makes of the file; one kept that is damaged is made anew."""
    if kept is not None and kept.is_dir():
        if _is_whole(kept):
            return kept
        notes.append(f"The tokenizer kept in {kept} was damaged; it is made anew.")
        with suppress(OSError):  # not ours to write: the new one is not kept
            kept.rename(work / "damaged")
    count = len(header.tokens)
    say(f"making the tokenizer of {count:,} tokens{', some seconds' * (count > 100_000)}; it is kept for next time")
    made = work / "tokenizer"
    copy = work / COPY
    with gguf_config_of(copy) if copy.exists() else nullcontext():
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(made)
    config.save_pretrained(made)
    (made / DIGESTS).write_text(json.dumps(_digests(made)), encoding="utf-8")
    return made if kept is None else keep(made, kept)


def _is_whole(kept: Path) -> bool:
    try:
        return _digests(kept) == json.loads((kept / DIGESTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != DIGESTS)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _kept(fingerprint: str) -> Path | None:
    """Where its tokenizer is kept, by what decides about it: the file, and the transformers that makes it."""
    folder = cache_folder()
    said = f"{fingerprint}:{transformers.__version__}:{MADE}"
    return None if folder is None else folder / KEPT / hashlib.sha256(said.encode()).hexdigest()[:32]
