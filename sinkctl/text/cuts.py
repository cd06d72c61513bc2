"""Places where a text can be cut so that tokenizing its parts gives the tokens of the whole."""

import re
import string
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from sinkctl.text.stages import Merges, Pieces, Stages

GUARD = 16  # characters tokenized again to the left of a segment
WINDOW = 8192  # characters searched for a cut, from the end of the buffer
WORD_CUTS, OTHER_CUTS = 16, 64  # candidates tried in it: ends of words, then any place
WORD_END = re.compile(r"\w(?=\s)")

LEFTS = (1, 2, 3, 4, 5, 8, GUARD)
KEY_CONTINUATIONS = ("", " ", "\n", "a", "A", "s", "1", "12", "'s", ".", "中", "\u0301")
CONTINUATIONS = (
    *KEY_CONTINUATIONS, *string.punctuation, *string.ascii_letters, "  ", " a", " A", " 1", " \n", "\r\n", "\t",
    "\x0b", "\na", "ab", "Ab", "aB", "AB", "123", "1234", "1,", "1.5", "'t", "'re", "'ll", "'S", "’s", "...", "é",
    "ß", "я", "ع", "ก", "あ", "한", "。", "、", "“", "—", "…", "€", "²", "Ⅷ", "😀", "\u00a0", "\u3000", "\u200b",
    "\u200d", "\ufe0f", "\u0308", "\u094d", "\u11a8", "\u1161", "\uff9e", "\ufffd", "\x00",
)  # fmt: skip
BRACKETS = ("", *string.punctuation, "a", "1", "\n")


@dataclass(frozen=True)
class NoCuts:
    """For a tokenizer that cannot be looked into."""

    reason: str
    bounded: bool = False

    def last(self, text: str, after: int) -> int | None:
        return None


class SafeCuts:
    """Finds cuts that are exact for one tokenizer, whatever text follows; `bounded` says whether there are any.

    A cut must hold at every stage, in the tokenizer's order:

    - added tokens: no beginning of one ends at the cut, so none lies across it and none has just ended, after which
      the prefix that some tokenizers put at the start of a text would be due;
    - normalizer: the right character is a normalization boundary by its Unicode properties, and normalizing both
      sides apart gives the same for every continuation tried;
    - pre-tokenizer: the cut lies between two pre-tokens for every continuation tried and for left contexts starting
      at many places, so neither what follows nor where the previous pre-token began decides it. A regular expression
      is also tried with every pair of brackets around the cut. Pre-tokens are tokenized one by one, so the model
      cannot see across;
    - without a splitting pre-tokenizer, the model: a byte-pair encoding whose merges never join the two characters
      around the cut. The first merge across it would have to join just those, so there is none, and merges on either
      side do not see each other.

    The first and the last are proofs. The second and third are proofs for the stages in `stages.py` as long as a
    regular expression decides a boundary by the classes of characters met, not by one particular text far ahead.
    """

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._endings = stages.unsafe_endings()
        self._reach = max(map(len, self._endings | {""}))
        self._trims = stages.trims
        self._normalizes = stages.kinds - {"Prepend"}
        self._merges: Merges | None = None
        self._brackets = (*BRACKETS, *sorted(stages.pattern_literals))
        self._enclosable = lru_cache(4096)(self._found_enclosed)
        self.is_safe = lru_cache(4096)(self._found_safe)
        self.bounded, self.reason = self._bounds()

    def _bounds(self) -> tuple[bool, str]:
        stages, model = self._stages, self._stages.model
        if stages.unknown:
            return False, f"no cut is known to be exact with {', '.join(stages.unknown)}"
        if model.get("dropout"):
            return False, "merges are dropped at random, so no cut is exact"
        if stages.splits:
            if stages.has_regex and self._enclosable("a", " "):
                return False, "its pattern can match across words, so no cut is known to be exact"
            return True, "cuts at pre-token boundaries"
        if model["type"] == "Unigram":
            return False, "Unigram without a splitting pre-tokenizer: rounding decides ties by all the text before"
        if model["type"] != "BPE" or model["ignore_merges"]:
            return False, f"{model['type']} looks up the whole text when no pre-tokenizer splits it"
        if stages.has_regex:
            return False, "a regular expression in its normalizer, and no pre-token boundary to cut at"
        if model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
            return False, "marks the ends of a word that is the whole text"
        self._merges = Merges.of(model)
        return True, "no splitting pre-tokenizer: cuts between characters that no merge joins"

    def last(self, text: str, after: int) -> int | None:
        """The last exact cut found past `after` and before the end; None to read on."""
        if not self.bounded:
            return None
        reach = max(GUARD, self._reach)
        return next(
            (cut for cut in _candidates(text, after) if self.is_safe(text[max(0, cut - reach) : cut], text[cut])), None
        )

    def _found_safe(self, left: str, right: str) -> bool:
        """Whether the text may be cut between `left` and the character `right`, whatever follows that."""
        if self._trims and left[-1].isspace():
            return False
        if self._normalizes and not self._normalization_boundary(left[-1], right):
            return False
        normalized = self._stages.normalize(left)
        if self._at_added_token(left) or self._at_added_token(normalized) or not normalized:
            return False
        near = left[-GUARD:]
        if self._merges is not None:
            return self._apart(near, right) and self._model_parts(near, right)
        return (
            self._splits(near, right, CONTINUATIONS)
            and all(self._splits(left[-length:], right, KEY_CONTINUATIONS) for length in LEFTS)
            and not (self._stages.has_regex and self._enclosable(_representative(left[-1]), right))
        )

    def _at_added_token(self, left: str) -> bool:
        return any(left[-length:] in self._endings for length in range(1, min(self._reach, len(left)) + 1))

    def _normalization_boundary(self, left: str, right: str) -> bool:
        if left == "\r" or ("Precompiled" in self._normalizes and not (_plain(left) and _plain(right))):
            return False  # Precompiled works on grapheme clusters
        first = unicodedata.normalize("NFKD", right)[0]
        return right.isascii() or not (
            unicodedata.combining(first)
            or unicodedata.category(first) in ("Mn", "Mc", "Me", "Cf", "Cn")
            or "\u1160" <= first <= "\u11ff"  # Hangul vowels and finals compose with what precedes
            or "\ud7b0" <= first <= "\ud7ff"
        )

    def _apart(self, left: str, right: str) -> bool:
        """Whether the normalizer does the same to both sides apart as together."""
        normalize = self._stages.normalize
        return not self._normalizes or all(
            normalize(left + right + more) == normalize(left) + normalize(right + more) for more in CONTINUATIONS
        )

    def _model_parts(self, left: str, right: str) -> bool:
        assert self._merges is not None
        left_symbols = _symbols(self._stages.pieces(self._stages.normalize(left)))
        right_symbols = _symbols(self._stages.pieces(self._stages.normalize(right)))
        return bool(left_symbols and right_symbols) and self._merges.never_join(left_symbols[-1], right_symbols[0])

    def _splits(self, left: str, right: str, continuations: tuple[str, ...]) -> bool:
        """Whether the pre-tokens of `left` stay the same before `right` and each continuation."""
        start = self._stages.normalize(left)
        before = self._stages.pieces(start)
        for more in continuations:
            rest = self._stages.normalize(right + more)
            if self._normalizes and self._stages.normalize(left + right + more) != start + rest:
                return False
            pieces = self._stages.pieces(start + rest)
            if pieces[: len(before)] != before or any(begin < len(start) for _, (begin, _) in pieces[len(before) :]):
                return False
        return True

    def _found_enclosed(self, left: str, right: str) -> bool:
        """Whether some pair of brackets, quotes or letters around the two characters makes them one pre-token."""
        return not all(
            self._splits(opening + left, right, tuple(f"a{closing}" for closing in self._brackets))
            for opening in self._brackets
        )


def _candidates(text: str, after: int) -> Iterator[int]:
    low = max(after, len(text) - WINDOW)
    words = [match.end() for match in WORD_END.finditer(text, low)]
    yield from reversed(words[-WORD_CUTS:])
    yield from range(len(text) - 1, max(low, len(text) - OTHER_CUTS), -1)


def _representative(character: str) -> str:
    """One letter for all lower-case or upper-case ASCII letters, one digit for all: what patterns tell apart."""
    if not character.isascii() or not character.isalnum():
        return character
    return "1" if character.isdigit() else "A" if character.isupper() else "a"


def _symbols(pieces: Pieces) -> str:
    return "".join(piece for piece, _ in pieces)


def _plain(character: str) -> bool:
    """ASCII and East Asian characters, which never share a grapheme cluster with one another."""
    return character.isascii() or "\u2e80" <= character <= "\u9fff"
