"""The built-in questions: line retrieval in a stream, after the StreamEval protocol of Xiao et al. 2023.

The paper (arXiv 2309.17453, section 4.4 and appendix) asks every 10 lines for the number that stood 20 lines before;
its data were never released. Lines are LongEval's, about 23 tokens of Llama's each. Everything is a hash of the seed
and the line's number, so any line can be made again without remembering it.
"""

from collections.abc import Iterator
from hashlib import blake2b

from sinkctl.recipe.schema import LineSettings
from sinkctl.tasks.questions.items import Item, Question

PREAMBLE = "Below is a record of lines I want you to remember.\n"
# Passes over a label's words; each changes every word by a hash of the others, which can be undone, so no two meet.
ROUNDS = 3
_WORDS = (
    "amber apple april arrow autumn badge baker banner basin basket beacon berry birch blanket blossom border bottle "
    "branch breeze bridge bronze butter button cabin candle canyon carpet castle cedar chapel cherry circle cloud "
    "clover coffee copper corner cotton cradle crystal curtain dancer desert dinner dragon eagle ember engine falcon "
    "farmer feather fiddle finger flower forest fountain frozen garden garnet ginger glacier golden grain granite "
    "hammer harbor harvest hazel helmet hollow honey island ivory jacket jasmine jungle kettle ladder lantern lemon "
    "linen marble meadow mirror morning mountain needle nickel orange orchard oyster paper pebble pencil pepper "
    "pillow planet pocket prairie quarry rabbit raven ribbon river rocket saddle salmon shadow silver spider spring "
    "station summer sunset temple thunder timber tunnel valley velvet violet wagon walnut willow window winter yellow"
)
WORDS = _WORDS.split()


class LineItems:
    """Lines with a number each, and after every `every` of them a question about one `back` lines back."""

    def __init__(self, settings: LineSettings):
        self._settings, self._passed = settings, 0
        self.reach = max(settings.back)
        self._words = next(k for k in range(2, 99) if len(WORDS) ** k >= settings.count)  # in a label

    def __iter__(self) -> Iterator[Item]:
        self._passed = 0
        yield Item("before line 1", PREAMBLE)
        for number in range(1, self._settings.count + 1):
            self._passed = number
            text = f"{self._start(number)} <{self._value(number)}>\n"
            yield Item(f"line {number}", text, self._question(number))

    @property
    def share(self) -> float:
        """By the number of lines."""
        return self._passed / self._settings.count

    @property
    def asks(self) -> bool:
        """Whether there is any question at all."""
        numbers = range(self._settings.every, self._settings.count + 1, self._settings.every)
        return any(self._back(number) is not None for number in numbers)

    def _question(self, number: int) -> Question | None:
        """What is asked after line `number`: the start of an earlier line, to be completed."""
        back = self._back(number)
        if back is None:
            return None
        value = self._value(number - back)
        return Question(f"Query: {self._start(number - back)}", (f"<{value}>", value), str(back), source=back)

    def _back(self, number: int) -> int | None:
        """The distances take turns; one that reaches before the first line is passed over."""
        due, rest = divmod(number, self._settings.every)
        if rest:
            return None
        back = self._settings.back[(due - 1) % len(self._settings.back)]
        return back if back < number else None

    def _start(self, number: int) -> str:
        return f"line {self._label(number)}: REGISTER_CONTENT is"

    def _label(self, number: int) -> str:
        index, parts = number - 1, []
        for _ in range(self._words):
            index, part = divmod(index, len(WORDS))
            parts.append(part)
        for turn in range(ROUNDS):
            for place in range(self._words):
                others = parts[:place] + parts[place + 1 :]
                parts[place] = (parts[place] + self._drawn("label", turn, place, *others)) % len(WORDS)
        return "-".join(WORDS[part] for part in parts)

    def _value(self, number: int) -> str:
        low = 10 ** (self._settings.digits - 1)
        return str(low + self._drawn("value", number) % (9 * low))

    def _drawn(self, *of: str | int) -> int:
        """A number that looks random, always the same for the same seed and arguments."""
        key = ":".join(map(str, (self._settings.seed, *of)))
        return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
