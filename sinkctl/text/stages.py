"""What a fast tokenizer does to a text before its model sees it, read from its own serialization."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

NORMALIZERS = {
    "BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend",
    "Replace", "Strip", "StripAccents",
}  # fmt: skip
PRE_TOKENIZERS = {
    "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation", "Split",
    "Whitespace", "WhitespaceSplit",
}  # fmt: skip
# What only the start of a text gets. Segments after the first are tokenized with text to their left, so they do not.
AT_START = {"prepend_scheme": "never", "add_prefix_space": False, "strip_left": False}
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
BYTE_LEVEL = "'s|'t|'re|'ve|'m|'ll|'d"  # the literals in the pattern that ByteLevel has built in
NOT_LITERAL = re.compile(r"\[(?:\\.|[^\]\\])*\]|\\[pP]\{\^?\w+\}|\\\w|\(\?[\w<]*[:=!]?|[{]\d*,?\d*[}]")
LITERAL = re.compile(r"(?:\\\W|[^\\()|.*+?^$])+")

Pieces = list[tuple[str, tuple[int, int]]]


class Stages:
    """Normalizer and pre-tokenizer of a tokenizer, without what they do only at the start of a text."""

    def __init__(self, serialized: str) -> None:
        spec = json.loads(serialized)
        self.normalizers = list(_flat(spec["normalizer"]))
        self.pre_tokenizers = list(_flat(spec["pre_tokenizer"]))
        self.added_tokens = spec["added_tokens"]
        self.model = spec["model"]
        self._whole_normalizer = _stages(self.normalizers, []).normalizer
        inner = _stages(
            [part | _neutral(part) for part in self.normalizers if part["type"] != "Prepend"],
            [part | _neutral(part) for part in self.pre_tokenizers],
        )
        self._normalizer, self._pre_tokenizer = inner.normalizer, inner.pre_tokenizer

    def normalize(self, text: str) -> str:
        return self._normalizer.normalize_str(text) if self._normalizer else text

    def pieces(self, normalized: str) -> Pieces:
        """The pre-tokens of a normalized text, each with its range of characters."""
        if self._pre_tokenizer is None:
            return [(normalized, (0, len(normalized)))]
        return self._pre_tokenizer.pre_tokenize_str(normalized)

    @property
    def kinds(self) -> set[str]:
        return {part["type"] for part in self.normalizers}

    @property
    def unknown(self) -> list[str]:
        """Stages whose reach to the left and right is not known here."""
        return sorted(self.kinds - NORMALIZERS | {part["type"] for part in self.pre_tokenizers} - PRE_TOKENIZERS)

    @property
    def splits(self) -> bool:
        """Whether the pre-tokenizer splits at all; Llama-2 style ones only replace spaces, Gemma's splits at none."""
        return any(
            not ((part["type"] == "Metaspace" and not part["split"]) or part.get("use_regex") is False)
            and not self._never_met(_pattern(part).get("String") if part["type"] == "Split" else None)
            for part in self.pre_tokenizers
        )

    def _never_met(self, literal: str | None) -> bool:
        """Whether the normalizer leaves no `literal` in any text: it replaces it, and nothing after that writes it."""
        for part in reversed(self.normalizers if literal else []):
            if part["type"] != "Replace" or literal in part["content"]:
                return False
            if _pattern(part).get("String") == literal:
                return True
        return False

    @cached_property
    def has_regex(self) -> bool:
        return any("Regex" in _pattern(part) for part in self.normalizers + self.pre_tokenizers)

    @cached_property
    def pattern_literals(self) -> set[str]:
        """Literal text in the regular expressions, such as 'll."""
        patterns = [_pattern(part).get("Regex", "") for part in self.normalizers + self.pre_tokenizers]
        patterns += [BYTE_LEVEL for part in self.pre_tokenizers if part["type"] == "ByteLevel"]
        runs = {run.replace("\\", "") for pattern in patterns for run in LITERAL.findall(NOT_LITERAL.sub("|", pattern))}
        return {form for run in runs for form in (run, run.upper())}

    @property
    def trims(self) -> bool:
        """Whether white space at an edge can be lost to a neighbour: Strip, or an added token that strips."""
        return "Strip" in self.kinds or any(token["lstrip"] or token["rstrip"] for token in self.added_tokens)

    def unsafe_endings(self) -> set[str]:
        """Endings of the text before a cut that forbid it: an added token may follow from there, or has just ended.

        The same for literal text in the patterns of Split and Replace, which must not be cut inside.
        """
        added = {token["content"] for token in self.added_tokens}
        literals = {_pattern(part).get("String", "") for part in self.normalizers + self.pre_tokenizers}
        literals |= self.pattern_literals
        forms = added | {self.normalize(text) for text in added}
        if self._whole_normalizer is not None:
            forms |= {self._whole_normalizer.normalize_str(text) for text in added}
        endings = {text[:n] for text in forms for n in range(1, len(text) + 1)}
        return endings | {text[:n] for text in literals for n in range(1, len(text))}


@dataclass(frozen=True)
class Merges:
    """The symbols a byte-pair encoding can join, and which characters are symbols at all."""

    joined: set[tuple[str, str]]
    vocabulary: set[str] = field(repr=False)
    bytes_stand_alone: bool

    @classmethod
    def of(cls, model: dict[str, Any]) -> "Merges":
        pairs = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
        byte_tokens = all(f"<0x{byte:02X}>" in model["vocab"] for byte in range(256))
        byte_merged = any(BYTE_TOKEN.fullmatch(side) for pair in pairs for side in pair)
        return cls(
            joined={(left[-1], right[0]) for left, right in pairs},
            vocabulary={token for token in model["vocab"] if len(token) == 1},
            bytes_stand_alone=model["byte_fallback"] and byte_tokens and not byte_merged,
        )

    def never_join(self, left: str, right: str) -> bool:
        """Whether no merge can ever join a symbol ending in the character `left` to one starting with `right`.

        A character outside the vocabulary becomes byte tokens, which no merge touches; without those it becomes the
        unknown token, which swallows its neighbours when they are unknown too.
        """
        known = (left in self.vocabulary) + (right in self.vocabulary)
        return (left, right) not in self.joined if known == 2 else self.bytes_stand_alone


def _stages(normalizers: list[dict[str, Any]], pre_tokenizers: list[dict[str, Any]]) -> Tokenizer:
    spec = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers} if pre_tokenizers else None,
        "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""},
    }
    return Tokenizer.from_str(json.dumps(spec))


def _flat(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
    for inner in part.get("normalizers", []) + part.get("pretokenizers", []):
        yield from _flat(inner)


def _neutral(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in AT_START.items() if key in part}


def _pattern(part: dict[str, Any]) -> dict[str, str]:
    pattern = part.get("pattern", {})
    return pattern if isinstance(pattern, dict) else {}
