"""Special tokens that come out of a text: a text that spells them, and BOS where one stands already."""

from collections import Counter
from typing import Any

import numpy as np

from sinkctl.errors import TextError

NOTHING = -1  # where no token stands before
NAMED = 4  # special tokens in a note


class SpecialTokens:
    """Counts special tokens among the ids of texts, and refuses ids that the embedding has no row for.

    The unknown token is not counted: it stands for characters, mostly. Feed it every id of a text once.
    """

    def __init__(self, tokenizer: Any, rows: int, bos_id: int | None) -> None:
        """`bos_id`: the token that is put in front of texts, None where none is."""
        added = tokenizer.added_tokens_decoder
        self._tokenizer, self._rows, self._bos_id = tokenizer, rows, bos_id
        special = {number for number, token in added.items() if token.special} - {tokenizer.unk_token_id}
        self._special = np.array(sorted(special), np.int64)
        self.found: Counter[int] = Counter()
        self.twice = 0  # BOS right after BOS

    def add(self, ids_T: np.ndarray, before: np.ndarray | int | None, where: str) -> None:
        """Take the next ids of a text, and the id before each of them, or before the first (None where there is none).

        `where`: the text's name. Raises TextError for an id without a row.
        """
        check_ids(self._tokenizer, ids_T, self._rows, where)
        if not isinstance(before, np.ndarray):
            before = np.concatenate([[NOTHING if before is None else before], ids_T])[: len(ids_T)]
        spelt = ids_T[np.isin(ids_T, self._special)]
        self.found.update(spelt.tolist())
        if self._bos_id is not None:
            self.twice += int(((ids_T == self._bos_id) & (before == self._bos_id)).sum())

    def notes(self) -> list[str]:
        """What was found, in words."""
        notes = []
        if self.found:
            most = [f"{self._name(number)} {_times(times)}" for number, times in self.found.most_common(NAMED)]
            more = len(self.found) - NAMED
            most += [f"{more} other{'s' * (more > 1)}"] if more > 0 else []
            notes.append(
                f"The text spells special tokens, which were read as such: {', '.join(most)}; --special-tokens text "
                "reads them as ordinary text."
            )
        if self.twice:
            bos = self._name(self._bos_id)
            notes.append(
                f"A second {bos} stands behind the first, {_times(self.twice)}: one is put in front of a text, and the "
                "text begins with one of its own."
            )
        return notes

    def state(self) -> dict[str, Any]:
        """What was counted, as JSON."""
        return {"found": [list(item) for item in self.found.items()], "twice": self.twice}

    def join(self, state: dict[str, Any]) -> None:
        """Add what another `state` counted."""
        self.found.update(dict(map(tuple, state["found"])))
        self.twice += state["twice"]

    def _name(self, number: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(int(number)))


def check_ids(tokenizer: Any, ids_T: np.ndarray, rows: int, where: str) -> None:
    """TextError for an id that an embedding of `rows` rows does not have."""
    if not len(ids_T) or int(ids_T.max()) < rows:
        return
    number = int(ids_T.max())
    added = tokenizer.added_tokens_decoder.get(number)
    instead = "--special-tokens text reads it as ordinary text, or " if added is not None and added.special else ""
    raise TextError(
        f"{where} holds {tokenizer.convert_ids_to_tokens(number)} (id {number}), and the embedding has {rows:,} rows; "
        f"{instead}take the tokenizer that the weights were trained with"
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
