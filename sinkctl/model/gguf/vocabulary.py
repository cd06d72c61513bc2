"""Whether a tokenizer is the one that a GGUF file holds: transformers builds it, and some versions build another.

Words are held against llama.cpp's own way to tokenize: the pair of neighbours that the file puts first (by score, or
by its place among the merges) is joined until none is left.
"""

from collections.abc import Callable

import transformers
from transformers import PreTrainedTokenizerBase

from sinkctl.errors import ModelError
from sinkctl.model.gguf.header import Header

NORMAL, UNUSED = 1, 5  # token types of ggml
SPACES = {"llama": "▁", "gpt2": "Ġ"}  # how a piece spells a space in front, by the kind of vocabulary
IDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
WORDS = (
    "it was a dark and stormy night and the rain fell in heavy drops on the little house where an old man sat alone "
    "by his fire and thought of all that he had seen in the long years before"
)
PLAIN = "It was a dark night, and the rain fell."

Priority = Callable[[str, str], float | None]


def follow_file(tokenizer: PreTrainedTokenizerBase, header: Header) -> list[str]:
    """Name special tokens, and put them around a text, as the file says; a note on what transformers did in its place.

    Which words become which tokens is not touched: what is wrong there is refused.
    """
    notes = []
    for name, said in IDS.items():
        own, here = header.token(said), getattr(tokenizer, f"{name}_token")
        if own is None or header.tokens[own] == here:
            continue
        setattr(tokenizer, f"{name}_token", header.tokens[own])
        if name in ("bos", "eos"):
            notes.append(
                f"{name.upper()} is {header.tokens[own]}, as the GGUF file says; transformers "
                f"{transformers.__version__} takes {here}."
            )
    if header.token("bos") is not None and (asked := _adds(header, "bos")) not in (None, _stands(tokenizer, "bos")):
        tokenizer.add_bos_token = asked
        notes.append(
            f"A text begins {'with' if asked else 'without'} {tokenizer.bos_token}, as the GGUF file says "
            f"(add_bos_token); transformers {transformers.__version__} does otherwise."
        )
    tokenizer.clean_up_tokenization_spaces = False  # llama.cpp takes no space away either
    return notes


def check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, header: Header) -> None:
    """ModelError that says in what `tokenizer` differs from the vocabulary and flags of the file."""
    for differs in (_around, _words, _tokens, _back):
        if (said := differs(tokenizer, header)) is not None:
            raise ModelError(
                f"{name}: transformers {transformers.__version__} makes another tokenizer of it than the file holds: "
                f"{said}; install a newer transformers, or give the model's checkpoint folder with its tokenizer.json"
            )


def _tokens(tokenizer: PreTrainedTokenizerBase, header: Header) -> str | None:
    known, types = tokenizer.get_vocab(), _types(header)
    own = {token: number for number, token in enumerate(header.tokens)}  # of two alike the last
    for token, number in own.items():
        spelt = token if token in known else token.replace(" ", SPACES["llama"])  # user-defined ones of Gemma
        if types[number] != UNUSED and known.get(spelt) != number:
            return f"{token!r} is token {number} of the file, and {known.get(spelt, 'none')} here"
    return None


def _around(tokenizer: PreTrainedTokenizerBase, header: Header) -> str | None:
    for name, where in (("bos", "in front of"), ("eos", "behind")):
        asked, own = _adds(header, name), header.token(name)
        if asked is None or own is None or _stands(tokenizer, name) == asked:
            continue
        said = f"add_{name}_token: {str(asked).lower()}"
        return f"{'none' if asked else header.tokens[own]} stands {where} a text, and the file says otherwise ({said})"
    return None


def _adds(header: Header, name: str) -> bool | None:
    """Whether BOS or EOS is to stand around a text; where the file does not say, BOS does before SentencePiece's."""
    usual = True if name == "bos" and header.fields.get("tokenizer.ggml.model") == "llama" else None
    return header.fields.get(f"tokenizer.ggml.add_{name}_token", usual)


def _stands(tokenizer: PreTrainedTokenizerBase, name: str) -> bool:
    return tokenizer(PLAIN).input_ids[0 if name == "bos" else -1] == getattr(tokenizer, f"{name}_token_id")


def _words(tokenizer: PreTrainedTokenizerBase, header: Header) -> str | None:
    space, priority = SPACES.get(header.fields.get("tokenizer.ggml.model", "")), _priority(header)
    if space is None or priority is None:
        return None
    ids = tokenizer(f"x {WORDS}", add_special_tokens=False).input_ids
    here = tokenizer.convert_ids_to_tokens(ids)
    for word in reversed(WORDS.split()):  # from the end, as the first may be spelt without its space
        own = pieces(space + word, priority)
        if here[-len(own) :] != own:
            return f"“ {word}” is {' '.join(own)} by the file, and … {' '.join(here[-max(len(own), len(word)) :])} here"
        here = here[: -len(own)]
    return None


def _back(tokenizer: PreTrainedTokenizerBase, header: Header) -> str | None:
    ids = tokenizer(PLAIN, add_special_tokens=False).input_ids
    told = tokenizer.decode(ids)
    return None if told.lstrip() == PLAIN else f"{PLAIN!r} comes back as {told!r}"


def pieces(text: str, priority: Priority) -> list[str]:
    """`text` from single characters, the pair of highest priority joined each time, the leftmost of equals."""
    parts = list(text)
    while True:
        pairs = [(found, -at) for at, pair in enumerate(zip(parts, parts[1:], strict=False))
                 if (found := priority(*pair)) is not None]  # fmt: skip
        if not pairs:
            return parts
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def _priority(header: Header) -> Priority | None:
    """Of a pair of pieces; None where the file has neither scores nor merges."""
    fields = header.fields
    if merges := fields.get("tokenizer.ggml.merges"):
        ranks = {merge: -float(rank) for rank, merge in enumerate(merges)}
        return lambda left, right: ranks.get(f"{left} {right}")
    if scores := fields.get("tokenizer.ggml.scores"):
        known = {t: s for t, s, kind in zip(header.tokens, scores, _types(header), strict=True) if kind == NORMAL}
        return lambda left, right: known.get(left + right)
    return None


def _types(header: Header) -> list[int]:
    return header.fields.get("tokenizer.ggml.token_type") or [NORMAL] * len(header.tokens)
