"""Fake tensors whose shapes are remembered are as torch's own, whichever operator made them and how often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._pytree import tree_leaves

from nagedge.graphs.shape_mode import _LIKE_THEIR_INPUT, ShapeMode

aten = torch.ops.aten

OPERATORS: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "hardswish": lambda x, w, i: aten.hardswish.default(x),
    "clamp": lambda x, w, i: aten.clamp.default(x, 0.0, 1.0),
    "clamp whole numbers": lambda x, w, i: aten.clamp.default(i, 0, 1),
    "a permuted tensor": lambda x, w, i: aten.relu.default(x.permute(1, 0, 3, 2)),
    "channels last": lambda x, w, i: aten.mul.Tensor(*[x.clone(memory_format=torch.channels_last)] * 2),
    "an expanded tensor": lambda x, w, i: aten.neg.default(x[:, :1].expand(-1, 3, -1, -1)),
    "two layouts": lambda x, w, i: x.transpose(2, 3).contiguous().transpose(2, 3) + x,
    "broadcasting": lambda x, w, i: x * x.mean((2, 3), keepdim=True),
    "of an integer": lambda x, w, i: i * 2.5,
    "integers": lambda x, w, i: i / i,
    "comparison": lambda x, w, i: x > 0,
    "selection": lambda x, w, i: torch.where(x > 0, x, 0.0),
    "convolution": lambda x, w, i: torch.conv2d(x, w, stride=2, padding=1),
    "view": lambda x, w, i: x.reshape(-1, 3, 8, 2, 4),
    "view by sizes": lambda x, w, i: aten.view.default(x, [x.shape[0] * 3, 64]),
    "several results": lambda x, w, i: aten.native_layer_norm.default(x, [8, 8], None, None, 1e-5),
    "a list of results": lambda x, w, i: x.split([1, 2], 1),
    "maximum": lambda x, w, i: x.flatten(2).max(2),
    "sum": lambda x, w, i: x.sum((0, 2)),
    "another type": lambda x, w, i: x.sum(dtype=torch.float64),
    "made new": lambda x, w, i: torch.full([x.shape[0], 2], 1.0) + torch.arange(2),
    "no batch": lambda x, w, i: w @ w.transpose(2, 3),
}


def shapes(mode: FakeTensorMode, function: Callable[..., Any], batch: int | None) -> list[list[str]]:
    """What a function's results look like at its first and second call."""
    tensors = [torch.zeros(7, 3, 8, 8), torch.zeros(5, 3, 3, 3), torch.zeros(7, 4, dtype=torch.int64)]
    fakes = []
    for tensor, is_dynamic in zip(tensors, (True, False, True), strict=True):
        sizes = [DimDynamic.DUCK if is_dynamic and batch is None else DimDynamic.STATIC]
        context: StatelessSymbolicContext[Any, Any] = StatelessSymbolicContext(
            dynamic_sizes=sizes + [DimDynamic.STATIC] * (tensor.dim() - 1)
        )
        fakes.append(mode.from_tensor(tensor, symbolic_context=context))
    with mode, enable_python_dispatcher():
        results = [tree_leaves(function(*fakes)) for _ in range(2)]
    return [
        [f"{t.dtype} {tuple(t.shape)} {t.stride()} {t.storage_offset()} {t.is_contiguous()}" for t in leaves]
        for leaves in results
    ]


@pytest.mark.parametrize("batch", [None, 7])
@pytest.mark.parametrize("name", OPERATORS)
def test_results_are_as_torch_makes_them(name: str, batch: int | None) -> None:
    usual = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    expected = shapes(usual, OPERATORS[name], batch)
    assert expected[0] == expected[1]
    assert shapes(ShapeMode(ShapeEnv()), OPERATORS[name], batch) == expected


@pytest.mark.parametrize("operator", sorted(_LIKE_THEIR_INPUT, key=str), ids=str)
def test_results_that_are_as_their_input_are_so_on_the_cpu(operator: Any) -> None:
    x = torch.rand(2, 3, 4)
    arguments: list[Any] = []
    for argument in operator._schema.arguments:
        if str(argument.type) == "Tensor":
            arguments.append(x)
        elif not argument.has_default_value() and not argument.kwarg_only:
            arguments.append(0.5)
    if operator is aten.clamp.default:
        arguments.append(0.0)
    if operator is aten.elu.default:
        arguments += [1.0, 1.0, 1.0]
    result = operator(*arguments)
    assert (result.dtype, result.shape, result.stride()) == (x.dtype, x.shape, x.stride())


def test_tensors_with_known_values_keep_them() -> None:
    mode = ShapeMode(ShapeEnv())
    with mode:
        one, two = (torch.tensor(value).add(1) for value in (1, 2))
        assert (one.item(), two.item()) == (2, 3)


def test_sizes_that_depend_on_values_are_never_the_same() -> None:
    mode = ShapeMode(ShapeEnv())
    tensors = [mode.from_tensor(torch.ones(5)) for _ in range(2)]
    with mode:
        one, two = (torch.nonzero(x).shape[0] for x in tensors)
    assert str(one) != str(two)
