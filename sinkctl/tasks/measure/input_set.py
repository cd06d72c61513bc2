"""What a checkpoint is shown: samples of one kind, and how their tokens are read."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from tokenizers.decoders import ByteLevel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sinkctl.metrics.samples import Groups, Part, Samples


@dataclass(frozen=True)
class InputSet:
    """Samples of one kind, all framed alike."""

    name: str  # "natural, BOS", "random, [CLS] … [SEP]", "repeat, bare", "images", "sound: decoder"
    kind: str  # natural, random, repeat, images, random images, sound, random sound, multimodal or denoising
    bos: bool | None  # whether special tokens are there; None for images and sound
    samples: list[Tensor]  # token ids int64 [T]; or pixel values float32 [C, H, W], features, what an encoder gave
    token_text: Callable[[int, int], str]  # (sample, index) → that token as people read it
    note: str | None = None
    names: tuple[str, ...] = ()  # of images, their files; none: they are not looked at one by one
    # What the model, or one part of it, is given of every sample, where that is not the sample alone; batch of one.
    given: list[dict[str, Tensor]] | None = None
    lengths: list[int] | None = None  # how many keys of a sample that makes
    part: Part | None = None  # of an encoder-decoder
    groups: tuple[str | None, ...] = ()  # kinds of keys, by name; None: there are no such here
    of_keys: list[Tensor] | None = None  # which each key of a sample is of, int64 [S],
    asking: list[Tensor] | None = None  # and whose attention is shared out among them, bool [T]; None: all queries

    def shape(self, sample: int) -> tuple:
        """Samples of one shape can be given together."""
        return tuple((name, x.shape) for name, x in self.given[sample].items())

    def laid_out(self, first: int, count: int, device: torch.device, dtype: torch.dtype) -> Samples:
        """Some samples of one shape, as the model is given them."""
        own = range(first, first + count)
        inputs = {name: torch.cat([self.given[n][name] for n in own]) for name in self.given[first]}
        inputs = {name: x.to(device, dtype if x.is_floating_point() else x.dtype) for name, x in inputs.items()}
        length, longest = self.lengths[first], max(self.lengths)
        there = {}
        if length < longest:
            place_T = torch.arange(longest)
            real_NT = (place_T < length).expand(count, -1)
            column_NT = place_T.where(place_T < length, 0).expand(count, -1)
            there = dict(row_NT=torch.arange(count)[:, None].expand(-1, longest), column_NT=column_NT, real_NT=real_NT)
        return Samples(inputs, part=self.part, groups=self._groups(own, device), **there)

    def _groups(self, own: range, device: torch.device) -> Groups | None:
        if self.of_keys is None:
            return None
        longest = max(self.lengths)
        of_NS, asking_NT = (
            None if kinds is None else torch.stack([_padded(kinds[n], longest) for n in own]).to(device)
            for kinds in (self.of_keys, self.asking)
        )
        return Groups(of_NS, len(self.groups), asking_NT)


def _padded(x_T: Tensor, tokens: int) -> Tensor:
    return torch.nn.functional.pad(x_T, (0, tokens - len(x_T)))


def reading(samples: list[Tensor], text_of: Callable[[int], str]) -> Callable[[int, int], str]:
    return lambda sample, index: text_of(int(samples[sample][index]))


def token_reader(tokenizer: PreTrainedTokenizerBase | None) -> Callable[[int], str]:
    """A function from a token id to what people read: pieces of bytes and marks of word starts become characters."""
    if tokenizer is None:
        return str
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    by_bytes = decoder is not None and b"ByteLevel" in decoder.__getstate__()
    return cache(partial(_read, tokenizer, by_bytes, frozenset(tokenizer.all_special_ids)))


def _read(tokenizer: PreTrainedTokenizerBase, by_bytes: bool, special: frozenset[int], number: int) -> str:
    piece = tokenizer.convert_ids_to_tokens(number)
    if piece is None or number in special:
        return piece or str(number)
    if by_bytes:
        text = ByteLevel().decode([piece])
        return piece if "\ufffd" in text else text
    if len(piece) == 6 and piece.startswith("<0x") and int(piece[3:5], 16) < 0x80:
        return chr(int(piece[3:5], 16))
    return piece.replace("▁", " ")
