"""Images beside text, as a multimodal decoder reads them: each image file with a piece of text behind it."""

from collections.abc import Callable
from importlib.util import find_spec
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor

from sinkctl.check.measure import is_picture
from sinkctl.errors import ModelError, TextError, UsageError
from sinkctl.metrics.redistributed import FIRST, IMAGE
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import InputSettings
from sinkctl.tasks.measure.images import chosen, opened
from sinkctl.tasks.measure.input_set import InputSet, token_reader
from sinkctl.tasks.measure.natural import natural

TEXT = 2  # the kind of keys that are neither
KIND = "multimodal"


def of_images_and_text(settings: InputSettings, loaded: LoadedModel) -> InputSet:
    """One sample an image; ModelError where the checkpoint says not how they are prepared."""
    if set(settings.kinds) != {"natural"}:
        raise UsageError(f"{loaded.name} is shown images with text; leave --input out")
    if loaded.processor is None:
        if find_spec("PIL") is None:
            raise ModelError("reading images needs Pillow; pip install 'sinkctl[images]'")
        raise ModelError(f"{loaded.name} says not how images are prepared: it has no preprocessor_config.json")
    seen = [name for name in settings.files if is_picture(name)]
    paths = chosen(replaced(settings, seen))
    read = replaced(settings, [name for name in settings.files if name not in seen], samples=len(paths))
    texts, note = natural(read, loaded.tokenizer, settings.length)
    texts = [loaded.tokenizer.decode(ids_T) for ids_T in texts]
    given = [_given(path, texts[number % len(texts)], loaded) for number, path in enumerate(paths)]
    samples = [each["input_ids"][0] for each in given]
    of_keys = [_kinds(ids_T, path, loaded) for ids_T, path in zip(samples, paths, strict=True)]
    asking = [torch.arange(len(of_T)) > int((of_T == IMAGE).nonzero()[-1]) for of_T in of_keys]
    first = "BOS" if all(int(ids_T[0]) == loaded.bos_id for ids_T in samples) else "first"
    alone = None
    if any(int(of_T[0]) == IMAGE for of_T in of_keys):
        first, alone = None, "the first token is one of the image's, so nothing is said of it apart"
    else:
        for of_T in of_keys:
            of_T[0] = FIRST
    sizes = " to ".join(map(str, sorted({min(map(len, samples)), max(map(len, samples))})))
    said = f"{len(paths)} image{'s' * (len(paths) > 1)}, each with a text behind it, {sizes} tokens in all"
    return InputSet(
        "images with text", KIND, None, samples, _reading(samples, of_keys, given, loaded),
        "; ".join(filter(None, (said, note, alone))), given=given, lengths=[len(ids_T) for ids_T in samples],
        groups=(first, "image", "text"), of_keys=of_keys, asking=asking,
    )  # fmt: skip


def replaced(settings: InputSettings, files: list[str], **changes: int) -> InputSettings:
    return settings.model_copy(update={"files": tuple(files), **changes})


def _given(path: Path, text: str, loaded: LoadedModel) -> dict[str, Tensor]:
    """What the model takes, as its processor and chat template say; without a template the image, then the text."""
    processor, bos = loaded.processor, loaded.tokenizer.bos_token
    if getattr(processor, "chat_template", None):
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
        prompt = processor.apply_chat_template([message], tokenize=False)
        prompt = prompt.removeprefix(bos) if bos and loaded.uses_bos else prompt  # else it would be there twice
    else:
        prompt = f"{processor.image_token} {text}"
    try:
        inputs = processor(text=prompt, images=[opened(path)], return_tensors="pt")
    except (ValueError, TypeError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"{loaded.name}: its processor does not take {path.name} with text ({said})") from error
    return {name: x for name, x in inputs.items() if isinstance(x, Tensor)}


def _kinds(ids_T: Tensor, path: Path, loaded: LoadedModel) -> Tensor:
    config = loaded.model.config
    number = getattr(config, "image_token_id", None)
    number = getattr(config, "image_token_index", None) if number is None else number
    of_T = torch.where(ids_T == number, IMAGE, TEXT) if number is not None else torch.full_like(ids_T, TEXT)
    if not bool((of_T == IMAGE).any()):
        raise ModelError(f"{loaded.name}: no token of {path.name} is the config's image_token_id ({number})")
    if int(of_T[-1]) == IMAGE:
        raise TextError(f"{loaded.name}: no text stands behind {path.name}; give a longer --text")
    return of_T


def _reading(
    samples: list[Tensor], of_keys: list[Tensor], given: list[dict[str, Tensor]], loaded: LoadedModel
) -> Callable[[int, int], str]:
    """A token of an image by its row and column, where they are known; text as it is."""
    text_of = token_reader(loaded.tokenizer)
    columns = [_columns(of_T, each, loaded) for of_T, each in zip(of_keys, given, strict=True)]

    def text(sample: int, index: int) -> str:
        if int(of_keys[sample][index]) != IMAGE:
            return text_of(int(samples[sample][index]))
        place = int((of_keys[sample][:index] == IMAGE).sum())
        return f"image {place}" if columns[sample] is None else "image {},{}".format(*divmod(place, columns[sample]))

    return text


def _columns(of_T: Tensor, given: dict[str, Tensor], loaded: LoadedModel) -> int | None:
    """Tokens a row of the image: as its grid says (Qwen), else of a square; None for neither, and where it is tiled."""
    if "image_grid_thw" in given:
        merged = getattr(loaded.model.config.vision_config, "spatial_merge_size", 1)
        return int(given["image_grid_thw"][0, 2]) // merged
    place_k = (of_T == IMAGE).nonzero().flatten()
    count = len(place_k)
    pixels = given.get("pixel_values")
    tiled = pixels is not None and pixels.dim() > 3 and pixels.shape[:-3].numel() > 1
    whole = int(place_k[-1] - place_k[0]) == count - 1 and isqrt(count) ** 2 == count
    return isqrt(count) if whole and not tiled else None
