"""The Nesterov update of all parameters, written so that runtimes compute it in few and large operations.

The reference is :func:`nagedge.training.nesterov.nesterov_step`, parameter by parameter: six to eight operations each,
for a MobileNet about a thousand nodes of a few values. So small tensors are packed: those of one shape but for their
first or second axis are laid side by side along it, which takes no reshape of any of them; the others become vectors.
What decays and what does not is packed apart. Large tensors are updated one by one, as copying them costs more than it
saves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nagedge.training.nesterov import nesterov_step

__all__ = ["nesterov_update"]

SMALL = 16384
"""Values up to which a tensor is packed: beyond, the copies take longer than the operations that they save.

MobileNetV3-small-050's step: 25.6 ms with 1,024, 25.0 ms with 4,096, 24.2 ms with 16,384.
"""

_ALONE, _PACK, _RESHAPED = 8, 13, 5
"""Operations that update one tensor, that update a pack, and that flatten one tensor for a pack of vectors and back."""


@dataclass(frozen=True)
class _Pack:
    """Parameters that are updated as one tensor, with their gradients and buffers.

    Attributes:
        names: of the parameters.
        shapes: of the parameters.
        axis: along which they are laid side by side; None where they were made vectors.
        decays: whether weight decay applies.
        param, gradient, velocity: of one shape.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    axis: int | None
    decays: bool
    param: Tensor
    gradient: Tensor
    velocity: Tensor


def nesterov_update(
    names: Sequence[str],
    params: Sequence[Tensor],
    gradients: Sequence[Tensor],
    velocities: Sequence[Tensor],
    *,
    decayed: Collection[str],
    lr: Tensor,
    momentum: Tensor,
    weight_decay: Tensor,
    restarts: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the new parameters and the new momentum buffers, in the order of ``names``.

    Args:
        names, params, gradients, velocities: of one length; a parameter, its gradient and its buffer have one shape.
        decayed: names of the parameters to which weight decay applies.
        lr, momentum, weight_decay: without dimensions.
        restarts: from gradients and velocities (packed) to a bool without dimensions: whether the step begins with
            velocities of zero; None for never.
    """
    tensors = dict(zip(names, zip(params, gradients, velocities, strict=True), strict=True))
    packs = [pack for decays in (True, False) for pack in _packs(tensors, decayed, decays=decays)]
    keep = None
    if restarts is not None:
        turned = restarts([pack.gradient for pack in packs], [pack.velocity for pack in packs])
        keep = torch.where(turned, torch.zeros_like(momentum), torch.ones_like(momentum))
    results: dict[str, tuple[Tensor, Tensor]] = {}
    for pack in packs:
        new_param, new_velocity = _updated(
            pack.param,
            pack.gradient,
            pack.velocity if keep is None else keep * pack.velocity,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay if pack.decays else 0.0,
        )
        results |= zip(
            pack.names, zip(_parts(pack, new_param), _parts(pack, new_velocity), strict=True), strict=True
        )
    return [results[name][0] for name in names], [results[name][1] for name in names]


def _packs(
    tensors: Mapping[str, tuple[Tensor, Tensor, Tensor]], decayed: Collection[str], *, decays: bool
) -> Iterator[_Pack]:
    """Yield the packs of the parameters that decay, or of those that do not."""
    left: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for name, values in tensors.items():
        if (name in decayed) != decays:
            continue
        if values[0].numel() > SMALL:
            yield _pack({name: values}, 0, decays=decays)
        else:
            left[name] = values
    yield from _packs_of_alike(left, decays, fewest=_PACK // _RESHAPED + 1)
    if _PACK + _RESHAPED * len(left) < _ALONE * len(left):
        yield _pack(left, None, decays=decays)
    else:
        yield from _packs_of_alike(left, decays, fewest=_PACK // _ALONE + 1)
        for name, values in left.items():
            yield _pack({name: values}, 0, decays=decays)


def _packs_of_alike(
    left: dict[str, tuple[Tensor, Tensor, Tensor]], decays: bool, *, fewest: int
) -> Iterator[_Pack]:
    """Yield packs of at least ``fewest`` tensors that can be laid side by side, and take them out of ``left``.

    The largest first: of LoRA's branches one pack holds all that go up, along the first axis, and one all that go down,
    along the second. Of packs as large the one along the first axis, whose tensors are copied whole.
    """
    while True:
        alike: dict[tuple[int, Hashable], list[str]] = {}
        for axis in (0, 1):
            for name, values in left.items():
                shape = tuple(values[0].shape)
                if len(shape) > axis:
                    alike.setdefault((axis, (shape[:axis], shape[axis + 1 :])), []).append(name)
        (axis, _), group = max(alike.items(), key=lambda item: len(item[1]), default=((0, None), []))
        if len(group) < fewest:
            return
        yield _pack({name: left.pop(name) for name in group}, axis, decays=decays)


def _pack(tensors: Mapping[str, tuple[Tensor, Tensor, Tensor]], axis: int | None, *, decays: bool) -> _Pack:
    roles = zip(*tensors.values(), strict=True)
    param, gradient, velocity = (_joined(values, axis) for values in roles)
    shapes = tuple(values[0].shape for values in tensors.values())
    return _Pack(tuple(tensors), shapes, axis, decays, param, gradient, velocity)


def _joined(values: Sequence[Tensor], axis: int | None) -> Tensor:
    if axis is None:
        values = [_flat(value) for value in values]
    return torch.cat(list(values), axis or 0) if len(values) > 1 else values[0]


def _parts(pack: _Pack, value: Tensor) -> Sequence[Tensor]:
    """Return what :func:`_joined` joined."""
    parts: Sequence[Tensor] = (value,)
    if len(pack.shapes) > 1:
        sizes = [shape.numel() if pack.axis is None else shape[pack.axis] for shape in pack.shapes]
        parts = torch.split(value, sizes, pack.axis or 0)
    if pack.axis is not None:
        return parts
    return [part.reshape(shape) for part, shape in zip(parts, pack.shapes, strict=True)]


def _updated(
    param: Tensor,
    gradient: Tensor,
    velocity: Tensor,
    *,
    lr: Tensor,
    momentum: Tensor,
    weight_decay: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Update one tensor; a large one in the order of operations that moves least through memory.

    ``d + momentum b'`` is ``(1 + momentum) b' - momentum b``. Written so, what does not wait for the gradient is two
    sums of a tensor and a scaled tensor, each one pass on ONNX Runtime (see :mod:`.decompositions.sums`), and the
    gradient is only added, which its matrix product does.
    """
    if param.numel() <= SMALL:
        return nesterov_step(param, gradient, velocity, lr=lr, momentum=momentum, weight_decay=weight_decay)
    decays = isinstance(weight_decay, Tensor)
    kept = torch.addcmul(weight_decay * param, velocity, momentum) if decays else momentum * velocity
    new_velocity = kept + gradient
    ahead = torch.addcmul(param, velocity, lr * momentum)
    return ahead - (lr * (1 + momentum)) * new_velocity, new_velocity


def _flat(value: Tensor) -> Tensor:
    return value if value.dim() == 1 else value.reshape(-1)
