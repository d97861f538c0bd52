"""Reductions of ML Programs against torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mil_harness import Case, check, check_half, check_inferred, every, normal, whole
from torch import Tensor

X = normal(2, 3, 4)
INTS = whole(-5, 6, 2, 3, 4)
POSITIVE = np.abs(X) + np.float32(0.5)


def truncated(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Whole numbers in, whole numbers out: coremltools computes in floats and casts."""
    return lambda x: function(x.double()).to(torch.int32)


def prod(x: Tensor) -> Tensor:
    return x.prod(0).prod(1)


REDUCTIONS: list[tuple[str, Any, Callable[..., Any]]] = [
    ("reduce_l1_norm", X, lambda x, *a, **k: x.abs().sum(*a, **k)),
    ("reduce_l2_norm", X, lambda x, *a, **k: x.square().sum(*a, **k).sqrt()),
    ("reduce_log_sum", POSITIVE, lambda x, *a, **k: x.sum(*a, **k).log()),
    (
        "reduce_log_sum_exp",
        X * 20,
        lambda x, *a, **k: x.logsumexp(*a, **k) if a else x.flatten().logsumexp(0),
    ),
    ("reduce_max", X, lambda x, *a, **k: x.amax(*a, **k)),
    ("reduce_mean", X, lambda x, *a, **k: x.mean(*a, **k)),
    ("reduce_min", X, lambda x, *a, **k: x.amin(*a, **k)),
    ("reduce_sum", X, lambda x, *a, **k: x.sum(*a, **k)),
    ("reduce_sum_square", X, lambda x, *a, **k: x.square().sum(*a, **k)),
]


def of(function: Callable[..., Any], *args: Any, **options: Any) -> Callable[[Tensor], Any]:
    return lambda x: function(x, *args, **options)


CASES = [
    case
    for op, x, function in REDUCTIONS
    for case in (
        # coremltools' own logsumexp cannot leave all axes out
        Case(op, "all", {"x": x}, of(function), inferred=op != "reduce_log_sum_exp"),
        Case(op, "axes", {"x": x}, of(function, (0, 2)), {"axes": [-1, 0]}),
        Case(op, "kept", {"x": x}, of(function, (1,), keepdim=True), {"axes": [1], "keep_dims": True}),
    )
] + [
    Case("reduce_prod", "all", {"x": X}, lambda x: x.prod()),
    Case("reduce_prod", "axes", {"x": X}, prod, {"axes": [0, 2]}),
    Case("reduce_prod", "kept", {"x": X}, lambda x: x.prod(1, keepdim=True), {"axes": [1], "keep_dims": True}),
    Case("reduce_sum", "int", {"x": INTS}, lambda x: x.sum(1).int(), {"axes": [1]}, half=False),
    Case("reduce_max", "int", {"x": INTS}, lambda x: x.amax(1), {"axes": [1]}, half=False),
    Case("reduce_mean", "int", {"x": INTS}, truncated(lambda x: x.mean(1)), {"axes": [1]}, half=False),
    Case("reduce_l2_norm", "int", {"x": INTS}, truncated(lambda x: x.norm(dim=2)), {"axes": [2]}, half=False),
    Case("reduce_argmax", "default", {"x": X}, lambda x: x.argmax(-1).int()),
    Case("reduce_argmax", "kept", {"x": X}, lambda x: x.argmax(1, keepdim=True).int(), {"axis": 1, "keep_dims": True}),
    Case("reduce_argmax", "int", {"x": INTS}, lambda x: torch.from_numpy(np.argmax(x.numpy(), -1)), half=False),
    Case("reduce_argmax", "uint16", {"x": X}, lambda x: x.argmax(0).int(), {"axis": 0, "output_dtype": "uint16"},
         opset=17),
    Case("reduce_argmin", "default", {"x": X}, lambda x: x.argmin(-1).int()),
    Case("reduce_argmin", "kept", {"x": X}, lambda x: x.argmin(0, keepdim=True).int(), {"axis": 0, "keep_dims": True}),
]  # fmt: skip


@every(CASES)
def test_as_torch(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@every([case for case in CASES if case.half])
def test_half_is_rounded_once(case: Case, tmp_path: Path) -> None:
    check_half(case, tmp_path)


@every([case for case in CASES if case.inferred])
def test_coremltools_infers_the_same(case: Case) -> None:
    assert check_inferred(case)
