"""Convolution, pooling and normalisation of ML Programs against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from mil_harness import Case, check, check_half, check_inferred, every, normal
from torch import Tensor

IMAGE, LINE, VOLUME = normal(2, 4, 7, 6), normal(2, 3, 9), normal(1, 2, 5, 4, 6)
BIAS = np.float32([0.5, -1.0, 0.25, 2.0, -0.5, 1.5])
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


def padded(x: Tensor, *pads: int, value: float = 0.0) -> Tensor:
    """Pad as ``before, after`` of the first spatial dimension, then of the second, ..."""
    pairs = list(zip(pads[::2], pads[1::2], strict=True))
    return F.pad(x, [size for pair in reversed(pairs) for size in pair], value=value)


def weight(*shape: int) -> np.ndarray:
    return normal(*shape, seed=7)


def t(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array)


def conv(label: str, x: np.ndarray, w: np.ndarray, expected: Any, **constants: Any) -> Case:
    opset = constants.pop("opset", 16)
    return Case("conv", label, {"x": x}, expected, {"weight": w, **constants}, opset=opset, **CLOSE)


W2, W3, WG = weight(6, 4, 3, 2), weight(5, 2, 2, 3, 2), weight(6, 2, 3, 3)

CONV = [
    conv("default", IMAGE, W2, lambda x: F.conv2d(x, t(W2))),
    conv("bias-strides", IMAGE, W2, lambda x: F.conv2d(x, t(W2), t(BIAS), stride=(2, 1)),
         bias=BIAS, strides=[2, 1], pad_type="valid"),
    conv("custom", IMAGE, W2, lambda x: F.conv2d(padded(x, 1, 2, 0, 3), t(W2)), pad_type="custom", pad=[1, 2, 0, 3]),
    conv("dilated-groups", IMAGE, WG, lambda x: F.conv2d(x, t(WG), dilation=(2, 1), padding=2, groups=2),
         dilations=[2, 1], groups=2, pad_type="custom", pad=[2, 2, 2, 2]),
    # 7 rows, stride 2, kernel 4: 3 rows of padding, the odd one at the end (same) or at the start (same_lower)
    conv("same", IMAGE, weight(3, 4, 4, 2), lambda x: F.conv2d(padded(x, 1, 2, 0, 1), t(weight(3, 4, 4, 2)),
         stride=(2, 1)),
         pad_type="same", strides=[2, 1]),
    conv("same_lower", IMAGE, weight(3, 4, 4, 2),
         lambda x: F.conv2d(padded(x, 2, 1, 1, 0), t(weight(3, 4, 4, 2)), stride=(2, 1)),
         pad_type="same_lower", strides=[2, 1]),
    conv("depthwise", IMAGE, weight(8, 1, 3, 3), lambda x: F.conv2d(x, t(weight(8, 1, 3, 3)), groups=4), groups=4),
    conv("1d", LINE, weight(4, 3, 3), lambda x: F.conv1d(x, t(weight(4, 3, 3)), stride=2, padding=1),
         strides=[2], pad_type="custom", pad=[1, 1]),
    conv("3d", VOLUME, W3, lambda x: F.conv3d(padded(x, 1, 0, 0, 0, 2, 1), t(W3), stride=(1, 1, 2)),
         strides=[1, 1, 2], pad_type="custom", pad=[1, 0, 0, 0, 2, 1]),
    conv("mixed", IMAGE, W2.astype(np.float16), lambda x: F.conv2d(x, t(W2)), opset=17),
    Case("conv", "computed-weight", {"x": IMAGE, "weight": W2}, F.conv2d, **CLOSE),
    Case("conv", "computed-bias", {"x": IMAGE, "weight": W2, "bias": BIAS}, F.conv2d, opset=17, **CLOSE),
]  # fmt: skip

T2, TG = weight(4, 3, 3, 2), weight(4, 2, 3, 3)


def transpose(label: str, w: np.ndarray, expected: Any, x: np.ndarray = IMAGE, **constants: Any) -> Case:
    return Case("conv_transpose", label, {"x": x}, expected, {"weight": w, **constants}, **CLOSE)


TRANSPOSED = [
    transpose("default", T2, lambda x: F.conv_transpose2d(x, t(T2))),
    transpose("strides-custom", T2, lambda x: F.conv_transpose2d(x, t(T2), stride=(2, 3), padding=(1, 0)),
              strides=[2, 3], pad_type="custom", pad=[1, 1, 0, 0]),
    transpose("asymmetric", T2, lambda x: F.conv_transpose2d(x, t(T2), stride=2)[:, :, 1:-2, :-1],
              strides=[2, 2], pad_type="custom", pad=[1, 2, 0, 1]),
    transpose("groups-dilated-bias", TG,
              lambda x: F.conv_transpose2d(x, t(TG), t(BIAS[:4]), groups=2, dilation=2),
              groups=2, dilations=[2, 2], bias=BIAS[:4]),
    # 'same': stride times the size; what the full result has more is cut, the odd one at the end
    transpose("same", T2, lambda x: F.conv_transpose2d(x, t(T2), stride=2)[:, :, :14, :12],
              strides=[2, 2], pad_type="same"),
    transpose("output_shape", T2, lambda x: F.conv_transpose2d(x, t(T2), stride=(2, 2), output_padding=(1, 1)),
              strides=[2, 2], pad_type="custom", pad=[0, 0, 0, 0], output_shape=[2, 3, 16, 13]),
    transpose("1d", weight(3, 2, 3), lambda x: F.conv_transpose1d(x, t(weight(3, 2, 3)), stride=2), LINE, strides=[2]),
    transpose("3d", weight(2, 3, 2, 2, 2), lambda x: F.conv_transpose3d(x, t(weight(2, 3, 2, 2, 2))), VOLUME),
]  # fmt: skip


def l2(x: Tensor, kernel: Any, stride: Any) -> Tensor:
    return (F.avg_pool2d(x.square(), kernel, stride, divisor_override=1)).sqrt()


def pool(op: str, label: str, expected: Any, x: np.ndarray = IMAGE, **constants: Any) -> Case:
    return Case(op, label, {"x": x}, expected, {"pad_type": "valid", **constants}, rtol=1e-5, atol=1e-6)


INF = float("inf")

POOLS = [
    pool("max_pool", "valid", lambda x: F.max_pool2d(x, (2, 3), (2, 1)), kernel_sizes=[2, 3], strides=[2, 1]),
    pool("max_pool", "default-stride", lambda x: F.max_pool2d(x, 2, 1), kernel_sizes=[2, 2]),
    pool("max_pool", "negative-padded", lambda x: F.max_pool2d(padded(x, 1, 2, 0, 1, value=-INF), 3, 2), -np.abs(IMAGE),
         kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 2, 0, 1]),
    pool("max_pool", "same", lambda x: F.max_pool2d(padded(x, 0, 1, 0, 0, value=-INF), 2, 2),
         kernel_sizes=[2, 2], strides=[2, 2], pad_type="same"),
    pool("max_pool", "same_lower", lambda x: F.max_pool2d(padded(x, 1, 0, 0, 0, value=-INF), 2, 2),
         kernel_sizes=[2, 2], strides=[2, 2], pad_type="same_lower"),
    pool("max_pool", "ceil", lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True),
         kernel_sizes=[2, 2], strides=[2, 2], ceil_mode=True),
    pool("max_pool", "ceil-padded", lambda x: F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True),
         kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1], ceil_mode=True),
    pool("max_pool", "1d", lambda x: F.max_pool1d(x, 3, 2), LINE, kernel_sizes=[3], strides=[2]),
    pool("max_pool", "3d", lambda x: F.max_pool3d(x, 2, 2), VOLUME, kernel_sizes=[2, 2, 2], strides=[2, 2, 2]),
    pool("avg_pool", "valid", lambda x: F.avg_pool2d(x, (2, 3), (2, 1)), kernel_sizes=[2, 3], strides=[2, 1]),
    pool("avg_pool", "counts-padding", lambda x: F.avg_pool2d(x, 3, 2, padding=1),
         kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
    pool("avg_pool", "excludes-padding", lambda x: F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False),
         kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1], exclude_padding_from_average=True),
    pool("avg_pool", "asymmetric", lambda x: F.avg_pool2d(padded(x, 0, 2, 1, 0), 3, 1),
         kernel_sizes=[3, 3], pad_type="custom", pad=[0, 2, 1, 0]),
    pool("avg_pool", "ceil", lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
         kernel_sizes=[2, 2], strides=[2, 2], ceil_mode=True),
    pool("avg_pool", "ceil-counts-padding", lambda x: F.avg_pool2d(x, 3, 2, padding=1, ceil_mode=True),
         kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1], ceil_mode=True),
    pool("avg_pool", "ceil-excludes-padding",
         lambda x: F.avg_pool2d(x, 3, 2, padding=1, ceil_mode=True, count_include_pad=False),
         kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1], ceil_mode=True,
         exclude_padding_from_average=True),
    pool("avg_pool", "1d", lambda x: F.avg_pool1d(x, 4, 2, padding=1), LINE,
         kernel_sizes=[4], strides=[2], pad_type="custom", pad=[1, 1]),
    pool("avg_pool", "3d", lambda x: F.avg_pool3d(x, 2, 1), VOLUME, kernel_sizes=[2, 2, 2]),
    pool("l2_pool", "", lambda x: l2(x, (2, 3), (2, 1)), kernel_sizes=[2, 3], strides=[2, 1]),
    pool("l2_pool", "padded", lambda x: l2(padded(x, 1, 0, 0, 1), 3, 2),
         kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 0, 0, 1]),
]  # fmt: skip

MEAN, VARIANCE, GAMMA, BETA = (np.float32(v) for v in (
    [0.5, -0.25, 1.0, 0.0], [1.0, 0.25, 2.0, 0.5], [1.5, -1.0, 0.5, 2.0], [0.25, 0.0, -1.0, 0.5],
))  # fmt: skip


def normalised(
    label: str, op: str, expected: Any, x: np.ndarray = IMAGE, opset: int = 16, **constants: Any
) -> Case:
    return Case(op, label, {"x": x}, expected, constants, opset=opset, **CLOSE)


NORMS = [
    normalised("default", "batch_norm", lambda x: F.batch_norm(x, t(MEAN), t(VARIANCE)), mean=MEAN, variance=VARIANCE),
    normalised("affine", "batch_norm", lambda x: F.batch_norm(x, t(MEAN), t(VARIANCE), t(GAMMA), t(BETA), eps=0.125),
               mean=MEAN, variance=VARIANCE, gamma=GAMMA, beta=BETA, epsilon=0.125),
    normalised("mixed", "batch_norm", lambda x: F.batch_norm(x, t(MEAN), t(VARIANCE)), opset=17,
               mean=MEAN.astype(np.float16), variance=VARIANCE.astype(np.float16)),
    normalised("default", "instance_norm", F.instance_norm),
    normalised("affine", "instance_norm", lambda x: F.instance_norm(x, weight=t(GAMMA), bias=t(BETA), eps=0.125),
               gamma=GAMMA, beta=BETA, epsilon=0.125),
    # the builder cannot write a layer_norm without axes
    normalised("all", "layer_norm", lambda x: F.layer_norm(x, x.shape), axes=[0, 1, 2, 3]),
    normalised("affine", "layer_norm", lambda x: F.layer_norm(x, (6,), t(BIAS), t(BIAS + 1), 0.125),
               axes=[-1], gamma=BIAS, beta=BIAS + 1, epsilon=0.125),
    normalised("axes", "layer_norm", lambda x: F.layer_norm(x.permute(0, 2, 1, 3), (4, 6)).permute(0, 2, 1, 3),
               axes=[1, 3]),
    normalised("default", "l2_norm", lambda x: x / (x.square().sum((1, 2, 3), keepdim=True) + 1e-6).sqrt()),
    normalised("epsilon", "l2_norm", lambda x: x / (x.square().sum((1, 2, 3), keepdim=True) + 4).sqrt(), epsilon=4.0),
    normalised("default", "local_response_norm", lambda x: F.local_response_norm(x, 3), size=3),
    normalised("given", "local_response_norm", lambda x: F.local_response_norm(x, 3, 0.5, 0.25, 2.0),
               size=3, alpha=0.5, beta=0.25, k=2.0),
    normalised("even", "local_response_norm", lambda x: F.local_response_norm(x, 2), size=2),
]  # fmt: skip

CASES = [*CONV, *TRANSPOSED, *POOLS, *NORMS]


@every(CASES)
def test_as_torch(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@every([case for case in CASES if case.half and case.label != "mixed"])
def test_half_is_rounded_once(case: Case, tmp_path: Path) -> None:
    check_half(case, tmp_path)


@every([case for case in NORMS if case.op in {"layer_norm", "l2_norm"}])
def test_coremltools_infers_the_same(case: Case) -> None:
    assert check_inferred(case)
