"""Sound: WAV files, resampling, log-mel features, a run from a folder to a bundle."""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

import nagedge
from nagedge.data.audio import decode_sound, fitted_wave, resampled
from nagedge.data.load import load_data, load_examples
from nagedge.data.log_mel import LogMel
from nagedge.data.preprocessing import Preprocessing
from nagedge.errors import ConfigurationError, DataError
from nagedge.training.fit import train
from nagedge.training.run import Run, parse_run


def write_wav(path: Path, samples: np.ndarray, rate: int, width: int = 2, channels: int = 1) -> None:
    top = 2 ** (8 * width - 1)
    whole = np.round(np.clip(samples, -1, 1) * (top - 1)).astype(np.int64) + (128 if width == 1 else 0)
    content = (whole.reshape(-1, 1) >> (8 * np.arange(width))) & 255
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.repeat(content.astype(np.uint8), channels, axis=0).tobytes())


def tone(hertz: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_integer_wav_of_every_width(width: int, channels: int, tmp_path: Path) -> None:
    write_wav(tmp_path / "x.wav", tone(440, 8000), 8000, width, channels)
    decoded = decode_sound(tmp_path / "x.wav")
    assert not isinstance(decoded, str)
    assert decoded[1] == 8000
    assert decoded[0] == pytest.approx(tone(440, 8000), abs=1e-7 + 2 / 2 ** (8 * width - 1))


def test_resampling_keeps_a_tone_and_drops_what_cannot_be_kept() -> None:
    down = resampled(tone(440, 16000).astype(np.float32), 16000, 8000)
    assert down == pytest.approx(tone(440, 8000), abs=1e-3)
    up = resampled(tone(440, 8000).astype(np.float32), 8000, 16000)
    assert up == pytest.approx(tone(440, 16000), abs=1e-3)
    assert np.abs(resampled(tone(6000, 16000).astype(np.float32), 16000, 8000)).max() < 1e-2


def test_an_example_begins_with_its_sound() -> None:
    late = np.concatenate([np.zeros(3000), tone(440, 8000)]).astype(np.float32)
    fitted = fitted_wave(late, 8000, 8000)
    assert len(fitted) == 8000
    assert 395 < np.argmax(np.abs(fitted) > 0.01) < 405  # a twentieth of a second of what came before
    assert not fitted_wave(np.zeros(10, np.float32), 8000, 20).any()


def test_log_mel_is_that_of_torchs_spectrogram() -> None:
    step = LogMel(8000, 256, 80, 20, 50.0, 4000.0)
    sound = np.random.default_rng(0).standard_normal((2, 4000)).astype(np.float32)
    features = step.apply(sound)
    assert features.shape == (2, 1, 1 + (4000 - 256) // 80, 20)
    window = torch.hann_window(256, periodic=True, dtype=torch.float64)
    spectrum = torch.stft(
        torch.from_numpy(sound).double(), 256, 80, window=window, center=False, return_complex=True
    )
    power = (spectrum.abs() ** 2 / 256).numpy()
    # a band is a triangle between its neighbours' centres: check one by hand
    points = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([50, 4000]) / 700)), 22) / 2595) - 1)
    hertz = np.arange(129) * 8000 / 256
    low, centre, high = points[7:10]
    weights = np.clip(np.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre)), 0, None)
    assert features[:, 0, :, 7] == pytest.approx(
        np.log(np.einsum("nft,f->nt", power, weights) + 1e-6), abs=1e-4
    )


def test_a_tone_is_loudest_in_its_band() -> None:
    step = LogMel(16000, 640, 320, 40, 20.0, 8000.0)
    bands = [int(step.apply(tone(h, 16000)[None]).mean(axis=2)[0, 0].argmax()) for h in (300, 1000, 3000)]
    assert bands == sorted(bands)
    assert bands[1] == pytest.approx(40 * 1000 / 2840, abs=2)  # 1000 Hz are 1000 mel of 2840


def make_folder(folder: Path, rows: int = 60) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    lines = ["file,pitch"]
    for row in range(rows):
        high = bool(rng.integers(2))
        rate = int(rng.choice([8000, 11025, 16000]))
        sound = tone(1600 if high else 400, rate, 0.2) + 0.05 * rng.standard_normal(int(rate * 0.2))
        write_wav(folder / f"{row}.wav", sound, rate)
        lines.append(f"{row}.wav,{'high' if high else 'low'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def run_of(folder: Path, **preprocessing: object) -> Run:
    document = {
        "data": {
            "source": "audio", "path": str(folder), "labels": "labels.csv", "classes": {"pitch": ["low", "high"]},
            "preprocessing": {
                "normalise": "train",
                "log_mel": {"sample_rate": 8000, "seconds": 0.2, "mels": 16, "lowest_hz": 50},
                **preprocessing,
            },
        },
        "model": {"trunk": "ds_cnn", "channels": [4, 8]},
        "tasks": {"pitch": {"kind": "classification", "size": 2}},
        "schedule": {"epochs": 12},
        "batch_size": 8,
    }  # fmt: skip
    return parse_run(document, where="test")


def test_from_a_folder_to_a_bundle(tmp_path: Path) -> None:
    make_folder(tmp_path / "sounds")
    checkpoint = train(run_of(tmp_path / "sounds"), out=tmp_path / "c")
    assert checkpoint.state.test["pitch"]["accuracy"] == 1.0
    assert checkpoint.input.shape == ("batch", 1, 9, 16)
    assert Preprocessing.from_json(checkpoint.preprocessing.to_json()) == checkpoint.preprocessing
    bundle = nagedge.export(checkpoint, targets=["any-any-onnxruntime-fp32-train"], out=tmp_path / "b")
    assert all(c.within_tolerance for c in nagedge.verify(bundle, steps=3))
    examples, _ = load_examples(
        tmp_path / "sounds", checkpoint.tasks, checkpoint.preprocessing, checkpoint.input
    )
    assert examples.inputs["sound"].shape == (60, 1, 9, 16)


def test_a_damaged_sound_is_named_or_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "sounds", 12)
    (tmp_path / "sounds" / "3.wav").unlink()
    run = run_of(tmp_path / "sounds")
    with pytest.raises(DataError, match=r"3\.wav: unreadable sound: got no such file"):
        load_data(run.data, run.task_specs())
    run = run_of(tmp_path / "sounds", bad_rows="drop")
    assert load_data(run.data, run.task_specs()).report.rows_kept == 11
    (tmp_path / "sounds" / "3.wav").write_bytes(b"OggS nothing")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'nagedge\[audio\]'"):
        load_data(run.data, run.task_specs())
