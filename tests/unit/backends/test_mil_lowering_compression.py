"""float16, int8 and palettised weights: what is stored, and what comes out of the saved files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lowering_harness import case, normal
from mil_lowering_harness import FREE, packaged, run_once, write_package

from nagedge.backends.mil_lowering import Compression, Options
from nagedge.backends.mil_lowering.compression import palette, palettes, quantized
from nagedge.runtimes.mil_program import load_program


@pytest.mark.parametrize(
    ("value", "stored"), [(-1e9, -65504.0), (1e-12, 2.0**-14), (-np.inf, -np.inf), (0.0, 0.0)]
)
def test_numbers_that_float16_cannot_hold(value: float, stored: float, tmp_path: Path) -> None:
    item = case("full", "", lambda x: x * 0 + torch.full((), value), normal(2))
    options = replace(FREE, half=True)
    program = load_program(write_package(packaged(item, options), tmp_path / "p"))
    (got,) = run_once(program, torch.zeros(3, 2))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, np.full((3, 2), stored, np.float32))


def layer(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x @ w.t())


@pytest.mark.parametrize("opset", [16, 18])
@pytest.mark.parametrize(("kind", "bits", "error"), [("int8", 8, 0.01), ("palette4", 4, 0.14)])
def test_compressed_weights(kind: str, bits: int, error: float, opset: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(96, 64, generator=generator) * torch.linspace(0.2, 1, 96).unsqueeze(1)
    item = case("mm", "", layer, normal(64), constants=(weight,))
    options = Options(opset, half=True, compression=Compression(kind))
    files = packaged(item, options)
    program = load_program(write_package(files, tmp_path / "p"))
    x = torch.randn(5, 64, generator=generator) * 0.1
    (got,) = run_once(program, x)
    expected = layer(x, weight)
    assert (
        float((torch.from_numpy(got) - expected).square().mean().sqrt() / expected.square().mean().sqrt())
        < error
    )
    size = len(files["Data/com.apple.CoreML/weights/weight.bin"])
    assert size < weight.numel() * bits / 8 * 1.1 + 1024


@pytest.mark.parametrize("axis", [0, 1])
def test_int8_rounds_by_half_a_step_a_channel(axis: int) -> None:
    array = np.random.default_rng(0).standard_normal((6, 8, 3)).astype(np.float32)
    array[(slice(None),) * axis + (2,)] = 0.0
    values, scale = quantized(array, axis)
    shape = [-1 if i == axis else 1 for i in range(3)]
    assert (np.abs(values * scale.reshape(shape) - array) <= scale.reshape(shape) / 2 * 1.0001).all()
    assert scale[2] == 1.0


def test_a_palette_is_no_worse_than_an_even_grid_and_exact_for_few_values() -> None:
    array = np.random.default_rng(0).standard_normal(4001).astype(np.float32)
    table, indices = palette(array)
    assert table.shape == (16,)
    error = float(((table[indices] - array) ** 2).mean())
    grid = np.linspace(array.min(), array.max(), 16)
    even = float(((grid[np.abs(array[:, None] - grid).argmin(1)] - array) ** 2).mean())
    assert error < 0.6 * even  # Lloyd-Max for a normal distribution: 0.0095 of the variance
    assert error < 0.0105
    few = np.repeat(np.asarray([0.5, -1.0, 3.0, 0.0], np.float32), 300)
    table, indices = palette(few)
    np.testing.assert_array_equal(table[indices], few)


def test_each_sixteen_channels_have_their_own_palette() -> None:
    array = np.random.default_rng(0).standard_normal((48, 20)).astype(np.float32)
    array[16:32] *= 100
    tables, indices = palettes(array, 0)
    assert tables.shape == (3, 1, 16, 1)
    assert indices.shape == array.shape
    restored = np.concatenate([tables[i].reshape(-1)[indices[16 * i : 16 * i + 16]] for i in range(3)])
    for rows in (slice(0, 16), slice(16, 32), slice(32, 48)):
        error = ((restored - array)[rows] ** 2).mean() / array[rows].var()
        assert error < 0.0105
    assert palettes(array[:47], 0)[0].shape == (1, 1, 16, 1)
    assert palettes(array.T.copy(), 1)[0].shape == (1, 3, 16, 1)
