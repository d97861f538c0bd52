"""Lists of tensors, and the classifier's last op (``iOS15/control_flow.py``, ``iOS15/classify.py`` of coremltools)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nagedge.runtimes.mil_program.dtypes import BY_NAME, checked_sizes

__all__ = ["OPS"]

_LONGEST = 1_000_000


def make_list(
    elem_shape: Sequence[Any],
    init_length: int = 1,
    dynamic_length: bool = True,
    dtype: str = "fp32",
) -> list[Any]:
    """Return a list of zeros; of elements whose shape is not known, of nothing until the first is written."""
    del dynamic_length
    _check_length(init_length)
    sizes = [int(size) for size in elem_shape if isinstance(size, Tensor)]
    known = len(sizes) == len(elem_shape)
    checked_sizes((init_length, *sizes))
    return [torch.zeros(sizes, dtype=BY_NAME[dtype].carrier) if known else None for _ in range(init_length)]


def list_length(ls: list[Any]) -> Tensor:
    """Return the number of elements."""
    return torch.tensor(len(ls), dtype=torch.int32)


def list_read(ls: list[Any], index: int) -> Tensor:
    """Return one element."""
    if not 0 <= index < len(ls) or ls[index] is None:
        raise IndexError(f"element {index} was never written, the list has {len(ls)}")
    element: Tensor = ls[index]
    return element


def list_write(ls: list[Any], index: int, value: Tensor) -> list[Any]:
    """Return the list with one element replaced; it grows where it must, by zeros."""
    return _written(ls, (index,), [value])


def list_gather(ls: list[Any], indices: tuple[int, ...]) -> Tensor:
    """Return elements as one tensor."""
    return torch.stack([list_read(ls, index) for index in indices])


def list_scatter(ls: list[Any], indices: tuple[int, ...], value: Tensor) -> list[Any]:
    """Return the list with elements replaced by the slices of a tensor."""
    return _written(ls, indices, list(value))


def classify(probabilities: Tensor, classes: list[Any]) -> tuple[Any, dict[Any, float]]:
    """Return the likeliest class, and the probability of each."""
    flat = probabilities.reshape(-1).tolist()
    if len(flat) != len(classes):
        raise ValueError(f"{len(flat)} probabilities of {len(classes)} classes")
    names = [name if isinstance(name, str) else int(name) for name in classes]
    likeliest = names[flat.index(max(flat))]
    label = likeliest if isinstance(likeliest, str) else torch.tensor(likeliest)
    return label, dict(zip(names, flat, strict=True))


def _written(ls: list[Any], indices: tuple[int, ...], values: list[Tensor]) -> list[Any]:
    if any(index < 0 for index in indices):
        raise IndexError(f"index is {min(indices)}, expected 0 or more")
    length = max([len(ls), *(index + 1 for index in indices)])
    _check_length(length)
    result = [*ls, *[None] * (length - len(ls))]
    for index, value in zip(indices, values, strict=True):
        result[index] = value
    return [torch.zeros_like(values[0]) if element is None else element for element in result]


def _check_length(length: int) -> None:
    if not 0 <= length <= _LONGEST:
        raise ValueError(f"a list of {length} elements, expected at most {_LONGEST}")


OPS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        classify, list_gather, list_length, list_read, list_scatter, list_write, make_list,
    )
}  # fmt: skip
"""Op type -> its function."""
