"""int8 of a finished .tflite, by ai-edge-quantizer, in a process of its own.

``int8_dynamic``: int8 weights, activations quantised as they come, results in float32. ``int8``: int8 weights and
activations, whose ranges come from calibration batches. Inputs and outputs stay float32 either way.

This module runs in the child process too and imports no torch.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.backends.subprocess_conversion import run_conversion
from nagedge.errors import ConfigurationError
from nagedge.targets import Target

__all__ = ["DYNAMIC_MARK", "MARK", "quantize", "quantized"]

MARK, DYNAMIC_MARK = "int8_", "dynamic_int8_"
"""What the names of results begin with whose operations are quantised statically, or with measured activations."""

Batches = Sequence[Mapping[str, npt.NDArray[Any]]]

_REMEDY = (
    "Choose the target's float32 or float16 sibling, or replace the part of the model that it cannot take."
)
_SIGNATURE = "infer"


def quantized(model: bytes, target: Target, calibration: Batches) -> bytes:
    """Return a float32 .tflite in the precision of ``target``.

    Args:
        model: with the signature ``infer``; for ``int8``, :data:`MARK` says which operations.
        target: names ``int8`` or ``int8_dynamic``.
        calibration: batches of prepared inputs by name, for ``int8``.

    Raises:
        ConfigurationError: ``int8`` without calibration batches.
        UnsupportedOperatorError: the quantizer failed; the text says how.
    """
    static = target.precision == "int8"
    if static and not calibration:
        raise ConfigurationError(
            f"target {target.name!r} quantises activations ahead of time and needs calibration data: give examples "
            "(--calibration FILE, calibration= in Python), or choose a target of precision int8_dynamic."
        )
    payload = {
        "model": model,
        "static": static,
        "calibration": _packed(calibration) if static else b"",
    }
    what = f"quantising for target {target.name!r}"
    return run_conversion(f"{__name__}:quantize", payload, what=what, remedy=_REMEDY)["model"]


def _packed(batches: Batches) -> bytes:
    content = io.BytesIO()
    arrays = {f"{i}/{name}": array for i, batch in enumerate(batches) for name, array in batch.items()}
    np.savez(content, **arrays)  # type: ignore[arg-type] # numpy types the keyword allow_pickle among them
    return content.getvalue()


def _unpacked(content: bytes) -> list[dict[str, npt.NDArray[Any]]]:
    batches: dict[int, dict[str, npt.NDArray[Any]]] = {}
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for key in arrays.files:
            number, _, name = key.partition("/")
            batches.setdefault(int(number), {})[name] = arrays[key]
    return list(batches.values())


def quantize(payload: Mapping[str, Any]) -> dict[str, bytes]:
    """Quantise in this process; see :func:`quantized` for what the payload holds."""
    from ai_edge_quantizer import qtyping, quantizer

    work = quantizer.Quantizer(payload["model"])
    operator, whole = qtyping.TFLOperationName, qtyping.QuantGranularity.TENSORWISE
    # Weights of convolutions have a scale a channel. Those of fully connected layers have one in all: TensorFlow Lite
    # 2.14 reads no more than the first, and computes wrong results without a word.
    if payload["static"]:
        work.add_static_config(f"^{MARK}", operator.ALL_SUPPORTED, 8, 8)
        work.add_static_config(f"^{MARK}", operator.FULLY_CONNECTED, 8, 8, whole)
        work.add_dynamic_config(f"^{DYNAMIC_MARK}", operator.FULLY_CONNECTED, 8, whole)
        for border in (operator.INPUT, operator.OUTPUT):
            work.update_quantization_recipe(".*", border, algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE)
        found = [
            work.calibrate({_SIGNATURE: [batch]}, num_threads=1)
            for batch in _unpacked(payload["calibration"])
        ]
        result = work.quantize(_widest(found), enable_progress_bar=False, enable_progress_report=False)
    else:
        work.add_dynamic_config(".*", operator.ALL_SUPPORTED, 8)
        work.add_dynamic_config(".*", operator.FULLY_CONNECTED, 8, whole)
        result = work.quantize(enable_progress_bar=False, enable_progress_report=False)
    return {"model": bytes(result.quantized_model)}


def _widest(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the ranges over all batches; the quantizer's own moving average would cut off what is rare."""
    merged = {name: dict(values) for name, values in found[0].items()}
    for ranges in found[1:]:
        for name, values in ranges.items():
            if values:
                own = merged[name]
                own["min"], own["max"] = (
                    np.minimum(own["min"], values["min"]),
                    np.maximum(own["max"], values["max"]),
                )
    return merged
