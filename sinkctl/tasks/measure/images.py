"""Images as a vision model takes them: files through the checkpoint's own processor, or noise."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkctl.check.measure import is_picture
from sinkctl.errors import ModelError, TextError, UsageError
from sinkctl.model.kinds import leading_tokens
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import InputSettings
from sinkctl.tasks.measure.files import files_of


def images(settings: InputSettings, loaded: LoadedModel) -> tuple[list[Tensor], str | None]:
    """Pixel values [C, H, W] of at most `settings.samples` images spread over the files, and a note on them.

    Raises TextError for a file that is no image, ModelError where images cannot be prepared for this checkpoint.
    """
    if loaded.processor is None:
        if find_spec("PIL") is None:
            raise ModelError("reading images needs Pillow; pip install 'sinkctl[images]'")
        raise ModelError(f"{loaded.name} says not how images are prepared: it has no preprocessor_config.json")
    _refuse_text(settings.files, loaded.name)
    paths = chosen(settings)
    pixels = [_pixels(path, loaded) for path in paths]
    if len({x.shape for x in pixels}) > 1:
        raise ModelError(f"{loaded.name}: its image processor leaves images at sizes of their own; give images alike")
    count = len(paths)
    note = f"the files hold only {count} image{'s' * (count > 1)}" if count < settings.samples else None
    return pixels, note


def _refuse_text(files: tuple[str, ...], model: str) -> None:
    """UsageError for what stands beside images and is none: --text, whose files come with those of --images."""
    others = [name for name in files if not is_picture(name)]
    for name in others if len(others) < len(files) else ():
        try:
            opened(Path(name))
        except TextError as error:
            raise UsageError(
                f"--text and --images: {model} reads images alone, and {name} is none; leave --text out"
            ) from error


def chosen(settings: InputSettings) -> list[Path]:
    """The files of the images, at most `settings.samples`, spread over all there are."""
    paths = files_of("images", settings.files)
    count = min(settings.samples, len(paths))
    return [paths[number * len(paths) // count] for number in range(count)]


def random_images(settings: InputSettings, loaded: LoadedModel) -> list[Tensor]:
    """Standard normal pixel values [C, H, W] of the size in the checkpoint's config."""
    config = loaded.model.config
    if getattr(config, "image_size", None) is None:
        raise ModelError(f"{loaded.name}: its config states no image_size; give it images")
    height, width = _pair(config.image_size)
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (getattr(config, "num_channels", 3), height, width)
    return [torch.randn(shape, generator=generator) for _ in range(settings.samples)]


def patch_text(loaded: LoadedModel, pixels: list[Tensor]) -> Callable[[int, int], str]:
    """(sample, index of a token) → [CLS], [REG 1] or the row and column of its patch, from 0."""
    leading = leading_tokens(loaded.model)

    def text(sample: int, index: int) -> str:
        if index < len(leading):
            return leading[index]
        row, column = divmod(index - len(leading), patch_columns(loaded.model, pixels[sample]))
        return f"patch {row},{column}"

    return text


def patch_columns(model: PreTrainedModel, image: Tensor) -> int:
    """Patches a row of an image [C, H, W]."""
    return image.shape[-1] // _pair(model.config.patch_size)[1]


def _pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def opened(path: Path) -> Any:
    """A Pillow image, in colour."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except Exception as error:  # Pillow raises whatever a damaged file leads to
        raise TextError(f"{path}: not an image that Pillow reads ({type(error).__name__}: {error})") from error


def _pixels(path: Path, loaded: LoadedModel) -> Tensor:
    pixels = loaded.processor(images=opened(path), return_tensors="pt")["pixel_values"][0]
    if pixels.dim() != 3:
        raise ModelError(f"{loaded.name}: its processor gives no pixel values [C, H, W] but {list(pixels.shape)}")
    return pixels
