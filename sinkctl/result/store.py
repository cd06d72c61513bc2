"""The run folder: whole files or none, arrays that grow on disk, and the checkpoint a run resumes from."""

import errno
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from sinkctl.errors import ResumeError, UsageError
from sinkctl.result.defaults import USED

if TYPE_CHECKING:
    from sinkctl.result.schema import Result

RESULT, RECIPE, ENVIRONMENT = "result.json", "recipe.yaml", "env.json"
STATE, CHECKPOINT = "state", "state.json"
LOCK = "lock"  # in the folder of states: a process is at work


def resumable(path: Path) -> bool:
    """Whether a run in this folder can be gone on with."""
    return (path / STATE / CHECKPOINT).exists()


def check_writable(path: Path, flag: str) -> None:
    """UsageError, beginning with `flag`, where no file can be made in a folder, or in the nearest one above it.

    It is tried with a file that has no name: of a full disk, a read-only one, or /proc only the kernel can tell.
    """
    nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise UsageError(f"{flag}: {nearest} is a file; name another folder")
    try:
        with TemporaryFile(dir=nearest) as probe:
            probe.write(bytes(4096))
    except OSError as error:
        raise UsageError(f"{flag}: {nearest} cannot be written ({error.strerror}); name another folder") from error


class RunFolder:
    """Everything one run writes."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, holding: ExitStack | None = None) -> "RunFolder":
        """A new run folder, `held` as long as `holding`; one that holds a run, finished or not, is not overwritten.

        ResumeError where another process is at work in it.
        """
        folder = cls(path)
        folder.check_free()
        with ExitStack() as meanwhile:
            try:
                folder.path.mkdir(parents=True, exist_ok=True)
                (holding or meanwhile).enter_context(folder.held())
                folder.check_free()  # of a run that another process began in between
                folder.drop_state()
            except OSError as error:
                raise UsageError(f"--output {path}: cannot be created ({error.strerror})") from error
        return folder

    @classmethod
    def unfinished(cls, path: str | Path, holding: ExitStack) -> "RunFolder":
        """A run's folder, to go on with, `held` as long as `holding`; ResumeError for one without a checkpoint."""
        folder = cls(path)
        folder.state_data()  # first: nothing is made where no run is
        holding.enter_context(folder.held())
        return folder

    def check_free(self, replaceable: bool = False) -> None:
        """UsageError where a new run cannot begin here; `replaceable`: --overwrite would replace what is."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"--output {self.path}: is a file, not a folder")
        if (self.path / RESULT).exists():
            more = "give --overwrite" if replaceable else "remove it"
            raise UsageError(f"--output {self.path}: holds a finished run; name another folder, or {more}")
        if resumable(self.path):
            raise UsageError(
                f"--output {self.path}: holds an unfinished run; continue it with --resume {self.path}, or remove it"
            )
        check_writable(self.path, f"--output {self.path}")

    def write_text(self, name: str, text: str) -> None:
        """Replace a file in one step: whoever reads it sees the old one or the new one."""
        target = self.path / name
        temporary = target.with_name(f".{target.name}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)

    def write_recipe(self, recipe: dict[str, Any]) -> None:
        self.write_text(RECIPE, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))

    def write_json(self, name: str, data: Any) -> None:
        self.write_text(name, json.dumps(data, indent=1, ensure_ascii=False) + "\n")

    def load_json(self, name: str) -> Any:
        """ResumeError for a file that is missing or damaged."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise ResumeError(f"{self.path / name}: is damaged ({error}); start the run again") from error

    def write_result(self, result: "Result") -> None:
        self.write_text(RESULT, result.model_dump_json(indent=1) + "\n")

    def write_tensors(self, name: str, tensors: dict[str, Any]) -> None:
        """A .safetensors file, in one step, as readable as the others (by itself it would be the owner's alone)."""
        temporary = self.path / f".{name}.tmp"
        _save(tensors, temporary)
        shutil.copymode(self.path / RECIPE, temporary)
        os.replace(temporary, self.path / name)

    def save_state(self, data: dict[str, Any], tensors: dict[str, Any]) -> None:
        """Write a checkpoint beside the last one, then make it the one that counts.

        The tensors, if any, go to a file named after the step; `state/state.json` names it and is replaced last.
        """
        states = self.path / STATE
        states.mkdir(exist_ok=True)
        tensor_file = f"tensors-{data['step']}.safetensors" if tensors else None
        if tensor_file is not None:
            _save({name: tensor.contiguous() for name, tensor in tensors.items()}, states / tensor_file)
            with (states / tensor_file).open("rb") as file:
                os.fsync(file.fileno())
        self.write_json(f"{STATE}/{CHECKPOINT}", {**data, "settings": dict(USED), "tensors": tensor_file})
        for old in states.glob("tensors-*.safetensors"):
            if old.name != tensor_file:
                old.unlink()

    def load_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The last checkpoint: (data, tensors)."""
        data = self.state_data()
        if data["tensors"] is None:
            return data, {}
        from safetensors.torch import load_file

        with self._damage_told():
            return data, load_file(self.path / STATE / data["tensors"])

    def state_data(self) -> dict[str, Any]:
        """The last checkpoint without its tensors, which are there; ResumeError where there is none to go on from."""
        states = self.path / STATE
        if not (states / CHECKPOINT).exists():
            finished = " (this run is finished)" if (self.path / RESULT).exists() else ""
            raise ResumeError(f"--resume {self.path}: holds no checkpoint to continue from{finished}")
        with self._damage_told():
            data = json.loads((states / CHECKPOINT).read_text(encoding="utf-8"))
            if data["tensors"] is not None:
                (states / data["tensors"]).stat()
            return data

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
            raise ResumeError(
                f"{self.path / STATE}: the checkpoint is damaged ({error}); start the run again"
            ) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, no other process may run in it; ResumeError where one does already.

        A killed one lets go; where the file system has no locks and the file itself is one, on its own host alone.
        """
        states = self.path / STATE
        lock = FileLock(states / LOCK)
        try:
            states.mkdir(parents=True, exist_ok=True)
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a file system without locks
                lock.acquire(timeout=0)
        except Timeout as error:
            said = "another process is at work in it; wait until that has ended"
            with suppress(OSError):  # it has ended
                if (states / LOCK).stat().st_size:  # the file is the lock, and says whose
                    said += f", or, if none is, remove {lock.lock_file}"
            raise ResumeError(f"{self.path}: {said}") from error
        except (NotImplementedError, OSError) as error:
            code = getattr(error, "errno", None)
            if code not in (None, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                said = f"cannot be written ({error.strerror}); check who may write there"
                raise ResumeError(f"{states}: {said}") from error
            # else without a lock
        try:
            yield
        finally:
            with suppress(OSError):  # Windows has release() do it
                (states / LOCK).unlink()
            lock.release()
            with suppress(OSError):  # states are there, or it is gone
                states.rmdir()

    def check_idle(self) -> None:
        """ResumeError where another process is at work in it."""
        if (self.path / STATE / LOCK).exists():
            with self.held():
                pass

    def drop_state(self) -> None:
        """The run is finished: nothing is left to resume. A lock stays with whom it is `held` by."""
        states = self.path / STATE
        if not states.exists():
            return
        (states / CHECKPOINT).unlink(missing_ok=True)  # first, so that what is left never looks resumable
        for path in states.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:  # open: NFS would only rename it, Windows would refuse
                path.unlink()
        with suppress(OSError):  # it is held
            states.rmdir()


class GrowingArray:
    """An array of numbers that grows on disk, so that memory does not; becomes a .npy file at the end."""

    def __init__(self, path: Path, length: int = 0, dtype: str = "<f4"):
        """Open `path`, keeping its first `length` values (what a checkpoint vouches for)."""
        size = length * np.dtype(dtype).itemsize
        if length and (not path.exists() or path.stat().st_size < size):
            raise ResumeError(f"{path}: shorter than the checkpoint says; start the run again")
        self.path, self.length, self._dtype = path, length, dtype
        self._file = path.open("r+b" if length else "w+b")
        self._file.truncate(size)
        self._file.seek(size)

    def append(self, values: np.ndarray) -> None:
        self._file.write(values.astype(self._dtype).tobytes())
        self.length += values.size

    def sync(self) -> None:
        """Put everything appended so far on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def values(self) -> np.ndarray:
        """The array, mapped from disk."""
        self._file.flush()
        if not self.length:
            return np.zeros(0, self._dtype)
        return np.memmap(self.path, dtype=self._dtype, mode="r", shape=(self.length,))

    def close(self) -> None:
        self._file.close()


def save_arrays(path: Path, arrays: list[np.ndarray]) -> None:
    """Write one array as it is, several as rows, to a .npy file, in one step."""
    shape = arrays[0].shape if len(arrays) == 1 else (len(arrays), *arrays[0].shape)
    save_pieces(path, shape, arrays[0].dtype, arrays)


def save_pieces(path: Path, shape: tuple[int, ...], dtype: Any, pieces: Iterable[np.ndarray]) -> None:
    """Write an array of this shape to a .npy file, in one step, from pieces that fill it one after the other."""
    temporary, left = path.with_name(f".{path.name}.tmp"), math.prod(shape)
    with temporary.open("wb") as file:
        described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, described)
        for piece in pieces:
            piece.astype(dtype, copy=False).tofile(file)
            left -= piece.size
    assert not left
    os.replace(temporary, path)


def _save(tensors: dict[str, Any], path: Path) -> None:
    """OSError for what cannot be written, a full disk too, of which safetensors has an error of its own."""
    from safetensors.torch import save_file  # imports torch

    try:
        save_file(tensors, path)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        said = f"cannot be written ({error}); make room, and go on with --resume"
        raise OSError(int(code[1]) if code else errno.EIO, said, str(path)) from error
