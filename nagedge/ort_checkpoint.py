"""The checkpoint file of ONNX Runtime's on-device training, written and read without that runtime.

It is one FlatBuffer: trainable and other parameters, the optimizer's state, and properties. The schema is upstream's
``onnxruntime/core/flatbuffers/schema/ort_training_checkpoint.fbs`` (version 2 of the
format, onnxruntime-training 1.19); the numbers of the fields below are their places in it. Every integer in the file is
little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import flatbuffers  # type: ignore[import-untyped]  # ships no types
import numpy as np
import numpy.typing as npt
from flatbuffers import number_types as fb
from flatbuffers.table import Table  # type: ignore[import-untyped]

from nagedge.errors import BundleError

__all__ = ["OrtCheckpoint", "read_checkpoint", "with_state", "write_checkpoint"]

Arrays = Mapping[str, npt.NDArray[Any]]
Property = int | float | str

_IDENTIFIER = b"ODTC"
_VERSION = 2
_GROUP = "group0"  # upstream has no other
_MOMENTUM = "momentum0"  # its name for the first state tensor of a parameter
_DEFAULT_LR = 0.001  # what upstream starts with until set_learning_rate is called

# onnxruntime.fbs.TensorDataType, which is onnx.TensorProto.DataType
_DTYPES = {
    1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1"), 6: np.dtype("<i4"), 7: np.dtype("<i8"),
    9: np.dtype("?"), 10: np.dtype("<f2"), 11: np.dtype("<f8"),
}  # fmt: skip
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class OrtCheckpoint:
    """What a checkpoint file holds.

    Attributes:
        params: trainable parameters by name.
        buffers: parameters that get no gradient, by name.
        momentum: the optimizer's first state tensor by parameter name; empty for a file without optimizer state, with
            which upstream starts from zeros.
        step: updates made so far.
        initial_lr: learning rate until ``set_learning_rate`` is called.
        properties: whatever a program stored with its model.
        nominal: whether the file holds names and dtypes only (upstream's *nominal checkpoint*).
    """

    params: Arrays
    buffers: Arrays = field(default_factory=dict)
    momentum: Arrays = field(default_factory=dict)
    step: int = 0
    initial_lr: float = _DEFAULT_LR
    properties: Mapping[str, Property] = field(default_factory=dict)
    nominal: bool = False


def with_state(checkpoint: bytes, params: Arrays, momentum: Arrays) -> bytes:
    """Return a checkpoint that goes on from what was learnt.

    Args:
        checkpoint: the file to take names, dtypes and properties from.
        params: new values by the names that the file has, trainable or not; names that it does not have are ignored.
        momentum: momentum buffers by parameter name; parameters without one start from zeros.

    Raises:
        BundleError: the file is no checkpoint, or an array does not have the shape that the file has.
    """
    old = read_checkpoint(checkpoint)
    if old.nominal:
        return checkpoint  # names only: there is nothing to go on from

    def renewed(tensors: Arrays) -> Arrays:
        return {name: _like(value, params.get(name, value), name) for name, value in tensors.items()}

    velocities = {
        name: _like(value, momentum.get(name, np.zeros_like(value)), name)
        for name, value in old.params.items()
    }
    return write_checkpoint(
        replace(old, params=renewed(old.params), buffers=renewed(old.buffers), momentum=velocities)
    )


def _like(old: npt.NDArray[Any], new: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    if new.shape != old.shape:
        raise BundleError(
            f"checkpoint: {name!r} has shape {list(new.shape)}, the file has {list(old.shape)}. Take the state of the "
            "same export."
        )
    return new.astype(old.dtype, copy=False)


# --- writing --------------------------------------------------------------------------------------------------------


def write_checkpoint(checkpoint: OrtCheckpoint) -> bytes:
    """Return the content of the file; equal checkpoints give equal bytes."""
    size = sum(array.nbytes for array in (*checkpoint.params.values(), *checkpoint.buffers.values()))
    builder = flatbuffers.Builder(2 * size + 4096)
    nominal = checkpoint.nominal
    trainable = _tensors(builder, checkpoint.params, nominal=nominal)
    others = _tensors(builder, checkpoint.buffers, nominal=nominal)
    module = _table(builder, {0: trainable, 1: others}, flags={2: nominal})
    groups = _optimizer_groups(builder, checkpoint) if checkpoint.momentum and not nominal else None
    bag = _properties(builder, checkpoint.properties) if checkpoint.properties else None
    builder.StartObject(4)
    builder.PrependInt32Slot(0, _VERSION, 0)
    for slot, offset in ((1, module), (2, groups), (3, bag)):
        if offset is not None:
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    builder.Finish(builder.EndObject(), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _optimizer_groups(builder: Any, checkpoint: OrtCheckpoint) -> int:
    states = []
    for name in sorted(checkpoint.momentum):
        moments = _tensors(builder, {_MOMENTUM: checkpoint.momentum[name]}, nominal=False)
        states.append(_table(builder, {0: builder.CreateString(name), 1: moments}))
    offsets = {0: builder.CreateString(_GROUP), 3: _vector(builder, states)}
    builder.StartObject(4)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    builder.PrependInt64Slot(1, checkpoint.step, 0)
    builder.PrependFloat32Slot(2, checkpoint.initial_lr, 0.0)
    return _vector(builder, [builder.EndObject()])


def _properties(builder: Any, properties: Mapping[str, Property]) -> int:
    kinds: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for name in sorted(properties):
        value = properties[name]
        key = builder.CreateString(name)
        text = builder.CreateString(value) if isinstance(value, str) else None
        builder.StartObject(2)
        builder.PrependUOffsetTRelativeSlot(0, key, 0)
        if text is not None:
            builder.PrependUOffsetTRelativeSlot(1, text, 0)
        elif isinstance(value, int):
            builder.PrependInt64Slot(1, value, 0)
        else:
            builder.PrependFloat32Slot(1, value, 0.0)
        kinds[2 if text is not None else 0 if isinstance(value, int) else 1].append(builder.EndObject())
    return _table(builder, {slot: _vector(builder, offsets) for slot, offsets in kinds.items()})


def _tensors(builder: Any, arrays: Arrays, *, nominal: bool) -> int:
    return _vector(builder, [_tensor(builder, name, arrays[name], nominal) for name in sorted(arrays)])


def _tensor(builder: Any, name: str, array: npt.NDArray[Any], nominal: bool) -> int:
    code = _CODES.get(array.dtype.newbyteorder("<"))
    if code is None:
        raise BundleError(f"checkpoint: {name!r} has dtype {array.dtype}, which the format does not have.")
    content = np.zeros(0, np.uint8) if nominal else np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    shape = np.asarray(() if nominal else array.shape, np.int64)
    offsets = {0: builder.CreateString(name), 2: builder.CreateNumpyVector(shape)}
    offsets[4] = builder.CreateNumpyVector(content)
    builder.StartObject(7)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    builder.PrependInt32Slot(3, code, 0)
    return int(builder.EndObject())


def _table(builder: Any, offsets: Mapping[int, int], flags: Mapping[int, bool] | None = None) -> int:
    builder.StartObject(1 + max((*offsets, *(flags or {}))))
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, flag in (flags or {}).items():
        builder.PrependBoolSlot(slot, flag, False)
    return int(builder.EndObject())


def _vector(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


# --- reading --------------------------------------------------------------------------------------------------------


def read_checkpoint(content: bytes) -> OrtCheckpoint:
    """Return what a checkpoint file holds; of the optimizer's state, the first tensor of every parameter.

    Raises:
        BundleError: it is no checkpoint, of another version, or damaged.
    """
    if content[4:8] != _IDENTIFIER:
        raise BundleError("the file is no checkpoint of ONNX Runtime's on-device training. Export again.")
    try:
        return _read(content)
    except BundleError:
        raise
    except (
        Exception
    ) as error:  # a damaged FlatBuffer fails in any way: struct.error, TypeError, UnicodeDecodeError
        raise BundleError(
            f"the checkpoint is damaged ({type(error).__name__}). Export again, or take it from a backup."
        ) from None


def _read(content: bytes) -> OrtCheckpoint:
    root = Table(content, int.from_bytes(content[:4], "little"))
    version = _number(root, 0, fb.Int32Flags)
    if version != _VERSION:
        raise BundleError(
            f"the checkpoint has version {version}, this program reads {_VERSION} (onnxruntime-training 1.19)."
        )
    params: dict[str, npt.NDArray[Any]] = {}
    buffers: dict[str, npt.NDArray[Any]] = {}
    module = _child(root, 1)
    if module is not None:
        params = dict(map(_array, _children(module, 0)))
        buffers = dict(map(_array, _children(module, 1)))
    result = OrtCheckpoint(
        params, buffers, nominal=module is not None and bool(_number(module, 2, fb.BoolFlags))
    )
    for group in _children(root, 2):
        momentum = {}
        for state in _children(group, 3):
            tensors = dict(map(_array, _children(state, 1)))
            if _MOMENTUM in tensors:
                momentum[_text(state, 0)] = tensors[_MOMENTUM]
        result = replace(
            result, momentum=momentum, step=int(_number(group, 1, fb.Int64Flags)),
            initial_lr=float(_number(group, 2, fb.Float32Flags)),
        )  # fmt: skip
    bag = _child(root, 3)
    if bag is None:
        return result
    properties: dict[str, Property] = {}
    properties |= {_text(entry, 0): int(_number(entry, 1, fb.Int64Flags)) for entry in _children(bag, 0)}
    properties |= {_text(entry, 0): float(_number(entry, 1, fb.Float32Flags)) for entry in _children(bag, 1)}
    properties |= {_text(entry, 0): _text(entry, 1) for entry in _children(bag, 2)}
    return replace(result, properties=properties)


def _array(tensor: Table) -> tuple[str, npt.NDArray[Any]]:
    name = _text(tensor, 0)
    code = _number(tensor, 3, fb.Int32Flags)
    if code not in _DTYPES:
        raise BundleError(f"the checkpoint's tensor {name!r} has the unknown dtype {code}.")
    shape = _numbers(tensor, 2, np.dtype("<i8"))
    content = _numbers(tensor, 4, np.dtype("u1"))
    dtype: Any = _DTYPES[int(code)]
    if content.size == 0:  # of a nominal checkpoint, or a tensor without elements
        shape = shape if shape.size else np.zeros(1, np.int64)
    return name, content.view(dtype).reshape([int(size) for size in shape]).copy()


def _position(table: Table, slot: int) -> int | None:
    offset = table.Offset(4 + 2 * slot)
    return int(table.Pos) + int(offset) if offset else None


def _number(table: Table, slot: int, flags: Any) -> Any:
    at = _position(table, slot)
    return flags.py_type(0) if at is None else table.Get(flags, at)


def _text(table: Table, slot: int) -> str:
    at = _position(table, slot)
    return "" if at is None else str(table.String(at).decode())


def _child(table: Table, slot: int) -> Table | None:
    at = _position(table, slot)
    return None if at is None else Table(table.Bytes, table.Indirect(at))


def _children(table: Table, slot: int) -> Iterator[Table]:
    at = _position(table, slot)
    if at is None:
        return
    first = at - table.Pos
    start, count = table.Vector(first), table.VectorLen(first)
    for index in range(count):
        yield Table(table.Bytes, table.Indirect(start + 4 * index))


def _numbers(table: Table, slot: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    at = _position(table, slot)
    if at is None:
        return np.zeros(0, dtype)
    first = at - table.Pos
    return np.frombuffer(table.Bytes, dtype, table.VectorLen(first), table.Vector(first))
