"""Sound as a speech model hears it: .wav files in clips of its length, or synthetic sound."""

import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sinkctl.check.measure import SOUNDS
from sinkctl.errors import ModelError, TextError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import InputSettings
from sinkctl.tasks.measure.files import files_of

SECONDS = 30.0  # a clip, where the model does not say
SHORTEST = 0.5  # seconds of a clip worth a look
SYNTHETIC = 10.0


def clips(settings: InputSettings, loaded: LoadedModel) -> tuple[list[Tensor], str | None]:
    """Mono clips, float32 at the model's rate, at most `settings.samples` spread over the files, and a note on them.

    Raises TextError for a file that is no sound, ModelError where this checkpoint's features cannot be made.
    """
    rate, length = rate_of(loaded), seconds_of(loaded)
    if not settings.files:
        made = [synthetic(rate, seed) for seed in range(settings.seed, settings.seed + settings.samples)]
        return made, "synthetic sound (bursts of harmonics, no speech), as no recording was given"
    found: list[Tensor] = []
    for path in files_of("sound", settings.files):
        whole, size = resampled(*read(path), rate), round(length * rate)
        found += [clip for clip in whole.split(size) if len(clip) >= SHORTEST * rate or len(whole) < size]
    count = min(settings.samples, len(found))
    note = f"the files hold only {count} clip{'s' * (count > 1)} of {length:g} s" if count < settings.samples else None
    return [found[number * len(found) // count] for number in range(count)], note


def rate_of(loaded: LoadedModel) -> int:
    """Samples a second, as the model's features are made."""
    if loaded.processor is None:
        raise ModelError(f"{loaded.name} says not how sound is prepared: it has no preprocessor_config.json")
    return loaded.processor.sampling_rate


def seconds_of(loaded: LoadedModel) -> float:
    """Of a clip; shorter ones are padded to it where the model asks for that."""
    return float(getattr(loaded.processor, "chunk_length", None) or SECONDS)


def read(path: Path) -> tuple[Tensor, int]:
    """A .wav file of whole numbers → (mono, from −1 to 1, float32; samples a second)."""
    if path.suffix.lower() not in SOUNDS:
        raise UsageError(f"{path}: the model hears sound; --audio takes .wav files (ffmpeg -i {path.name} sound.wav)")
    try:
        with wave.open(str(path)) as file:
            width, rate, channels = file.getsampwidth(), file.getframerate(), file.getnchannels()
            data = np.frombuffer(file.readframes(file.getnframes()), np.uint8)
    except (wave.Error, EOFError, OSError, ValueError) as error:
        helped = f"; ffmpeg -i {path.name} -c:a pcm_s16le whole.wav" if "unknown format" in str(error) else ""
        raise TextError(f"{path}: not a .wav file of whole numbers (PCM): {error}{helped}") from error
    if rate <= 0:
        raise TextError(f"{path}: its header says {rate} samples a second; the file is damaged")
    frame = width * channels
    data = data[: len(data) // frame * frame].reshape(-1, width)[:, -4:]  # a file cut short ends inside a frame
    if not len(data):
        raise TextError(f"{path}: no sound in it")
    if width == 1:  # without a sign, by the format
        value = data[:, 0].astype(np.float32) / 128 - 1
    else:  # the highest bytes of an int32
        whole = np.zeros((len(data), 4), np.uint8)
        whole[:, 4 - data.shape[1] :] = data
        value = (whole.view("<i4")[:, 0] / 2**31).astype(np.float32)
    return torch.from_numpy(value.reshape(-1, channels).mean(1)), rate


def resampled(x_T: Tensor, rate: int, wanted: int) -> Tensor:
    """At another rate, by its spectrum: what is above half the lower rate is gone."""
    if rate == wanted:
        return x_T
    count = max(1, round(len(x_T) * wanted / rate))
    spectrum = torch.fft.rfft(x_T.double())[: count // 2 + 1]
    return (torch.fft.irfft(spectrum, n=count) * (count / len(x_T))).float()


def synthetic(rate: int, seed: int) -> Tensor:
    """Ten seconds of syllables: bursts of a few harmonics between silences, a pitch each."""
    draw = torch.Generator().manual_seed(seed)
    parts = []
    while sum(map(len, parts)) < SYNTHETIC * rate:
        seconds, pitch, silence = torch.rand(3, generator=draw).tolist()
        time_T = torch.arange(round((0.1 + 0.3 * seconds) * rate)) / rate
        harmonics = torch.arange(1, 9)[:, None]
        tone_T = (torch.sin(2 * torch.pi * (100 + 120 * pitch) * harmonics * time_T) / harmonics).sum(0)
        parts += [0.1 * tone_T * torch.hann_window(len(time_T)), torch.zeros(round((0.05 + 0.3 * silence) * rate))]
    return torch.cat(parts)[: round(SYNTHETIC * rate)]
