"""Depthwise convolutions and their gradients as matrix products over channels, for backends with fast small products.

Runtimes compute a depthwise convolution whose weights are computed, not constant, image by image and channel by
channel, with products of a few rows each. Here each channel's whole batch is one product. A *tile* of output rows
reads a tile of input rows, and the kernel, written out, is the banded matrix between the two:

    y[c, n, tile, :] = x[c, n, tile's input rows, :] @ B[c],      B[c] = sum over taps of w[c, tap] * S[tap]

with ``S`` a constant of zeros and ones, an outer product of rows and columns. The gradient of the input is the same
with another ``S``, that of the weights ``dB = x' @ dy`` and ``dw[c, tap] = sum(dB[c] * S[tap])``. Small maps are one
tile. Notation: ``x`` is ``[batch, C, H, W]`` (or ``[batch, C, W]``), ``w`` ``[C, 1, *kernel]``; the batch size may be
symbolic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nagedge.graphs.decompositions.tensors import constant, reshape
from nagedge.graphs.decompositions.windows import pad_spatial

__all__ = ["Depthwise", "Tiles", "banded_convolution", "banded_input_gradient", "banded_weight_gradient"]

aten = torch.ops.aten

Ints = Sequence[int]

WHOLE = 1300
"""Up to this many pairs of an input and an output cell the map is one tile: 36 cells to 36.

Measured on ONNX Runtime 1.31, one thread, batch 8, forward and both gradients, against tiles of about
:data:`WIDTH` cells: 5x5, 144 channels, 6x6 to 6x6: 0.52 and 0.82 ms; 64 channels, 12x12 to 6x6: 1.01 and 0.62 ms.
"""

WIDTH = 16
"""Output cells that a tile should have: as many as a product's inner loop does at once."""


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution over two axes.

    Attributes:
        size, out: cells of the input and the output, per axis.
        kernel, stride, padding, dilation: per axis.
    """

    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @staticmethod
    def of(size: Ints, out: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Depthwise:
        """Make one of lists with one or two axes; a missing second axis has one cell."""
        rest = 2 - len(size)
        one, zero = [1] * rest, [0] * rest

        def pair(values: Ints, missing: list[int]) -> tuple[int, int]:
            first, second = (*values, *missing)
            return int(first), int(second)

        return Depthwise(
            pair(size, one), pair(out, one), pair(kernel, one), pair(stride, one), pair(padding, zero),
            pair(dilation, one),
        )  # fmt: skip

    @property
    def whole(self) -> bool:
        """Whether the map is one tile."""
        return self.size[0] * self.size[1] * self.out[0] * self.out[1] <= WHOLE


@dataclass(frozen=True)
class Tiles:
    """How tiles of rows of one map (*to*) read rows of another (*source*).

    Attributes:
        count: of tiles.
        rows: of the map that is written, a tile.
        reach: rows of the map that is read, a tile.
        first, step: where the first tile begins to read (negative: in the padding), and how far apart tiles are.
    """

    count: int
    rows: int
    reach: int
    first: int
    step: int

    @staticmethod
    def forward(c: Depthwise) -> Tiles:
        """Tiles of the output."""
        if c.whole:
            return Tiles(1, c.out[0], c.size[0], 0, c.size[0])
        rows = _rows_of_a_tile(c.out)
        reach = (rows - 1) * c.stride[0] + (c.kernel[0] - 1) * c.dilation[0] + 1
        return Tiles(-(-c.out[0] // rows), rows, reach, -c.padding[0], rows * c.stride[0])

    @staticmethod
    def backward(c: Depthwise) -> Tiles:
        """Tiles of the input's gradient, which read the output's."""
        if c.whole:
            return Tiles(1, c.size[0], c.out[0], 0, c.out[0])
        stride = c.stride[0]
        rows = stride * -(-_rows_of_a_tile(c.size) // stride)
        first = -((c.dilation[0] * (c.kernel[0] - 1) - c.padding[0]) // stride)
        last = (rows - 1 + c.padding[0]) // stride
        return Tiles(-(-c.size[0] // rows), rows, last - first + 1, first, rows // stride)


def _rows_of_a_tile(out: tuple[int, int]) -> int:
    """Rows for about :data:`WIDTH` cells; a little more where the map is then divided without remainder."""
    least = min(max(1, WIDTH // out[1]), out[0])
    return next((rows for rows in range(least, 2 * least) if out[0] % rows == 0), least)


def banded_convolution(x: Tensor, w: Tensor, c: Depthwise) -> Tensor:
    """The convolution, without bias: ``[batch, C, *out]``."""
    tiles = Tiles.forward(c)
    product = torch.bmm(_rows(x, tiles, c.size), _matrix(w, _forward_taps(c, tiles)))
    return _joined(product, tiles, c.out, x.dim())


def banded_input_gradient(grad: Tensor, w: Tensor, c: Depthwise) -> Tensor:
    """The gradient of the input: ``[batch, C, *size]``."""
    tiles = Tiles.backward(c)
    if c.whole:  # the forward's matrix, transposed: it is there already
        matrix = _matrix(w, _forward_taps(c, Tiles.forward(c))).transpose(1, 2)
    else:
        matrix = _matrix(w, _backward_taps(c, tiles))
    return _joined(torch.bmm(_rows(grad, tiles, c.out), matrix), tiles, c.size, grad.dim())


def banded_weight_gradient(x: Tensor, grad: Tensor, c: Depthwise) -> Tensor:
    """The gradient of the weights: ``[C, 1, *kernel]``."""
    tiles = Tiles.forward(c)
    written = Tiles(tiles.count, tiles.rows, tiles.rows, 0, tiles.rows)
    product = torch.bmm(_rows(x, tiles, c.size).transpose(1, 2), _rows(grad, written, c.out))
    taps = _spread(_forward_taps(c, tiles), x)
    total = torch.mm(reshape(product, [x.shape[1], taps.shape[1]]), taps.transpose(0, 1))
    return reshape(total, [x.shape[1], 1, *c.kernel][: x.dim()])


def _rows(x: Tensor, tiles: Tiles, size: tuple[int, int]) -> Tensor:
    """``[C, batch * tiles, reach * W]``: the rows that each tile reads, in whole rows; zeros in the padding."""
    channels, width = x.shape[1], size[1]
    planes = x if x.dim() == 4 else x.unsqueeze(-1)
    needed = (tiles.count - 1) * tiles.step + tiles.reach
    padded = pad_spatial(planes, [-tiles.first, 0], [needed + tiles.first - size[0], 0])
    # Whole images move, so that transposing copies blocks and not cells.
    moved = reshape(padded, [-1, channels, needed * width]).transpose(0, 1)
    if tiles.count > 1 and tiles.step != tiles.reach:
        lines = reshape(moved, [channels, -1, needed, width])
        starts = [tile * tiles.step + row for tile in range(tiles.count) for row in range(tiles.reach)]
        moved = aten.index_select.default(lines, 2, constant(starts, x, torch.int64))
    return reshape(moved, [channels, -1, tiles.reach * width])


def _joined(product: Tensor, tiles: Tiles, size: tuple[int, int], rank: int) -> Tensor:
    """Undo :func:`_rows` on what the tiles have written: ``[batch, C, *size]``."""
    channels, (height, width) = product.shape[0], size
    image = reshape(product, [channels, -1, tiles.count * tiles.rows * width])
    if tiles.count * tiles.rows != height:
        image = aten.slice.Tensor(image, 2, 0, height * width)
    return reshape(image.transpose(0, 1), [-1, channels, *([height, width] if rank == 4 else [height])])


Taps = tuple[list[list[list[int]]], list[list[list[int]]]]
"""``[kernel rows, read rows, written rows]`` and the same of columns: 1 where the tap joins the two."""


def _forward_taps(c: Depthwise, tiles: Tiles) -> Taps:
    # Row o of a tile reads row o * stride + i * dilation of the padded input, tap i.
    shift = c.padding[0] if c.whole else 0
    rows = _joins(
        c.kernel[0], tiles.reach, tiles.rows, lambda i, h, o: h == o * c.stride[0] - shift + i * c.dilation[0]
    )
    columns = _joins(
        c.kernel[1],
        c.size[1],
        c.out[1],
        lambda j, h, o: h == o * c.stride[1] - c.padding[1] + j * c.dilation[1],
    )
    return rows, columns


def _backward_taps(c: Depthwise, tiles: Tiles) -> Taps:
    first, (stride, padding, dilation) = tiles.first, (c.stride, c.padding, c.dilation)
    rows = _joins(
        c.kernel[0], tiles.reach, tiles.rows,
        lambda i, o, h: (first + o) * stride[0] == h + padding[0] - i * dilation[0],
    )  # fmt: skip
    columns = _joins(
        c.kernel[1], c.out[1], c.size[1], lambda j, o, h: o * stride[1] == h + padding[1] - j * dilation[1]
    )
    return rows, columns


def _joins(
    taps: int, read: int, written: int, joins: Callable[[int, int, int], bool]
) -> list[list[list[int]]]:
    return [[[int(joins(i, a, b)) for b in range(written)] for a in range(read)] for i in range(taps)]


def _spread(taps: Taps, like: Tensor) -> Tensor:
    """``S``: ``[taps, read cells * written cells]``.

    An outer product in the graph, so that a file holds its two small factors; a runtime folds it when it loads.
    """
    rows, columns = taps
    k, a, b = len(rows), len(rows[0]), len(rows[0][0])
    m, p, q = len(columns), len(columns[0]), len(columns[0][0])
    by_row = reshape(constant(rows, like), [k, 1, a, 1, b, 1])
    by_column = reshape(constant(columns, like), [1, m, 1, p, 1, q])
    return reshape(by_row * by_column, [k * m, a * p * b * q])


def _matrix(w: Tensor, taps: Taps) -> Tensor:
    """``B``: ``[C, read cells, written cells]``."""
    rows, columns = taps
    read, written = len(rows[0]) * len(columns[0]), len(rows[0][0]) * len(columns[0][0])
    flat = reshape(w, [w.shape[0], len(rows) * len(columns)])
    return reshape(torch.mm(flat, _spread(taps, w)), [w.shape[0], read, written])
