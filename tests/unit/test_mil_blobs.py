"""The weight file of a package, as Apple's own writer writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mil_harness import normal, quiet, whole

from nagedge.runtimes.mil_program.blobs import BlobFile
from nagedge.runtimes.mil_program.dtypes import BY_NAME, fit

BLOBS: dict[str, tuple[str, np.ndarray]] = {
    "fp32": ("write_float_data", normal(3, 5)),
    "int8": ("write_int8_data", whole(-128, 128, 3, 5).astype(np.int8)),
    "uint8": ("write_uint8_data", whole(0, 256, 3, 5).astype(np.uint8)),
    "int16": ("write_int16_data", whole(-(2**15), 2**15, 3, 5).astype(np.int16)),
    "uint16": ("write_uint16_data", whole(0, 2**16, 3, 5).astype(np.uint16)),
    "int32": ("write_int32_data", whole(-(2**31), 2**31 - 1, 3, 5)),
    "uint32": ("write_uint32_data", np.random.default_rng(0).integers(0, 2**32, (3, 5), dtype=np.uint32)),
    "fp16": ("write_fp16_data", normal(3, 5).astype(np.float16)),
    "int4": ("write_int4_data", whole(-8, 8, 3, 5).astype(np.int8)),
    **{
        f"uint{bits}": (f"write_uint{bits}_data", whole(0, 1 << bits, 3, 5).astype(np.uint8))
        for bits in (1, 2, 3, 4, 6)
    },
}


def test_every_type_of_apples_writer_is_read(tmp_path: Path) -> None:
    with quiet():
        from coremltools.libmilstoragepython import _BlobStorageWriter
    path = tmp_path / "weight.bin"
    writer = _BlobStorageWriter(str(path))
    offsets = {}
    for name, (method, array) in BLOBS.items():
        flat = array.reshape(-1)
        offsets[name] = getattr(writer, method)(flat.view(np.uint16) if name == "fp16" else flat)
    del writer
    file = BlobFile(path)
    for name, (_, array) in BLOBS.items():
        got = file.read(offsets[name], BY_NAME[name], (3, 5))
        assert got.dtype == BY_NAME[name].carrier
        np.testing.assert_array_equal(got.numpy().astype(np.float64), array.astype(np.float64), err_msg=name)


@pytest.mark.parametrize(
    ("name", "values", "wanted"),
    [
        ("uint16", [-1, 65536, 7], [65535, 0, 7]), ("int4", [8, -9, -8], [-8, 7, -8]), ("uint4", [16, -1, 3], [0,
        15, 3]),
        ("int8", [128, -129], [-128, 127]), ("uint32", [-1, 2**32], [2**32 - 1, 0]),
    ],
)  # fmt: skip
def test_integers_wrap_into_their_range(name: str, values: list[int], wanted: list[int]) -> None:
    assert fit(torch.tensor(values), BY_NAME[name]).tolist() == wanted
