"""Log-mel features of sound, in numpy alone, with every parameter stored."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

__all__ = ["LogMel"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LogMel:
    """From a waveform to ``log(mel power + 1e-6)``, an image of ``frames`` by ``mels``.

        frames: ``window`` samples every ``hop`` samples, whole ones only; Hann window, power spectrum
        mel(f) = 2595 log10(1 + f / 700); triangles between ``mels`` + 2 points, evenly spaced in mel from
        ``lowest_hz`` to ``highest_hz``, of height 1

    Args:
        sample_rate: in Hz. window, hop: in samples. mels: bands.
        lowest_hz, highest_hz: ends of the bands.
    """

    kind: ClassVar[str] = "log_mel"
    sample_rate: int
    window: int
    hop: int
    mels: int
    lowest_hz: float
    highest_hz: float

    def apply(self, x: Array) -> Array:
        """Return float32 ``[n, 1, frames, mels]`` from waveforms ``[n, samples]`` in [-1, 1]."""
        starts = np.arange(0, x.shape[1] - self.window + 1, self.hop)
        places = starts[:, None] + np.arange(self.window)
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        bands = _triangles(self.sample_rate, self.window, self.mels, self.lowest_hz, self.highest_hz)
        features = np.empty((len(x), 1, len(starts), self.mels), dtype=np.float32)
        for row, wave in enumerate(x):
            power = np.abs(np.fft.rfft(wave[places] * hann, axis=1)) ** 2 / self.window
            features[row, 0] = np.log(power @ bands + 1e-6)
        return features


@functools.cache
def _triangles(rate: int, window: int, mels: int, lowest: float, highest: float) -> npt.NDArray[np.float64]:
    """Return the weights of the bands, ``[window // 2 + 1, mels]``."""
    ends = 2595 * np.log10(1 + np.array([lowest, highest]) / 700)
    points = 700 * (10 ** (np.linspace(float(ends[0]), float(ends[1]), mels + 2) / 2595) - 1)
    hertz = np.arange(window // 2 + 1) * rate / window
    rising = (hertz[:, None] - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - hertz[:, None]) / (points[2:] - points[1:-1])
    bands: npt.NDArray[np.float64] = np.clip(np.minimum(rising, falling), 0, None)
    return bands
