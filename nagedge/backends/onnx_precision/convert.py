"""From a finished float32 model to what a target asks for; the conversions run in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.backends.subprocess_conversion import run_conversion
from nagedge.errors import ConfigurationError, DataError
from nagedge.specs import BATCH, TensorSpec
from nagedge.targets import Target

__all__ = ["in_ort_format", "in_precision"]

Array = npt.NDArray[Any]
Batches = Sequence[Mapping[str, Array]]

_CALIBRATED_AT_ONCE = 32
_HERE = "nagedge.backends.onnx_precision"
_REMEDY = "Choose a target of precision 'fp32', which needs no conversion."


def in_precision(
    model: bytes,
    target: Target,
    inputs: Sequence[TensorSpec] = (),
    calibration: Batches = (),
    *,
    batch: int | None = None,
) -> bytes:
    """Return a float32 ONNX model in the target's precision, with the same float32 inputs and outputs.

    Args:
        model: serialised.
        target: its precision is ``fp32``, ``fp16``, ``int8`` or ``int8_dynamic``.
        inputs: of the model.
        calibration: batches of prepared inputs by name, for ``int8``; a few hundred rows.
        batch: the only batch size that the model takes; None when it is free.

    Raises:
        ConfigurationError: ``int8`` without calibration.
        DataError: the calibration does not fit the inputs.
        UnsupportedOperatorError: the converter cannot take the model.
    """
    what = f"conversion to {target.precision} for target {target.name!r}"
    if target.precision == "fp32":
        return model
    if target.precision == "fp16":
        return run_conversion(f"{_HERE}.float16:convert", {"model": model}, what=what, remedy=_REMEDY)[
            "model"
        ]
    payload: dict[str, Any] = {"model": model, "target": target.name}
    if target.precision == "int8_dynamic":
        return run_conversion(f"{_HERE}.int8:quantize_dynamic", payload, what=what, remedy=_REMEDY)["model"]
    payload["calibration"] = _packed(target, inputs, calibration, batch)
    return run_conversion(f"{_HERE}.int8:quantize_static", payload, what=what, remedy=_REMEDY)["model"]


def in_ort_format(models: Mapping[str, bytes], target: Target) -> tuple[dict[str, bytes], bytes]:
    """Return ONNX models by name in ONNX Runtime's format, and the operators and types that all of them need.

    Raises:
        UnsupportedOperatorError: the converter cannot take a model.
    """
    what = f"conversion to the ORT format for target {target.name!r}"
    remedy = "Set ort_format = false in the target: the .onnx file needs no conversion."
    answer = run_conversion(f"{_HERE}.ort_format:convert", models, what=what, remedy=remedy)
    return {name: answer[name] for name in models}, answer["config"]


def _packed(target: Target, inputs: Sequence[TensorSpec], calibration: Batches, batch: int | None) -> bytes:
    """Return the calibration rows as safetensors, in batches of the size that the model takes."""
    import safetensors.numpy

    arrays = {
        f"{number}/{name}": array
        for number, rows in enumerate(_batches(target, inputs, calibration, batch))
        for name, array in rows.items()
    }
    return safetensors.numpy.save(arrays)


def _batches(
    target: Target, inputs: Sequence[TensorSpec], calibration: Batches, size: int | None
) -> Iterator[dict[str, Array]]:
    if not calibration:
        raise ConfigurationError(
            f"target {target.name!r} is int8: the ranges of its activations are taken from calibration data, and none "
            "was given. Give a few hundred examples of prepared inputs, or choose a target of precision "
            "'int8_dynamic', 'fp16' or 'fp32', which need none."
        )
    columns = {spec.name: _column(target, spec, calibration) for spec in inputs}
    rows = len(next(iter(columns.values())))
    for name, column in columns.items():
        if len(column) != rows:
            raise DataError(
                f"calibration of target {target.name!r}: input {name!r} has {len(column)} rows, "
                f"{next(iter(columns))!r} has {rows}: give one a row of the batch."
            )
    if rows == 0:
        raise DataError(f"calibration of target {target.name!r} has no row: give a few hundred.")
    for start in range(0, rows, size or _CALIBRATED_AT_ONCE):
        chosen = np.arange(start, min(start + (size or _CALIBRATED_AT_ONCE), rows))
        if size is not None:
            chosen = np.resize(chosen, size)  # a repeated row changes no range
        yield {name: np.ascontiguousarray(column[chosen]) for name, column in columns.items()}


def _column(target: Target, spec: TensorSpec, calibration: Batches) -> Array:
    """Return all rows of one input, checked."""
    pieces = []
    for number, batch in enumerate(calibration):
        where = f"calibration of target {target.name!r}, batch {number}"
        if spec.name not in batch:
            raise DataError(
                f"{where}: input {spec.name!r} is missing; got {', '.join(batch) or 'none'}. Give every input."
            )
        array = np.asarray(batch[spec.name])
        if array.shape[1:] != spec.shape[1:] or array.ndim == 0:
            raise DataError(
                f"{where}: input {spec.name!r} has shape {list(array.shape)}, expected "
                f"[{', '.join(str(s) for s in (BATCH, *spec.shape[1:]))}]: prepare it as for the model."
            )
        if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            raise DataError(
                f"{where}: input {spec.name!r} has dtype {array.dtype}, expected {spec.dtype}: convert it first."
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{where}: input {spec.name!r} holds NaN or infinite values: remove these rows.")
        pieces.append(array.astype(spec.dtype, copy=False))
    return np.concatenate(pieces)
