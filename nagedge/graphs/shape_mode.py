"""Fake tensors whose shapes are worked out once for every operator and its arguments.

What a symbolic size costs: torch compares and multiplies sizes in sympy to find an operator's result and the order of
its memory, a millisecond a tensor, ten where it decomposes the operator to do so. Most operators of a net meet shapes
that they have met before, and a copy of the earlier result knows its order of memory already.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._guards import SLoc
from torch._ops import OpOverload
from torch._subclasses.fake_impls import fast_detach
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

__all__ = ["ShapeMode", "Sizes"]

aten = torch.ops.aten

_LIKE_THEIR_INPUT = frozenset({
    aten.abs.default, aten.add.Tensor, aten.clamp.default, aten.clamp_max.default, aten.clamp_min.default,
    aten.div.Tensor, aten.elu.default, aten.exp.default, aten.gelu.default, aten.gelu_backward.default,
    aten.hardsigmoid.default, aten.hardsigmoid_backward.default, aten.hardswish.default,
    aten.hardswish_backward.default, aten.hardtanh.default, aten.hardtanh_backward.default, aten.leaky_relu.default,
    aten.mul.Tensor, aten.neg.default, aten.relu.default, aten.rsqrt.default, aten.sigmoid.default, aten.silu.default,
    aten.silu_backward.default, aten.sqrt.default, aten.sub.Tensor, aten.tanh.default, aten.threshold_backward.default,
})  # fmt: skip
"""Operators whose result is as their tensors are, if these are floating and all alike."""

_SCALARS = (bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None))


class _UnknownError(Exception):
    """An argument that says more than its shape, or that no key can be made of."""


class Sizes(ShapeEnv):
    """Symbolic sizes that do not remember which line of code asked about them.

    To leave its own lines out, torch would import its exporter and its compiler: half a second at the first question.
    """

    def _get_stack_summary(self, *_: Any, **__: Any) -> tuple[SLoc, str]:
        return SLoc(None, None), ""


class ShapeMode(FakeTensorMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """A mode for functional code, in which no two results need memory of their own: copies share it."""

    def __init__(self, shape_env: ShapeEnv) -> None:
        super().__init__(shape_env=shape_env, allow_non_fake_inputs=True)
        self.cache_enabled = False  # torch's own makes every tensor anew, with all that is to be worked out
        self._results: dict[Hashable, Any] = {}
        self._contiguous: dict[Hashable, bool] = {}

    def dispatch(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return an operator's result: a fake tensor, or a tuple or list of them."""
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload) or not _goes_by_shapes(func):
            return super().dispatch(func, types, args, kwargs)
        try:
            options = tuple((name, self._key(value)) for name, value in kwargs.items())
            key = (func, self._key(args), options)
        except _UnknownError:
            return super().dispatch(func, types, args, kwargs)
        if key not in self._results:
            if func in _LIKE_THEIR_INPUT and not kwargs:
                same = self._alike(args)
                if same is not None:
                    return fast_detach(self, same)
            result = super().dispatch(func, types, args, kwargs)
            if not self._is_plain(result):
                return result
            self._results[key] = self._copy(result)
            return result
        return self._copy(self._results[key])

    def _copy(self, result: Any) -> Any:
        if isinstance(result, (list, tuple)):
            return type(result)(self._copy(item) for item in result)
        return None if result is None else fast_detach(self, result)

    def _is_plain(self, result: Any) -> bool:
        if type(result) in (list, tuple):
            return all(self._is_plain(item) for item in result)
        return result is None or (
            isinstance(result, FakeTensor) and result.fake_mode is self and result.constant is None
        )

    def _alike(self, args: Sequence[Any]) -> FakeTensor | None:
        """Return one of the tensors if they are floating, contiguous and have one shape."""
        tensors = [value for value in args if isinstance(value, FakeTensor)]
        keys = {self._key(value) for value in tensors}
        if len(keys) != 1 or not tensors[0].dtype.is_floating_point:
            return None
        (key,) = keys
        if key not in self._contiguous:
            self._contiguous[key] = tensors[0].is_contiguous()
        return tensors[0] if self._contiguous[key] else None

    def _key(self, value: Any) -> Hashable:
        """Return what of an argument a result's shape can depend on.

        Raises:
            _UnknownError: it is no number, no list of numbers and no tensor of this mode without values.
        """
        if isinstance(value, Tensor):
            known = isinstance(value, FakeTensor) and value.fake_mode is self and value.constant is None
            if not known or value.layout is not torch.strided or value.requires_grad or value.is_complex():
                raise _UnknownError
            sizes = (*value.shape, *value.stride(), value.storage_offset())
            return (FakeTensor, value.dtype, value.device, *map(_size, sizes))
        if isinstance(value, (list, tuple)):
            return (type(value), *map(self._key, value))
        if isinstance(value, torch.SymInt):
            return _size(value)
        if isinstance(value, _SCALARS):
            return type(value), value
        raise _UnknownError


@cache
def _goes_by_shapes(operator: OpOverload) -> bool:
    """Whether an operator makes results anew, of shapes that depend on those of its tensors, not on their values."""
    return (
        operator.namespace == "aten"
        and not operator._schema.is_mutable
        and torch.Tag.dynamic_output_shape not in operator.tags
        and torch.Tag.data_dependent_output not in operator.tags
    )


def _size(size: int | torch.SymInt) -> Hashable:
    return size.node.expr if isinstance(size, torch.SymInt) else size
