"""The gradient of a strided convolution's input, phase by phase: plain convolutions with parts of a constant kernel.

Along an axis with stride s, cell ``n = s q + r`` of the input takes part in outputs through the taps
``i = (r + p) mod s + s t`` only. So phase r of its gradient (see :mod:`.phases`) is the gradient of the output
convolved with every s-th tap, backwards: ``gx_r[q] = sum_t g[q + (r + p) // s - t] w[(r + p) mod s + s t]``. No product
with the zeros of a gradient that is spread out is computed, and each part of a constant kernel is a constant, for which
ONNX Runtime has its blocked convolutions; for transposed ones it has none.

The phases are joined with their channels last, as :mod:`.convolution_phases` joins those of a branch beside the layer:
so the two gradients are added before they are moved.

ONNX Runtime 1.31, one thread, batch 8, from rows to rows: 32 channels of 24x24 from 96, 3x3: 0.50 ms, transposed
0.56 ms; depthwise, 192 channels of 12x12, 5x5: 0.25 ms, as a product of bands 0.45 ms. Where ONNX Runtime has no
blocked convolutions: 0.86 and 0.55 ms, 1.1 and 0.56 ms. Between images with channels first the phases take longer than
a transposed convolution, 0.91 and 0.57 ms: so this is for steps that keep images in rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nagedge.graphs.decompositions.convolution import flip_by_axis, input_gradient_by_convolution
from nagedge.graphs.decompositions.pointwise_rows import channels_first, channels_last
from nagedge.graphs.decompositions.tensors import is_static, reshape

aten = torch.ops.aten

__all__ = ["has_phases", "input_gradient_by_phase_convolutions"]

Ints = Sequence[int]


def has_phases(spatial: Ints, w: Tensor, stride: Ints, dilation: Ints) -> bool:
    """Whether an image's gradient can be computed so: of known size, and every phase has a tap.

    Args:
        spatial: size of the input.
        w: ``[O, C / groups, *kernel]``.
        stride, dilation: of the convolution.
    """
    if len(spatial) != 2 or not all(map(is_static, spatial)) or any(d != 1 for d in dilation):
        return False
    return max(stride) > 1 and all(k >= s for k, s in zip(w.shape[2:], stride, strict=True))


def input_gradient_by_phase_convolutions(
    grad: Tensor, spatial: Ints, w: Tensor, stride: Ints, padding: Ints, groups: int
) -> Tensor:
    """The gradient of the input: ``[batch, C, *spatial]``.

    Args:
        grad: ``[batch, O, *size]``.
        spatial: size of the input.
        w: ``[O, C / groups, *kernel]``, constant.
        stride, padding, groups: of the convolution; see :func:`has_phases`.
    """
    cells = [-(-n // s) for n, s in zip(spatial, stride, strict=True)]
    channels = w.shape[1] * groups
    phases = [
        _phase(grad, cells, w, (row, column), stride, padding, groups)
        for row in range(stride[0])
        for column in range(stride[1])
    ]
    beside = reshape(channels_last(torch.cat(phases, 1)), [-1, *cells, stride[0], stride[1] * channels])
    image = reshape(beside.permute(0, 1, 3, 2, 4), [-1, cells[0] * stride[0], cells[1] * stride[1], channels])
    for axis, size in enumerate(spatial, start=1):
        if image.shape[axis] != size:
            image = aten.slice.Tensor(image, axis, 0, size)
    return channels_first(image)


def _phase(
    grad: Tensor, cells: Ints, w: Tensor, phase: Ints, stride: Ints, padding: Ints, groups: int
) -> Tensor:
    """``[batch, C, *cells]``: what reaches every s-th cell.

    It is the input gradient of a convolution without stride, whose kernel is every s-th tap and whose first cell lies
    ``(r + p) // s`` cells behind the gradient's.
    """
    taps = w
    for axis, (r, s, p) in enumerate(zip(phase, stride, padding, strict=True), start=2):
        if s > 1:
            taps = aten.slice.Tensor(taps, axis, (r + p) % s, w.shape[axis], s)
    shifts = [(r + p) // s for r, s, p in zip(phase, stride, padding, strict=True)]
    return input_gradient_by_convolution(grad, cells, taps, [1, 1], shifts, [1, 1], groups, flip=flip_by_axis)
