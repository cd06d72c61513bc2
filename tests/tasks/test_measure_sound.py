"""Files of sound, and of images, as `sinkctl measure` reads them."""

import struct
import wave

import numpy as np
import pytest
import torch

from sinkctl.errors import TextError, UsageError
from sinkctl.tasks.measure.files import files_of
from sinkctl.tasks.measure.sound import read, resampled


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_wav_file_of_any_width_is_read_as_what_was_written(width, tmp_path):
    """Two channels, of which the mean is taken: one is silent, so half of the other is left."""
    value = np.array([0.5, -0.25, 0.125, -1.0])
    whole = np.round(value * 2 ** (8 * width - 1)).astype("<i4")
    silent = np.zeros(4, "<i4")
    both = np.stack([whole, silent], 1).reshape(-1)
    both = both + 128 if width == 1 else both
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((2, width, 8000, 0, "NONE", ""))
        file.writeframes(both.view(np.uint8).reshape(-1, 4)[:, :width].tobytes())
    found, rate = read(tmp_path / "a.wav")
    assert rate == 8000
    assert found.tolist() == (value / 2).tolist()
    (tmp_path / "empty.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:44])
    with pytest.raises(TextError, match=r"empty\.wav"):
        read(tmp_path / "empty.wav")


def test_a_tone_is_the_same_tone_at_another_rate():
    """A whole number of periods, so that its spectrum is one line: exact."""
    for rate in (8000, 44_100):
        tone, wanted = (torch.sin(2 * torch.pi * 440 * torch.arange(own).double() / own) for own in (rate, 16_000))
        torch.testing.assert_close(resampled(tone, rate, 16_000), wanted.float(), rtol=0, atol=1e-6)


def test_a_recording_cut_inside_a_frame_is_read_up_to_there_and_other_damage_is_a_line(tmp_path):
    whole, cut = tmp_path / "whole.wav", tmp_path / "cut.wav"
    with wave.open(str(whole), "wb") as file:
        file.setparams((2, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.arange(20, dtype="<i2").tobytes())
    data = whole.read_bytes()
    cut.write_bytes(data[:-2])
    assert read(cut)[0].tolist() == read(whole)[0][:-1].tolist()
    damages = {
        "its header says 0 samples a second": data[:24] + struct.pack("<I", 0) + data[28:],
        "ffmpeg -i cut.wav -c:a pcm_s16le whole.wav": data[:20] + struct.pack("<H", 3) + data[22:],
    }
    for words, damaged in damages.items():
        cut.write_bytes(damaged)
        with pytest.raises(TextError, match=words):
            read(cut)


def test_a_file_of_the_other_kind_is_not_taken_for_a_damaged_one(tmp_path):
    for what, other, name in (("sound", "images", "a.png"), ("images", "sound", "a.wav")):
        (tmp_path / name).touch()
        with pytest.raises(UsageError, match=f"{name}: the model takes {what}, not {other}"):
            files_of(what, [str(tmp_path / name)])
