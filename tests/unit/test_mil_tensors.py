"""Ops of ML Programs that make, sort, select and count, and matrix products, against torch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from mil_harness import Case, check, check_half, check_inferred, every, normal, whole
from torch import Tensor

from nagedge.runtimes.mil_program.ops import tensors

X, INTS = normal(2, 4, 5), whole(-9, 10, 2, 4, 5)
DISTINCT = np.random.default_rng(0).permutation(40).reshape(2, 4, 5)


def exclusive(x: Tensor, axis: int) -> Tensor:
    return torch.cumsum(x, axis) - x


MAKERS = [
    Case("band_part", "default", {"x": X}, lambda x: x),
    Case("band_part", "lower", {"x": X}, lambda x: x.tril(), {"lower": -1, "upper": 0}),
    Case("band_part", "upper", {"x": X}, lambda x: x.triu(), {"lower": 0, "upper": -1}),
    Case("band_part", "band", {"x": INTS}, lambda x: x.tril(1).triu(-2), {"lower": 2, "upper": 1}, half=False),
    Case("cumsum", "default", {"x": X}, lambda x: x.cumsum(0)),
    Case("cumsum", "axis", {"x": X}, lambda x: x.cumsum(2), {"axis": -1}),
    # coremltools cannot infer exclusive sums: its own code fails
    Case("cumsum", "exclusive", {"x": X}, lambda x: exclusive(x, 1), {"axis": 1, "exclusive": True}, inferred=False,
         atol=1e-5, half=False),
    Case("cumsum", "reverse", {"x": INTS}, lambda x: x.flip(1).cumsum(1).flip(1).int(), {"axis": 1, "reverse": True},
         half=False),
    Case("cumsum", "both", {"x": INTS}, lambda x: exclusive(x.flip(1), 1).flip(1).int(),
         {"axis": 1, "reverse": True, "exclusive": True}, inferred=False, half=False),
    Case("fill", "default", {"shape": np.int32([2, 3])}, lambda s: torch.zeros(2, 3), half=False),
    Case("fill", "value", {"shape": np.int32([2, 3])}, lambda s: torch.full((2, 3), 1.5), {"value": 1.5}, half=False),
    Case("fill", "int", {"shape": np.int32([4])}, lambda s: torch.full((4,), -7), {"value": np.int32(-7)}, half=False),
    Case("fill", "bool", {"shape": np.int32([2])}, lambda s: torch.tensor([True, True]), {"value": True}, half=False),
    Case("fill_like", "default", {"ref_tensor": INTS}, lambda x: torch.zeros(2, 4, 5), half=False),
    Case("fill_like", "int", {"ref_tensor": X}, lambda x: torch.full((2, 4, 5), 3), {"value": np.int32(3)}, half=False),
    Case("non_zero", "", {"x": np.float32([[0, 2], [3, 0]])}, lambda x: x.nonzero().int()),
    Case("one_hot", "default", {"indices": np.int32([1, 0, 2])},
         lambda i: F.one_hot(i.long(), 3).int(), {"one_hot_vector_size": 3}, half=False),
    Case("one_hot", "values", {"indices": np.int32([[1, 0], [2, 1]])},
         lambda i: torch.where(F.one_hot(i.long(), 3).movedim(-1, 1) == 1, 2.5, -1.0),
         {"one_hot_vector_size": 3, "axis": 1, "on_value": 2.5, "off_value": -1.0}, half=False),
    Case("one_hot", "out-of-range", {"indices": np.int32([1, 3, -1])},
         lambda i: torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 0]]), {"one_hot_vector_size": 3}, half=False),
    Case("range_1d", "int", {}, lambda: torch.arange(2, 11, 3), {"start": 2, "end": 11, "step": 3}, half=False),
    Case("range_1d", "float", {}, lambda: torch.arange(1.5, -1, -0.5), {"start": 1.5, "end": -1.0, "step": -0.5}),
    Case("argsort", "default", {"x": DISTINCT.astype(np.float32)}, lambda x: x.argsort(-1, descending=True).int()),
    Case("argsort", "ascending", {"x": DISTINCT.astype(np.int32)}, lambda x: x.argsort(1).int(),
         {"axis": 1, "ascending": True}, half=False),
    Case("topk", "default", {"x": DISTINCT.astype(np.float32)}, lambda x: (x.topk(1)[0], x.topk(1)[1].int())),
    Case("topk", "smallest", {"x": DISTINCT.astype(np.float32)},
         lambda x: (x.topk(3, 1, largest=False)[0], x.topk(3, 1, largest=False)[1].int()),
         {"k": 3, "axis": 1, "ascending": True}),
    Case("topk", "values", {"x": DISTINCT.astype(np.int32)}, lambda x: x.topk(2)[0],
         {"k": 2, "return_indices": False}, half=False),
    Case("select", "", {"cond": X > 0, "a": X, "b": -X[:1]}, torch.where),
    Case("select", "int", {"cond": np.array([True, False, True, True, False]), "a": INTS, "b": np.int32([0])},
         torch.where, half=False),
]  # fmt: skip

W, B = normal(6, 5, seed=1), normal(6, seed=2)
Q, K, V = normal(2, 3, 4, 8), normal(2, 3, 6, 8, seed=1), normal(2, 3, 6, 5, seed=2)
MASK = np.random.default_rng(1).random((4, 6)) < 0.7
MASK[:, 0] = True


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(q.double(), k.double(), v.double(), mask).float()


PRODUCTS = [
    Case("linear", "default", {"x": X}, lambda x: F.linear(x, torch.from_numpy(W)), {"weight": W}, atol=1e-5),
    Case("linear", "bias", {"x": X}, lambda x: F.linear(x, torch.from_numpy(W), torch.from_numpy(B)),
         {"weight": W, "bias": B}, atol=1e-5),
    Case("linear", "mixed", {"x": X}, lambda x: F.linear(x, torch.from_numpy(W)), {"weight": W.astype(np.float16)},
         opset=17, atol=1e-5, inferred=False),
    Case("matmul", "", {"x": X, "y": normal(5, 3)}, torch.matmul, atol=1e-5),
    Case("matmul", "broadcast", {"x": normal(3, 1, 2, 4), "y": normal(5, 4, 3)}, torch.matmul, atol=1e-5),
    Case("matmul", "transposed", {"x": normal(2, 4, 3), "y": normal(2, 5, 4)}, lambda x, y: x.mT @ y.mT,
         {"transpose_x": True, "transpose_y": True}, atol=1e-5),
    Case("matmul", "vector", {"x": normal(4), "y": normal(4, 3)}, torch.matmul, atol=1e-5),
    Case("matmul", "int", {"x": whole(-5, 5, 3, 4), "y": whole(-5, 5, 4, 2)}, torch.matmul, half=False),
    Case("matmul", "mixed", {"x": whole(-5, 5, 3, 4)}, lambda x: x @ torch.arange(8).reshape(4, 2).int(),
         {"y": np.arange(8, dtype=np.float32).reshape(4, 2)}, opset=17, half=False, inferred=False),
    Case("einsum", "rank-4", {"values": [normal(2, 3, 4, 5), normal(2, 5, 4, 6)]},
         lambda v: torch.einsum("nchw,nwhu->nchu", *v), {"equation": "nchw,nwhu->nchu"}, atol=1e-5),
    Case("einsum", "broadcast", {"values": [normal(1, 3, 4, 5), normal(2, 5, 1, 6)]},
         lambda v: torch.einsum("nchw,nwhu->nchu", v[0].expand(2, 3, 4, 5), v[1].expand(2, 5, 4, 6)),
         {"equation": "nchw,nwhu->nchu"}, atol=1e-5),
    Case("einsum", "rank-3", {"values": [normal(3, 4, 5), normal(5, 4, 6)]},
         lambda v: torch.einsum("chw,whr->chr", *v), {"equation": "chw,whr->chr"}, atol=1e-5),
    Case("scaled_dot_product_attention", "", {"query": Q, "key": K, "value": V}, attention, opset=18),
    Case("scaled_dot_product_attention", "added", {"query": Q, "key": K, "value": V, "attn_mask": normal(4, 6, seed=3)},
         lambda q, k, v, m: attention(q, k, v, m.double()), opset=18),
    Case("scaled_dot_product_attention", "bool", {"query": Q, "key": K, "value": V, "attn_mask": MASK},
         lambda q, k, v, m: attention(q, k, v, torch.zeros(m.shape).double().masked_fill(~m, -math.inf)), opset=18),
]  # fmt: skip

CASES = [*MAKERS, *PRODUCTS]
NOT_INFERRED = {"one_hot", "scaled_dot_product_attention"}


@every(CASES)
def test_as_torch(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@every([case for case in CASES if case.half])
def test_half_is_rounded_once(case: Case, tmp_path: Path) -> None:
    check_half(case, tmp_path)


@every([case for case in CASES if case.inferred and case.op not in NOT_INFERRED])
def test_coremltools_infers_the_same(case: Case) -> None:
    assert check_inferred(case)


def test_topk_of_minus_one_sorts_all() -> None:
    """The builder cannot write it: it infers a size of -1."""
    x = torch.from_numpy(DISTINCT.astype(np.float32))
    values, indices = tensors.topk(x, k=-1, axis=1)
    assert torch.equal(values, x.sort(1, descending=True)[0])
    assert torch.equal(indices, x.argsort(1, descending=True).int())
