"""Ops of ML Programs that move values, against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from mil_harness import Case, check, check_half, check_inferred, every, normal, whole
from torch import Tensor

X, INTS = normal(2, 3, 4), whole(-5, 6, 2, 3, 4)
FLAGS = INTS > 0
IMAGE = normal(2, 8, 4, 6)


def blocks_first(x: Tensor, b: int) -> Tensor:
    """TensorFlow's depth_to_space: the block is the outer part of the channel."""
    n, c, h, w = x.shape
    swapped = x.reshape(n, b * b, c // (b * b), h, w).transpose(1, 2).reshape(n, c, h, w)
    return F.pixel_shuffle(swapped, b)


def to_batch(x: Tensor, bh: int, bw: int) -> Tensor:
    """The positions in a block, row by row, as images of their own."""
    return torch.cat([x[:, :, i::bh, j::bw] for i in range(bh) for j in range(bw)])


CASES = [
    Case("reshape", "", {"x": X}, lambda x: x.reshape(6, 4), {"shape": [6, 4]}),
    Case("reshape", "rest", {"x": X}, lambda x: x.reshape(4, -1), {"shape": [4, -1]}),
    Case("reshape", "zeros", {"x": X}, lambda x: x.reshape(2, 12, 1), {"shape": [0, -1, 1]}),
    # from iOS 17 on a 0 counts from the right, and is 1 where x has nothing
    Case("reshape", "zeros", {"x": X[0]}, lambda x: x.reshape(1, 1, 3, 4), {"shape": [1, 0, -1, 0]}, opset=17),
    Case("reshape", "computed", {"x": X, "shape": np.int32([3, -1])}, lambda x, s: x.reshape(3, 8)),
    Case("reshape", "int", {"x": INTS}, lambda x: x.reshape(-1), {"shape": [-1]}, half=False),
    Case("reshape_like", "", {"x": X.reshape(6, 4), "ref_tensors": [X, normal(5, 2, 2)]},
         lambda x, refs: x.reshape(2, 3, 2, 2), {"begins": [0, 1], "ends": [2, 0], "end_masks": [False, True]}),
    Case("expand_dims", "", {"x": X}, lambda x: x[:, None, :, :, None], {"axes": [1, -1]}),
    Case("expand_dims", "bool", {"x": FLAGS}, lambda x: x[None], {"axes": [0]}, half=False),
    Case("squeeze", "default", {"x": normal(1, 2, 1, 3)}, lambda x: x.squeeze()),
    Case("squeeze", "axes", {"x": normal(1, 2, 1, 3)}, lambda x: x.squeeze(2), {"axes": [-2]}),
    # coremltools says that other sizes are left alone, and infers by numpy, which refuses them
    Case("squeeze", "others-stay", {"x": normal(1, 2, 1, 3)}, lambda x: x.squeeze(0), {"axes": [0, 1]}, inferred=False),
    Case("transpose", "", {"x": X}, lambda x: x.permute(2, 0, 1), {"perm": [2, 0, 1]}),
    Case("transpose", "negative", {"x": INTS}, lambda x: x.permute(2, 1, 0), {"perm": [-1, 1, 0]}, half=False),
    Case("reverse", "default", {"x": X}, lambda x: x.flip(0, 1, 2)),
    Case("reverse", "axes", {"x": X}, lambda x: x.flip(0, 2), {"axes": [0, -1]}),
    Case("reverse_sequence", "", {"x": X, "lengths": np.int32([2, 3])},
         lambda x, n: torch.stack([torch.cat([x[0, :2].flip(0), x[0, 2:]]), x[1].flip(0)]),
         {"seq_axis": 1, "batch_axis": 0}, inferred=False),
    Case("reverse_sequence", "time-first", {"x": X, "lengths": np.int32([1, 2, 0])},
         lambda x, n: torch.stack([x[:, 0], x[:, 1].flip(0), x[:, 2]], 1),
         {"seq_axis": 0, "batch_axis": 1}, inferred=False),
    Case("flatten2d", "default", {"x": X}, lambda x: x.reshape(2, 12)),
    Case("flatten2d", "negative", {"x": X}, lambda x: x.reshape(6, 4), {"axis": -1}),
    Case("shape", "", {"x": X}, lambda x: torch.tensor(x.shape), half=False),
    Case("identity", "", {"x": X}, lambda x: x),
    Case("concat", "", {"values": [X, normal(2, 2, 4)]}, lambda v: torch.cat(v, 1), {"axis": 1}),
    Case("concat", "negative-int", {"values": [INTS, INTS + 1]}, lambda v: torch.cat(v, -1), {"axis": -1}, half=False),
    # coremltools infers without interleaving
    Case("concat", "interleaved", {"values": [X, X + 1, X + 2]}, lambda v: torch.stack(v, 2).reshape(2, 9, 4),
         {"axis": 1, "interleave": True}, inferred=False),
    Case("stack", "", {"values": [X, X + 1]}, lambda v: torch.stack(v, 1), {"axis": 1}),
    Case("stack", "negative", {"values": [X, X + 1]}, lambda v: torch.stack(v, -1), {"axis": -1}),
    Case("split", "equal", {"x": X}, lambda x: x.split(2, 2), {"axis": -1, "num_splits": 2}),
    Case("split", "sizes", {"x": X}, lambda x: x.split([1, 3], 2), {"axis": 2, "split_sizes": [1, 3]}),
    Case("split", "both", {"x": INTS}, lambda x: x.split([2, 1], 1),
         {"axis": 1, "split_sizes": [2, 1], "num_splits": 2}, half=False),
    Case("tile", "", {"x": X}, lambda x: x.tile(2, 1, 3), {"reps": [2, 1, 3]}),
    Case("tile", "computed", {"x": INTS, "reps": np.int32([1, 2, 1])}, lambda x, r: x.tile(1, 2, 1), half=False),
    Case("pad", "default", {"x": X}, lambda x: F.pad(x, (1, 2)), {"pad": [1, 2]}),
    Case("pad", "constant", {"x": X}, lambda x: F.pad(x, (0, 1, 2, 0), value=-1.5),
         {"pad": [2, 0, 0, 1], "mode": "constant", "constant_val": -1.5}),
    Case("pad", "reflect", {"x": IMAGE}, lambda x: F.pad(x, (2, 1, 3, 0), mode="reflect"),
         {"pad": [3, 0, 2, 1], "mode": "reflect"}),
    Case("pad", "replicate", {"x": IMAGE}, lambda x: F.pad(x, (2, 1, 4, 0), mode="replicate"),
         {"pad": [4, 0, 2, 1], "mode": "replicate"}),
    Case("pad", "computed", {"x": X, "pad": np.int32([0, 0, 1, 0, 0, 2])}, lambda x, p: F.pad(x, (0, 2, 1, 0))),
    Case("pixel_shuffle", "", {"x": IMAGE}, lambda x: F.pixel_shuffle(x, 2), {"upscale_factor": 2}),
    Case("pixel_unshuffle", "", {"x": IMAGE}, lambda x: F.pixel_unshuffle(x, 2), {"downscale_factor": np.uint32(2)}),
    Case("depth_to_space", "", {"x": IMAGE}, lambda x: blocks_first(x, 2), {"block_size": 2}),
    Case("space_to_depth", "", {"x": IMAGE},
         lambda x: torch.cat([x[:, :, i::2, j::2] for i in range(2) for j in range(2)], 1), {"block_size": 2}),
    Case("space_to_batch", "", {"x": IMAGE}, lambda x: to_batch(F.pad(x, (1, 2, 2, 0)), 2, 3),
         {"block_shape": [2, 3], "paddings": [[2, 0], [1, 2]]}),
    Case("batch_to_space", "", {"x": to_batch(torch.from_numpy(IMAGE), 2, 3).numpy()},
         lambda x: torch.from_numpy(IMAGE)[:, :, 1:, :-2], {"block_shape": [2, 3], "crops": [[1, 0], [0, 2]]}),
    Case("sliding_windows", "default", {"x": X}, lambda x: x.unfold(2, 3, 1), {"axis": -1, "size": 3}),
    Case("sliding_windows", "stride", {"x": normal(2, 7, 3)}, lambda x: x.unfold(1, 3, 2).transpose(2, 3),
         {"axis": 1, "size": 3, "stride": 2}),
]  # fmt: skip

NOT_INFERRED = {
    "reshape_like", "pixel_shuffle", "pixel_unshuffle", "depth_to_space", "space_to_depth", "space_to_batch",
    "batch_to_space", "sliding_windows",
}  # fmt: skip


@every(CASES)
def test_as_torch(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@every([case for case in CASES if case.half])
def test_half_is_moved_unchanged(case: Case, tmp_path: Path) -> None:
    check_half(case, tmp_path)


@every([case for case in CASES if case.inferred and case.op not in NOT_INFERRED])
def test_coremltools_infers_the_same(case: Case) -> None:
    assert check_inferred(case)


def test_what_cannot_be_inferred_really_cannot() -> None:
    assert not any(check_inferred(case) for case in CASES if case.op in NOT_INFERRED)
