"""Whether what a GGUF file's header says of the model agrees with its tensors: transformers goes by the header alone.

Of weights that the header has no block for it takes no notice, and of other disagreements it raises what a library
happens to raise.
"""

import re
from pathlib import Path
from typing import Any

from sinkctl.errors import ModelError
from sinkctl.model.fits import Differs, more
from sinkctl.model.gguf.header import Header

BLOCK = re.compile(r"blk\.(\d+)\.")
EMPTY_BLOCKS = ("deci",)  # of which some blocks have no weights at all
MATRIX = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
GATED = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3")  # blocks that are alike, their sizes in the header
SPECIAL = ("bos", "eos", "unknown", "padding")
AGAIN = "the file is damaged or was edited; download it again"


def check_agrees(path: Path, header: Header) -> None:
    """Raise ModelError for blocks, heads, sizes or special tokens that do not fit each other."""
    for said in (_blocks(header), _heads(header), _embedding(header), _special_tokens(header), _shapes(header)):
        if said is not None:
            raise ModelError(f"{path}: {said}; {AGAIN}")


def _blocks(header: Header) -> str | None:
    name = f"{header.architecture}.block_count"
    count = header.fields.get(name)
    if not isinstance(count, int):
        return f"its header does not say how many blocks there are ({name})"
    held = {int(found[1]) for each in header.tensors if (found := BLOCK.match(each.name))}
    # Those that predict further tokens stand behind the others, are counted, and may have been left out.
    needed = count - header.fields.get(f"{header.architecture}.nextn_predict_layers", 0)
    beyond = sorted(number for number in held if number >= count)
    missing = [number for number in range(needed) if number not in held]
    said = f"by its header there are {count} blocks ({name}), and it holds"
    if beyond:
        return f"{said} weights of blk.{beyond[0]}{_more(beyond)}"
    if missing and header.architecture not in EMPTY_BLOCKS:
        return f"{said} no weights of blk.{missing[0]}{_more(missing)}"
    return None


def _heads(header: Header) -> str | None:
    about = f"{header.architecture}.attention"
    names = (f"{header.architecture}.embedding_length", f"{about}.head_count", f"{about}.head_count_kv")
    width, heads, pairs = (header.fields.get(name) for name in names)
    if not isinstance(heads, int):  # one for every block, or no attention
        return None
    if heads < 1:
        return f"{names[1]} is {heads}"
    if isinstance(width, int) and width % heads and f"{about}.key_length" not in header.fields:
        return f"{names[0]}, {width}, is not divisible by {names[1]}, {heads}"
    if isinstance(pairs, int) and (pairs < 1 or heads % pairs):
        return f"{names[1]}, {heads}, is not divisible by {names[2]}, {pairs}"
    return None


def _embedding(header: Header) -> str | None:
    shape = next((each.shape for each in header.tensors if each.name == "token_embd.weight"), None)
    name = f"{header.architecture}.embedding_length"
    if shape is None or len(shape) != 2:
        return "it holds no token_embd.weight, the embedding"
    if shape[0] != header.fields.get(name):
        return f"{name} is {header.fields.get(name, 'not said')}, and the embedding's rows are of {shape[0]}"
    rows = header.fields.get(f"{header.architecture}.vocab_size", len(header.tokens))
    if shape[1] != rows:
        return f"its vocabulary is of {rows:,} tokens, and the embedding has {shape[1]:,} rows"
    return None


def _shapes(header: Header) -> str | None:
    """Of the matrices that llama.cpp asks of these architectures, a gated layer each; experts have others.

    Heads are as wide as the header says, or a share of the channels, which transformers goes by for some of them.
    """
    own = f"{header.architecture}."
    fields = {name.removeprefix(own): value for name, value in header.fields.items() if name.startswith(own)}
    if header.architecture not in GATED or fields.get("expert_count"):
        return None
    names = ("embedding_length", "feed_forward_length", "attention.head_count")
    c, f, heads = (_number(fields.get(name)) for name in names)
    pairs, k, v = (_number(fields.get(f"attention.{name}")) for name in ("head_count_kv", "key_length", "value_length"))
    pairs = pairs or (heads if "attention.head_count_kv" not in fields else None)
    if not (c and f and heads and pairs):
        return None
    share = c // heads
    either = [_matrices(c, f, heads, pairs, *widths) for widths in ((k or share, v or share), (share, share))]
    held = {found.groups(): each for each in header.tensors if (found := MATRIX.fullmatch(each.name))}
    differing = [
        Differs(each.name, each.shape[::-1], either[0][kind])
        for (_, kind), each in held.items()
        if kind in either[0] and each.shape[::-1] not in [shapes[kind] for shapes in either]
    ]
    if differing:
        return differing[0].said("its header", more(differing))
    kinds = sorted({kind for _, kind in held} & set(either[0]))
    lacking = [(n, kind) for n in sorted({n for n, _ in held}, key=int) for kind in kinds if (n, kind) not in held]
    return f"it holds no blk.{'.'.join(lacking[0])}.weight{more(lacking)}" if lacking else None


def _matrices(c: int, f: int, heads: int, pairs: int, k: int, v: int) -> dict[str, tuple[int, ...]]:
    """Rows and columns by kind: c channels, f of the gated layer, `pairs` key/value heads, their widths k and v."""
    return {
        "attn_norm": (c,), "attn_q": (heads * k, c), "attn_k": (pairs * k, c), "attn_v": (pairs * v, c),
        "attn_output": (c, heads * v), "ffn_norm": (c,), "ffn_gate": (f, c), "ffn_up": (f, c), "ffn_down": (c, f),
    }  # fmt: skip


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _special_tokens(header: Header) -> str | None:
    ids = {name: header.token(name) for name in SPECIAL}
    name = next((name for name, own in ids.items() if own is not None and not 0 <= own < len(header.tokens)), None)
    return name and f"{name}_token_id is {ids[name]:,}, and its vocabulary has {len(header.tokens):,} tokens"


def _more(numbers: list[int]) -> str:
    return f" and {len(numbers) - 1} more" * (len(numbers) > 1)
