"""Compressed constants and quantised tensors of ML Programs: against numpy, and against coremltools' decompression."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mil_harness import Case, check, check_inferred, every, normal, quiet, saved, whole

from nagedge.runtimes.mil_program import load_program

X = normal(4, 6)
INT8 = whole(-128, 128, 4, 6).astype(np.int8)
UINT8 = whole(0, 256, 4, 6, seed=1).astype(np.uint8)
SCALES = np.float32([0.5, 0.25, 2.0, 1.0])
TABLE = normal(16, seed=3)
INDICES = whole(0, 16, 4, 6, seed=4).astype(np.uint8)
MASK = np.random.default_rng(5).random((4, 6)) < 0.4
KEPT = normal(int(MASK.sum()), seed=6)


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Pack numbers from the least significant bit on."""
    number = sum(int(value) << (i * bits) for i, value in enumerate(values.reshape(-1)))
    return np.frombuffer(number.to_bytes(-(-values.size * bits // 8), "little"), np.uint8)


def subbyte(array: np.ndarray, name: str) -> np.ndarray:
    """Return an array of one of coremltools' types of less than a byte."""
    with quiet():
        from coremltools.converters.mil.mil import types

    return array.astype(types.nptype_from_builtin(types.string_to_builtin(name)))


def sparse(values: np.ndarray) -> np.ndarray:
    dense = np.zeros(MASK.shape, values.dtype)
    dense[MASK] = values
    return dense


ROUNDED = np.repeat(np.repeat(np.float32([[0.5, 2.0, 1.0], [0.25, 1.0, 4.0]]), 2, 0), 2, 1)
BLOCKS = ROUNDED[::2, ::2].copy()
LOW = whole(-8, 8, 4, 6, seed=7)
TABLES = normal(2, 1, 4, 1, seed=8)
TWO_BITS = whole(0, 4, 4, 6, seed=9).astype(np.uint8)
VECTORS = normal(1, 1, 2, 3, seed=10)
ONE_BIT = whole(0, 2, 4, 6, seed=11).astype(np.uint8)

Expected = Callable[[], np.ndarray]
CONSTANTS: dict[str, tuple[str, dict[str, Any], Expected, int]] = {
    "affine-int8": ("constexpr_affine_dequantize",
        {"quantized_data": INT8, "zero_point": np.int8(3), "scale": np.float32(0.5), "axis": np.int32(0)},
        lambda: (INT8.astype(np.float32) - 3) * np.float32(0.5), 16),
    "affine-uint8-vectors": ("constexpr_affine_dequantize",
        {"quantized_data": UINT8, "zero_point": np.uint8([1, 2, 3, 128]), "scale": SCALES, "axis": np.int32(0)},
        lambda: (UINT8.astype(np.float32) - np.float32([[1], [2], [3], [128]])) * SCALES[:, None], 16),
    "affine-float-zero": ("constexpr_affine_dequantize",
        {"quantized_data": UINT8, "zero_point": np.float32(0.5), "scale": np.float32(0.25), "axis": np.int32(1)},
        lambda: (UINT8.astype(np.float32) - np.float32(0.5)) * np.float32(0.25), 16),
    "affine-fp16": ("constexpr_affine_dequantize",
        {"quantized_data": INT8, "zero_point": np.int8(0), "scale": SCALES.astype(np.float16), "axis": np.int32(0)},
        lambda: (INT8 * SCALES[:, None]).astype(np.float16), 16),
    "cast": ("constexpr_cast", {"source_val": X.astype(np.float16), "output_dtype": "fp32"}, lambda: X, 16),
    "cast-18": ("constexpr_cast", {"source_val": X.astype(np.float16), "output_dtype": "fp32"}, lambda: X, 18),
    **{
        f"lut-{bits}-bits": ("constexpr_lut_to_dense",
            {"indices": packed((INDICES & ((1 << bits) - 1)), bits), "lut": normal(1 << bits, seed=bits),
            "shape": np.uint32([4, 6])},
            lambda bits=bits: normal(1 << bits, seed=bits)[(INDICES & ((1 << bits) - 1))], 16)
        for bits in (1, 2, 4, 6, 8)
    },
    "lut-odd": ("constexpr_lut_to_dense",
        {"indices": packed(INDICES.reshape(-1)[:5], 4), "lut": TABLE, "shape": np.uint32([5])},
        lambda: TABLE[INDICES.reshape(-1)[:5]], 16),
    "lut-int8": ("constexpr_lut_to_dense",
        {"indices": packed(INDICES, 4), "lut": np.arange(-8, 8, dtype=np.int8), "shape": np.uint32([4, 6])},
        lambda: INDICES.astype(np.int8) - 8, 17),
    "sparse": ("constexpr_sparse_to_dense",
        {"nonzero_data": KEPT, "mask": packed(MASK, 1), "shape": np.uint32([4, 6])}, lambda: sparse(KEPT), 16),
    "blockwise-int8": ("constexpr_blockwise_shift_scale", {"data": INT8, "scale": BLOCKS},
        lambda: INT8.astype(np.float32) * ROUNDED, 18),
    "blockwise-int4-offset": ("constexpr_blockwise_shift_scale",
        {"data": subbyte(LOW, "int4"), "scale": BLOCKS, "offset": subbyte(np.int8([[1, -2, 3], [0, 7, -8]]), "int4")},
        lambda: (LOW - np.kron(np.int8([[1, -2, 3], [0, 7, -8]]), np.ones((2, 2)))).astype(np.float32) * ROUNDED, 18),
    "blockwise-uint4-channels": ("constexpr_blockwise_shift_scale",
        {"data": subbyte(INDICES, "uint4"), "scale": SCALES[:, None]},
        lambda: INDICES.astype(np.float32) * SCALES[:, None], 18),
    "blockwise-fp16": ("constexpr_blockwise_shift_scale",
        {"data": INT8, "scale": BLOCKS.astype(np.float16), "offset": BLOCKS.astype(np.float16)},
        lambda: ((INT8 - ROUNDED) * ROUNDED).astype(np.float16), 18),
    "lut-groups": ("constexpr_lut_to_dense",
        {"indices": subbyte(TWO_BITS, "uint2"), "lut": TABLES},
        lambda: np.concatenate([TABLES[0, 0, TWO_BITS[:2], 0], TABLES[1, 0, TWO_BITS[2:], 0]]), 18),
    **{
        f"lut-vectors-{axis}": ("constexpr_lut_to_dense",
            {"indices": subbyte(ONE_BIT, "uint1"), "lut": VECTORS, "vector_axis": np.int32(axis)},
            lambda axis=axis: np.moveaxis(VECTORS[0, 0][ONE_BIT], -1, axis + 1).reshape(
                [12, 6] if axis == 0 else [4, 18]), 18)
        for axis in (0, 1)
    },
    **{
        f"lut-uint{bits}": ("constexpr_lut_to_dense",
            {"indices": subbyte((INDICES & ((1 << bits) - 1)), f"uint{bits}"), "lut": normal(1, 1, 1 << bits, 1,
            seed=bits)},
            lambda bits=bits: normal(1, 1, 1 << bits, 1, seed=bits)[0, 0, (INDICES & ((1 << bits) - 1)), 0], 18)
        for bits in (1, 2, 3, 4, 6)
    },
    "sparse-18": ("constexpr_sparse_to_dense",
        {"nonzero_data": KEPT, "mask": subbyte(MASK.astype(np.uint8), "uint1")}, lambda: sparse(KEPT), 18),
}  # fmt: skip


def added(op: str, arguments: dict[str, Any]) -> Callable[..., Any]:
    """Build ``x + constant``: Core ML wants an input."""

    def build(x: Any) -> Any:
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

        constant = getattr(mb, op)(**arguments)
        return mb.identity(x=constant), mb.identity(x=x)

    return build


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_are_decompressed(name: str, tmp_path: Path) -> None:
    op, arguments, expected, opset = CONSTANTS[name]
    one = {"x": np.float32([1])}
    got, _ = load_program(saved(added(op, arguments), one, tmp_path, opset=opset)).run(one).values()
    wanted = expected()
    if wanted.dtype == np.int8:  # Core ML's border has no int8 before iOS 26
        assert np.array_equal(got, wanted)
        return
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(got, wanted, rtol=1e-3 if wanted.dtype == np.float16 else 1e-6)


@pytest.mark.parametrize("name", CONSTANTS)
def test_coremltools_decompresses_to_the_same(name: str) -> None:
    op, arguments, expected, opset = CONSTANTS[name]
    with quiet():
        import coremltools as ct
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
        from coremltools.converters.mil.mil import Function

        with Function(
            {"unused": mb.placeholder(shape=(1,))}, opset_version=getattr(ct.target, f"iOS{opset}")
        ):
            value = getattr(mb, op)(**arguments).op.materialized_val_inference()
    np.testing.assert_allclose(value, expected(), rtol=1e-3)


def test_sparse_constants_of_two_results(tmp_path: Path) -> None:
    mask = subbyte(MASK.astype(np.uint8), "uint1")
    one_bit = ONE_BIT.reshape(-1)[: KEPT.size]

    def build(x: Any) -> Any:
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

        by_table = mb.constexpr_lut_to_sparse(
            indices_mask=mask,
            indices_nonzero_data=subbyte(one_bit, "uint1"),
            lut=VECTORS,
            vector_axis=np.int32(0),
        )
        by_scale = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask, nonzero_data=INT8.reshape(-1)[: KEPT.size], scale=BLOCKS
        )
        dense = [
            mb.constexpr_sparse_to_dense(nonzero_data=values, mask=bits)
            for bits, values in (by_table, by_scale)
        ]
        return [mb.identity(x=value) for value in dense] + [mb.identity(x=x)]

    one = {"x": np.float32([1])}
    table, scaled, _ = load_program(saved(build, one, tmp_path, opset=18)).run(one).values()
    vectors = np.zeros((4, 6, 3), np.float32)
    vectors[MASK] = VECTORS[0, 0][one_bit]
    np.testing.assert_array_equal(table, np.moveaxis(vectors, -1, 1).reshape(12, 6))
    np.testing.assert_array_equal(scaled, sparse(INT8.reshape(-1)[: KEPT.size]).astype(np.float32) * ROUNDED)


def quantized(array: Any, scale: Any, zero: Any, low: int, high: int) -> torch.Tensor:
    return torch.from_numpy(np.clip(np.rint(array / scale) + zero, low, high))


CASES = [
    Case("quantize", "scalar", {"input": X * 40}, lambda x: quantized(x.numpy(), 0.5, 3, -128, 127),
         {"scale": np.float32(0.5), "zero_point": np.int8(3), "output_dtype": "int8"}, opset=17),
    Case("quantize", "vector", {"input": X * 40}, lambda x: quantized(x.numpy(), SCALES[:, None], 128, 0, 255),
         {"scale": SCALES, "zero_point": np.uint8([128] * 4), "axis": np.int32(0), "output_dtype": "uint8"}, opset=17),
    Case("quantize", "default", {"input": X * 40}, lambda x: quantized(x.numpy(), 0.25, 0, -128, 127),
         {"scale": np.float32(0.25), "output_dtype": "int8"}, opset=17),
]  # fmt: skip


@every(CASES)
def test_as_numpy(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@every(CASES)
def test_coremltools_infers_the_same(case: Case) -> None:
    assert check_inferred(case)


@pytest.mark.parametrize("axis", [None, 1])
def test_dequantize_undoes_quantize(axis: int | None, tmp_path: Path) -> None:
    scale = np.float32(0.5) if axis is None else np.float32([0.5, 0.25, 1, 2, 0.5, 4])
    zero = np.int8(3) if axis is None else np.int8([1, 2, 3, 0, -1, -2])
    given = {"scale": scale, "zero_point": zero, **({} if axis is None else {"axis": np.int32(axis)})}

    def build(x: Any) -> Any:
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

        return mb.dequantize(input=mb.quantize(input=x, output_dtype="int8", **given), **given)

    fed = {"x": np.clip(X * 8, -30, 30)}
    (got,) = load_program(saved(build, fed, tmp_path, opset=17)).run(fed).values()
    levels = np.clip(np.rint(fed["x"] / scale) + zero, -128, 127)
    np.testing.assert_allclose(got, (levels - zero) * scale, rtol=1e-6)
