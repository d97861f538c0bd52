"""Slices, gathering and scattering in ML Programs against torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mil_harness import Case, check, check_half, check_inferred, every, normal, saved, whole
from torch import Tensor

from nagedge.errors import BundleError
from nagedge.runtimes.mil_program import load_program

X = normal(3, 4, 5)
INTS = whole(-9, 10, 3, 4, 5)


def sliced(*key: Any) -> Callable[[Tensor], Tensor]:
    """Index as numpy does: torch has no negative steps."""
    return lambda x: torch.from_numpy(np.ascontiguousarray(x.numpy()[key]))


def cut(label: str, expected: Any, begin: Any, end: Any, x: np.ndarray = X, **constants: Any) -> Case:
    opset = constants.pop("opset", 16)
    return Case(
        "slice_by_index", label, {"x": x}, expected, {"begin": begin, "end": end, **constants}, opset=opset,
        half=x.dtype == np.float32,
    )  # fmt: skip


S, ALL = slice, slice(None)

SLICES = [
    cut("default", sliced(S(1, 3), S(0, 4), S(2, 5)), [1, 0, 2], [3, 4, 5]),
    cut("negative", sliced(S(-2, -1), S(1, -1), S(-5, 5)), [-2, 1, -5], [-1, -1, 5]),
    cut("stride", sliced(S(0, 3, 2), S(1, 4, 3), ALL), [0, 1, 0], [3, 4, 5], stride=[2, 3, 1]),
    cut("masks", sliced(S(None, 2), S(1, None), ALL), [2, 1, 4], [2, 1, 0],
        begin_mask=[True, False, True], end_mask=[False, True, True]),
    cut("backward", sliced(S(2, 0, -1), S(None, None, -2), S(4, None, -3)), [2, 0, 4], [0, 0, 0], stride=[-1, -2, -3],
        begin_mask=[False, True, False], end_mask=[False, True, True]),
    cut("squeeze", sliced(-1, ALL, 2), [-1, 0, 2], [0, 0, 0],
        begin_mask=[False, True, False], end_mask=[False, True, False], squeeze_mask=[True, False, True]),
    cut("clamped", sliced(S(1, 99), ALL, S(-99, 3)), [1, 0, -99], [99, 4, 3]),
    cut("int", sliced(S(0, 1), S(1, 3), ALL), [0, 1, 0], [1, 3, 5], INTS),
    cut("int16", sliced(S(0, 1), S(1, 3), ALL), np.int16([0, 1, 0]), np.int16([1, 3, 5]), opset=17),
    Case("slice_by_index", "computed", {"x": X, "begin": np.int32([1, 0, 2]), "end": np.int32([3, -1, 5])},
         lambda x, b, e: x[1:3, :-1, 2:]),
    Case("slice_by_size", "", {"x": X}, lambda x: x[1:3, 2:, 1:2], {"begin": [1, 2, 1], "size": [2, -1, 1]}),
    Case("slice_by_size", "negative", {"x": X}, lambda x: x[-2:, 0:1, -3:-1], {"begin": [-2, 0, -3], "size": [2, 1,
         2]}),
    Case("slice_by_size", "computed", {"x": INTS, "begin": np.int32([0, 1, 2]), "size": np.int32([3, 2, 1])},
         lambda x, b, s: x[:, 1:3, 2:3], half=False),
]  # fmt: skip


def updated(x: Tensor, update: Tensor) -> Tensor:
    result = x.clone()
    result[1:3, ::2, 1] = update.reshape(2, 2)
    return result


UPDATES = [
    Case("slice_update", "", {"x": X, "update": normal(2, 2, 1, seed=3)}, updated,
         {"begin": [1, 0, 1], "end": [3, 4, 2], "stride": [1, 2, 1]}, opset=18),
    Case("slice_update", "squeeze", {"x": X, "update": normal(2, 2, seed=3)}, updated,
         {"begin": [1, 0, 1], "end": [3, 0, 0], "stride": [1, 2, 1], "end_mask": [False, True, False],
          "squeeze_mask": [False, False, True]}, opset=18),
]  # fmt: skip

ROWS = np.int32([[2, 0, 0], [1, 2, 1]])


def gathered(axis: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, i: torch.stack([x.select(axis, int(k)) for k in i.reshape(-1)], axis).unflatten(
        axis, i.shape
    )


GATHERS = [
    Case("gather", "default", {"x": X, "indices": ROWS}, gathered(0), opset=15, half=False),
    Case("gather", "axis", {"x": X, "indices": np.int32([3, 1])}, gathered(1), {"axis": -2}),
    Case("gather", "scalar", {"x": X, "indices": np.int32([2])}, lambda x, i: x[:, :, 2:3], {"axis": 2}),
    Case("gather", "vector", {"x": normal(4), "indices": ROWS}, lambda x, i: x[i.long()]),
    Case("gather", "negative", {"x": X, "indices": np.int32([-1, -3])}, lambda x, i: x[[2, 0]]),
    Case("gather", "int", {"x": INTS, "indices": ROWS}, gathered(0), half=False),
    Case("gather", "validated", {"x": X, "indices": ROWS}, gathered(0), {"validate_indices": True}, opset=17),
    Case("gather", "batch", {"x": X, "indices": np.int32([[0, 4], [1, 1], [3, 2]])},
         lambda x, i: torch.stack([x[b][:, i[b].long()] for b in range(3)]), {"axis": 2, "batch_dims": 1}),
    Case("gather", "two-batches", {"x": X, "indices": whole(0, 5, 3, 4, 2)},
         lambda x, i: x.gather(2, i.long()), {"axis": 2, "batch_dims": 2}),
    Case("gather_along_axis", "default", {"x": X, "indices": whole(0, 3, 2, 4, 5)}, lambda x, i: x.gather(0, i.long())),
    Case("gather_along_axis", "axis", {"x": X, "indices": whole(0, 5, 3, 4, 7)}, lambda x, i: x.gather(2, i.long()),
         {"axis": -1}),
    Case("gather_along_axis", "negative", {"x": X, "indices": whole(-5, 5, 3, 4, 7)},
         lambda x, i: x.gather(2, i.long() % 5), {"axis": 2}),
    Case("gather_nd", "rows", {"x": X, "indices": np.int32([[2], [0]])}, lambda x, i: x[[2, 0]], inferred=False),
    Case("gather_nd", "points", {"x": X, "indices": np.int32([[2, 1, 4], [0, 3, 0]])},
         lambda x, i: x[[2, 0], [1, 3], [4, 0]], inferred=False),
    Case("gather_nd", "batch", {"x": X, "indices": np.int32([[[1, 2]], [[0, 0]], [[3, 4]]])},
         lambda x, i: torch.stack([x[0, 1, 2], x[1, 0, 0], x[2, 3, 4]]).reshape(3, 1), {"batch_dims": 1},
         inferred=False),
]  # fmt: skip

DATA, UPDATE, AT = normal(5, 3), normal(4, 3, seed=1), np.int32([1, 4, 1, 0])
WIDE, WIDE_AT = normal(3, 4, seed=2), np.int32([[0, 2, 0, 1], [2, 2, 1, 0], [0, 1, 2, 2]])
MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "max": torch.maximum, "min": torch.minimum,
}  # fmt: skip


def one_by_one(mode: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Rows of updates into rows of data, one after another."""

    def scatter(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        result = data.clone()
        for row, index in zip(updates, indices.tolist(), strict=True):
            result[index] = row if mode == "update" else MODES[mode](result[index], row)
        return result

    return scatter


def along(mode: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def scatter(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        result = data.clone()
        for i in range(updates.shape[0]):
            for j in range(updates.shape[1]):
                k = int(indices[i, j])
                result[i, k] = MODES[mode](result[i, k], updates[i, j])
        return result

    return scatter


def points(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    result = data.clone()
    for (i, j), value in zip(indices.tolist(), updates, strict=True):
        result[i, j] += value
    return result


SCATTERS = [
    *[
        Case("scatter", mode, {"data": DATA, "indices": AT, "updates": UPDATE}, one_by_one(mode), {"mode": mode},
             rtol=1e-5, half=mode not in {"mul", "div"})
        for mode in MODES
    ],
    Case("scatter", "update", {"data": DATA, "indices": np.int32([3, 0]), "updates": UPDATE[:2]}, one_by_one("update"),
         {"mode": "update"}),
    Case("scatter", "default", {"data": DATA, "indices": AT, "updates": UPDATE}, one_by_one("add")),
    Case("scatter", "axis", {"data": DATA.T.copy(), "indices": AT, "updates": UPDATE.T.copy()},
         lambda d, i, u: one_by_one("add")(d.T, i, u.T).T, {"axis": -1}),
    Case("scatter", "negative", {"data": DATA, "indices": np.int32([-1, 0]), "updates": UPDATE[:2]},
         lambda d, i, u: one_by_one("add")(d, torch.tensor([4, 0]), u)),
    Case("scatter", "int-div", {"data": np.int32([7, -7, 9]), "indices": np.int32([0, 1]), "updates": np.int32([2, 2])},
         lambda d, i, u: torch.tensor([3, -3, 9]), {"mode": "div"}, half=False),
    *[
        Case("scatter_along_axis", mode, {"data": WIDE, "indices": WIDE_AT, "updates": normal(3, 4, seed=5)},
             along(mode),
             {"axis": 1, "mode": mode}, rtol=1e-5, half=mode not in {"mul", "div"}, inferred=False)
        for mode in MODES
    ],
    Case("scatter_along_axis", "update", {"data": WIDE, "indices": np.int32([[1, 3], [0, 2], [2, 1]]),
                                          "updates": normal(3, 2, seed=5)},
         lambda d, i, u: d.scatter(1, i.long(), u), {"axis": -1, "mode": "update"}),
    Case("scatter_nd", "default", {"data": DATA, "indices": np.int32([[1, 2], [4, 0], [1, 2]]),
                                   "updates": np.float32([1, 2, 4])}, points),
    Case("scatter_nd", "rows", {"data": DATA, "indices": AT.reshape(-1, 1), "updates": UPDATE},
         lambda d, i, u: one_by_one("add")(d, i[:, 0], u)),
    Case("scatter_nd", "update", {"data": DATA, "indices": np.int32([[1, 2], [4, 0]]), "updates": np.float32([1, 2])},
         lambda d, i, u: d.index_put((torch.tensor([1, 4]), torch.tensor([2, 0])), u), {"mode": "update"}),
    Case("scatter_nd", "max", {"data": DATA, "indices": AT.reshape(-1, 1), "updates": UPDATE},
         lambda d, i, u: one_by_one("max")(d, i[:, 0], u), {"mode": "max"}),
]  # fmt: skip

CASES = [*SLICES, *UPDATES, *GATHERS, *SCATTERS]


@every(CASES)
def test_as_torch(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@every([case for case in CASES if case.half])
def test_half_is_rounded_once(case: Case, tmp_path: Path) -> None:
    check_half(case, tmp_path)


@every([case for case in CASES if case.inferred and case.op not in {"scatter", "scatter_nd"}])
def test_coremltools_infers_the_same(case: Case) -> None:
    assert check_inferred(case)


@pytest.mark.parametrize(("index", "opset"), [(-1, 17), (-1, 18), (4, 17), (4, 16), (-5, 16)])
def test_an_index_out_of_range_is_an_error(index: int, opset: int, tmp_path: Path) -> None:
    def build(x: Any, indices: Any) -> Any:
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

        return mb.gather(x=x, indices=indices)

    fed = {"x": normal(4, 2), "indices": np.int32([0, index])}
    program = load_program(saved(build, fed, tmp_path, opset=opset))
    lowest = 0 if opset > 16 else -4
    with pytest.raises(
        BundleError, match=re.escape(f"to {max(index, 0)}, expected {lowest} to 3: what Core ML does")
    ):
        program.run(fed)
