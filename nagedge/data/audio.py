"""Folders of short sounds with a table of labels."""

from __future__ import annotations

import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.data.cleaning import Finding
from nagedge.data.images import inside
from nagedge.data.raw import RawExamples
from nagedge.data.tables import read_columns, table_targets
from nagedge.errors import ConfigurationError
from nagedge.specs import TaskSpec

__all__ = ["decode_sound", "fitted_wave", "read_audio", "resampled"]

Wave = npt.NDArray[np.float32]
_SILENCE = 0.05
"""A sound begins where it first exceeds this part of its largest value; a twentieth of a second before it is kept."""


def decode_sound(path: Path) -> tuple[Wave, int] | str:
    """Return a mono waveform in [-1, 1] and its sample rate in Hz, or what is wrong with the file.

    WAV with integer samples is read by itself; all else (Ogg, FLAC, MP3) by the package ``soundfile``.

    Raises:
        ConfigurationError: a file that needs ``soundfile``, which is not installed.
    """
    if not path.is_file():
        return "no such file"
    if path.suffix.lower() == ".wav":
        try:
            return _decode_wav(path)
        except (wave.Error, EOFError, ValueError):
            pass  # floating-point and compressed WAV are soundfile's
    try:
        import soundfile
    except ImportError:
        raise ConfigurationError(
            f"{path} is no WAV with integer samples; other sounds need soundfile, which is not installed:"
            " pip install 'nagedge[audio]'."
        ) from None
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        return f"a damaged sound ({error})"
    return samples.mean(axis=1, dtype=np.float32), int(rate)


def _decode_wav(path: Path) -> tuple[Wave, int]:
    with wave.open(str(path), "rb") as file:
        width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
        content = np.frombuffer(file.readframes(file.getnframes()), dtype=np.uint8)
    if width == 1:
        values = (content.astype(np.float32) - 128) / 128
    else:
        bytes_ = content.reshape(-1, width).astype(np.int64)
        whole = (bytes_ << (8 * np.arange(width))).sum(axis=1)
        top = 1 << (8 * width - 1)
        values = (np.where(whole >= top, whole - 2 * top, whole) / top).astype(np.float32)
    return values.reshape(-1, channels).mean(axis=1, dtype=np.float32), rate


def resampled(samples: Wave, rate: int, wanted: int) -> Wave:
    """Return the waveform at another sample rate: its spectrum, cut off or padded, so that nothing is mirrored."""
    if rate == wanted or len(samples) == 0:
        return samples
    count = max(1, round(len(samples) * wanted / rate))
    spectrum = np.fft.rfft(samples)
    kept = np.zeros(count // 2 + 1, dtype=np.complex128)
    shared = min(len(kept), len(spectrum))
    kept[:shared] = spectrum[:shared]
    return (np.fft.irfft(kept, count) * (count / len(samples))).astype(np.float32)


def fitted_wave(samples: Wave, rate: int, count: int) -> Wave:
    """Return ``count`` samples from shortly before the sound begins; silence fills what is short."""
    loud = np.abs(samples) > _SILENCE * max(float(np.abs(samples).max(initial=0.0)), 1e-9)
    first = max(0, int(np.argmax(loud)) - rate // 20)
    fitted = np.zeros(count, dtype=np.float32)
    part = samples[first : first + count]
    fitted[: len(part)] = part
    return fitted


def read_audio(
    folder: Path,
    tasks: Sequence[TaskSpec],
    *,
    labels: str,
    sample_rate: int,
    seconds: float,
    targets: Mapping[str, str | Sequence[str]] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
) -> RawExamples:
    """Read the sounds that a table names; the input is float32 ``[n, samples]`` in [-1, 1].

    Args:
        folder: the data set.
        tasks: what is read.
        labels: name of a CSV file in the folder with a ``file`` column and the target columns.
        sample_rate: in Hz. seconds: length of every example.
        targets: task name -> its column, or its columns. classes: task name -> class names in label order.

    Raises:
        DataError: a table that does not fit; a damaged sound is a finding, not an error.
        ConfigurationError: see :func:`decode_sound`.
    """
    mapping = {task.name: (targets or {}).get(task.name, task.name) for task in tasks}
    columns = [n for names in mapping.values() for n in ([names] if isinstance(names, str) else names)]
    table = read_columns(folder / labels, ["file", *columns])
    files = [inside(folder, name, row) for row, name in enumerate(table.text("file"), 1)]
    raw_targets: dict[str, npt.NDArray[Any]] = table_targets(table, tasks, mapping, classes or {})
    count = round(sample_rate * seconds)
    waves = np.zeros((len(files), count), dtype=np.float32)
    errors: dict[int, str] = {}
    for row, name in enumerate(files):
        decoded = decode_sound(folder / name)
        if isinstance(decoded, str):
            errors[row] = decoded
            continue
        waves[row] = fitted_wave(resampled(*decoded, sample_rate), sample_rate, count)
    damaged = np.zeros(len(files), dtype=np.bool_)
    damaged[list(errors)] = True
    unreadable = Finding("unreadable sound", damaged, lambda row: errors[row], "a sound file")
    return RawExamples(
        str(folder), waves, raw_targets, None, tuple(files), findings=(unreadable, *table.findings)
    )
