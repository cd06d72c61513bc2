"""What checkpoints are shown: natural text, random tokens, one token repeated; with BOS and without; images; sound."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sinkctl.check.measure import PICTURES, SOUNDS
from sinkctl.errors import ModelError, UsageError
from sinkctl.model.kinds import hears
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import InputSettings, MeasureRecipe
from sinkctl.tasks.measure.denoising import of_steps
from sinkctl.tasks.measure.images import chosen, images, patch_text, random_images
from sinkctl.tasks.measure.input_set import InputSet, reading, token_reader
from sinkctl.tasks.measure.natural import natural
from sinkctl.tasks.measure.seeing import of_images_and_text
from sinkctl.tasks.measure.sequences import check_length, of_sound, of_text
from sinkctl.text import SpecialTokens


@dataclass(frozen=True)
class _Frame:
    """Special tokens around a sample."""

    name: str
    bos: bool
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    note: str | None = None

    @property
    def size(self) -> int:
        return len(self.before) + len(self.after)

    def around(self, ids: Tensor, length: int) -> Tensor:
        """The leading `ids` that fit into `length`, framed."""
        before, after = torch.tensor(self.before, dtype=torch.long), torch.tensor(self.after, dtype=torch.long)
        return torch.cat([before, ids[: length - self.size], after])


def inputs(
    recipe: MeasureRecipe, loaded: LoadedModel, told: Callable[[str, float], None] = lambda what, share: None
) -> list[InputSet]:
    """Every kind of input the recipe asks for, with and without special tokens around the same ids.

    `told`: what the model has to make first (latents, text of its own), and the share of it that is made.
    Raises TextError, ModelError or UsageError for what cannot be had.
    """
    settings = recipe.input
    kinds = list(dict.fromkeys(settings.kinds))
    if loaded.kind == "vision":
        return _of_images(settings, kinds, loaded)
    if loaded.kind == "diffusion":
        return of_steps(settings, loaded, told)
    if loaded.kind == "multimodal":
        return [of_images_and_text(settings, loaded)]
    if loaded.kind == "encoder-decoder":
        check_length(recipe, loaded)
    if loaded.kind == "encoder-decoder" and hears(loaded.model.config):
        return of_sound(settings, kinds, loaded, told)
    other = next((n for n in settings.files if Path(n).is_dir() or Path(n).suffix.lower() in PICTURES | SOUNDS), None)
    if other is not None:
        what = "sound" if Path(other).suffix.lower() in SOUNDS else "images"
        raise UsageError(f"{other}: {loaded.name} reads text, not {what}; --text takes files of it")
    frames = _frames(settings, loaded)
    body = settings.length - min(frame.size for frame in frames)
    if settings.length <= max(frame.size for frame in frames):
        raise UsageError(f"length {settings.length}: its special tokens leave no room for others; take more")
    text_of = token_reader(loaded.tokenizer)
    found = []
    for kind in kinds:
        drawn, note = _natural(settings, loaded, body) if kind == "natural" else (_random(kind, settings, loaded), None)
        for frame in frames:
            samples = [frame.around(ids, settings.length) for ids in drawn]
            spelt = _special(drawn, frame, loaded) if kind == "natural" else []
            notes = "; ".join(filter(None, (note, frame.note, *spelt))) or None
            found.append(InputSet(f"{kind}, {frame.name}", kind, frame.bos, samples, reading(samples, text_of), notes))
    if loaded.kind == "encoder-decoder":
        return [part for read in found for part in of_text(read, settings.length, loaded, told)]
    return found


def _of_images(settings: InputSettings, kinds: list[str], loaded: LoadedModel) -> list[InputSet]:
    if "repeat" in kinds:
        raise UsageError(f"repeat: {loaded.name} takes images, which are natural or random")
    found = []
    if "natural" in kinds and settings.files:
        pixels, note = images(settings, loaded)
        names = tuple(path.name for path in chosen(settings))
        found.append(InputSet("images", "images", None, pixels, patch_text(loaded, pixels), note, names))
    if "random" in kinds or not settings.files:
        pixels = random_images(settings, loaded)
        size = "×".join(map(str, pixels[0].shape[1:]))
        note = f"standard normal pixels, {size}" + ("" if "random" in kinds else ", as no images were given")
        found.append(InputSet("random images", "random images", None, pixels, patch_text(loaded, pixels), note))
    return found


def _natural(settings: InputSettings, loaded: LoadedModel, length: int) -> tuple[list[Tensor], str | None]:
    if loaded.tokenizer is None:
        raise ModelError(f"{loaded.name} has no tokenizer, so it can be shown no text; ask for random tokens")
    return natural(settings, loaded.tokenizer, length)


def _special(drawn: list[Tensor], frame: _Frame, loaded: LoadedModel) -> list[str]:
    """Notes on the special tokens of natural samples; TextError for one that the embedding has no row for."""
    special = SpecialTokens(loaded.tokenizer, loaded.rows, frame.before[-1] if frame.before else None)
    for ids in drawn:
        special.add(ids.numpy(), frame.before[-1] if frame.before else None, "the text")
    return [note.rstrip(".") for note in special.notes()]


def ordinary_ids(loaded: LoadedModel) -> Tensor:
    """Every id of the vocabulary, special and added tokens left out; ModelError where none is left."""
    rows = loaded.rows
    if loaded.tokenizer is None:
        vocabulary, special = set(range(rows)), {loaded.bos_id}
    else:
        vocabulary = {number for number in loaded.tokenizer.get_vocab().values() if number < rows}
        special = {*loaded.tokenizer.all_special_ids, *loaded.tokenizer.get_added_vocab().values()}
    if not vocabulary - special:
        raise ModelError(f"{loaded.name}: its tokenizer has special tokens alone; is its tokenizer.json there?")
    return torch.tensor(sorted(vocabulary - special))


def _random(kind: str, settings: InputSettings, loaded: LoadedModel) -> list[Tensor]:
    """Ids uniform over the vocabulary, special and added tokens left out; repeat: one a sample, all along it."""
    ids = ordinary_ids(loaded)
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = ids[torch.randint(len(ids), (settings.samples, settings.length), generator=generator)]
    return list(drawn[:, :1].expand_as(drawn) if kind == "repeat" else drawn)


def _frames(settings: InputSettings, loaded: LoadedModel) -> list[_Frame]:
    if loaded.kind == "encoder-decoder" and settings.bos == "both":  # three parts are enough to look at
        settings = settings.model_copy(update={"bos": "auto"})
    encodes = loaded.kind != "decoder"
    bare, framed = _encoder_frames(loaded) if encodes else _decoder_frames(loaded)
    if framed is None:
        what = "special tokens" if encodes else "BOS token"
        if settings.bos == "on":
            raise ModelError(f"{loaded.name} has no {what} to put around a sample; leave it out")
        there = "there are no" if encodes else "there is no"
        note = f"{there} {what} to compare with" if settings.bos == "both" else None
        return [_Frame(bare.name, False, note=note)]
    automatic = framed if encodes or loaded.uses_bos else bare
    return {"both": [framed, bare], "on": [framed], "off": [bare], "auto": [automatic]}[settings.bos]


def _decoder_frames(loaded: LoadedModel) -> tuple[_Frame, _Frame | None]:
    bos = loaded.bos_id
    return _Frame("no BOS", False), None if bos is None else _Frame("BOS", True, (bos,))


def _encoder_frames(loaded: LoadedModel) -> tuple[_Frame, _Frame | None]:
    """What the tokenizer puts around a text, found by comparing: tokenizers no longer build it from ids alike."""
    if loaded.tokenizer is None:
        return _Frame("bare", False), None
    whole = loaded.tokenizer("a")["input_ids"]
    inside = loaded.tokenizer("a", add_special_tokens=False)["input_ids"]
    starts = range(len(whole) - len(inside) + 1)
    start = next((n for n in starts if whole[n : n + len(inside)] == inside), None)
    if start is None:
        return _Frame("bare", False), None
    before, after = tuple(whole[:start]), tuple(whole[start + len(inside) :])
    words = [*loaded.tokenizer.convert_ids_to_tokens(before), "…", *loaded.tokenizer.convert_ids_to_tokens(after)]
    framed = _Frame(" ".join(words), True, before, after) if before or after else None
    return _Frame("bare", False), framed
