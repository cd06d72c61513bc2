"""Writing the converted checkpoint: all of it or nothing."""

import glob
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from sinkctl.errors import ModelError, UsageError
from sinkctl.model.attention import configs_of
from sinkctl.model.settings import ModelSettings
from sinkctl.result.store import RESULT, STATE, RunFolder
from sinkctl.sinks.storage import Form
from sinkctl.sinks.storage.own_code import write_code

WRITTEN = "written-"  # and by which process: a checkpoint before it is whole
SINK = ".sink."  # in the names of parameters that keep float32
PROCESSORS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")


@contextmanager
def whole_or_nothing(output: Path, size: int, replaces: bool = False) -> Iterator[Path]:
    """A folder beside `output` that becomes it at the end; on any error it is gone. `size`: bytes to come, about.

    If it `replaces` a folder that a run can be resumed from, it is among the states; files come from it one by one, and
    the states go last. Else `output` must be empty. What a killed process left is taken away.

    UsageError where `output` cannot be made, ModelError where the disk is too full.
    """
    parent = output.absolute().parent
    new = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
        if free < size:
            raise ModelError(
                f"--output {output}: takes about {size / 1e9:.2g} GB and {free / 1e9:.2g} GB are free; make room, or "
                "name a folder on another disk"
            )
        staging = _staging(output, replaces)
    except OSError as error:
        raise UsageError(f"--output {output}: cannot be created ({error.strerror})") from error
    try:
        yield staging
        for path in (staging, *staging.iterdir()):  # safetensors' are the owner's alone
            path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())
        if replaces:
            for path in sorted(staging.iterdir(), key=lambda path: path.name == RESULT):
                if path.is_dir():  # of a run that was killed in between
                    shutil.rmtree(output / path.name, ignore_errors=True)
                os.replace(path, output / path.name)
            RunFolder(output).drop_state()  # last: a run killed before can be resumed still
        else:
            if output.exists():
                output.rmdir()
            os.replace(staging, output)
    except (OSError, SafetensorError, ValueError) as error:
        left = f"go on with --resume {output}" if replaces else "nothing was left behind"
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ModelError(f"--output {output}: cannot be written ({said}); {left}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in new if not output.exists() else ():
            folder.rmdir()


def _staging(output: Path, replaces: bool) -> Path:
    """A new folder, named after this process, in the place of those of processes that are no more."""
    parent, prefix = (output / STATE, WRITTEN) if replaces else (output.absolute().parent, f".{output.name}.{WRITTEN}")
    here = f"{prefix}{socket.gethostname()}-"
    for left in parent.glob(f"{glob.escape(here)}*"):
        process = left.name.removeprefix(here)
        if process.isdecimal() and (int(process) == os.getpid() or not psutil.pid_exists(int(process))):
            shutil.rmtree(left, ignore_errors=True)
    staging = parent / f"{here}{os.getpid()}"
    staging.mkdir()
    return staging


def write_checkpoint(
    folder: Path, built: PreTrainedModel, form: Form, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype, shard: str
) -> None:
    """Weights as safetensors in the dtype of the source, config, generation config, code, tokenizer."""
    for name, parameter in built.named_parameters():
        if SINK not in name:
            parameter.data = parameter.data.to(dtype)
    for config in configs_of(built):  # of a multimodal model too, where each part has its own
        config.dtype = dtype
    _settle_generation(built)
    built.save_pretrained(folder, max_shard_size=shard)
    if form.own_code:
        write_code(folder, built.config)
    tokenizer.save_pretrained(folder)


def copy_processor(folder: Path, source: ModelSettings) -> None:
    """What turns images and sound into a multimodal model's input, as it was; nothing where the source has none."""
    for name in PROCESSORS:
        found = cached_file(
            source.name, name, revision=source.revision, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
        if found is not None:
            shutil.copyfile(found, folder / name)


def _settle_generation(built: PreTrainedModel) -> None:
    """Leave out what a greedy generation config says of sampling: it changes nothing, and is not saved once changed."""
    config = built.generation_config
    if config is not None and not config.do_sample:
        for name in SAMPLING:
            if getattr(config, name, None) is not None:
                setattr(config, name, None)


def files_in(folder: Path) -> dict[str, int]:
    """Name → bytes."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now
