"""Deployment targets: one TOML file each, data and no code.

The files that come with NagEdge lie in ``export/`` of the repository, in ``nagedge/_export`` of a wheel.
Their names follow ``{os}-{arch}-{backend}-{precision}[-train].toml``; a file of one's own may have any name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nagedge.errors import ConfigurationError, nearest_name
from nagedge.toml_records import RecordTexts, read_record

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["BACKEND_NAMES", "PRECISIONS", "Target", "available_targets", "load_target", "target_file"]

BACKEND_NAMES = ("onnxruntime", "ort_training", "litert", "tflite_runtime", "coreml")
"""The backends a target may name; :mod:`nagedge.lowering` says which module lowers for each."""

PRECISIONS = ("fp32", "fp16", "int8", "int8_dynamic", "palette4")
"""The precisions a target may name.

``int8`` has calibrated activations (static; Core ML: weights only), ``int8_dynamic`` measures them at run time,
``palette4`` stores weights as indices into tables of 16 values.
"""

_PRECISIONS_OF = {
    "onnxruntime": ("fp32", "fp16", "int8", "int8_dynamic"),
    "ort_training": ("fp32",),
    "litert": ("fp32", "fp16", "int8", "int8_dynamic"),
    "tflite_runtime": ("fp32", "fp16", "int8", "int8_dynamic"),
    "coreml": ("fp32", "fp16", "int8", "palette4"),
}
_OPSETS = {"onnxruntime": (18, 22), "ort_training": (18, 21)}
_TEXTS = RecordTexts(
    kind="target file",
    stated_by="every target",
    unreadable="give the path of a .toml file, or a name that `nagedge targets ls` lists",
    malformed="start from a copy made by `nagedge targets cp`",
)


@dataclass(frozen=True)
class Target:
    """What an export is made for, and how closely it must agree with PyTorch there.

    Two tensors agree when ``max|got - expected| <= atol + rtol * max|expected|``.

    Args:
        name: the file's name without ``.toml``.
        os, arch: operating system and processor; ``"any"`` where the files are portable.
        backend: one of :data:`BACKEND_NAMES`.
        precision: one of :data:`PRECISIONS`.
        rtol, atol: tolerances of a training trajectory: losses, parameters and momentum buffers after every
            step.
        inference_rtol, inference_atol: tolerances of the outputs of one forward pass.
        backward_error: relative perturbation of parameters and inputs that counts as rounding: when two trajectories
            part, the runtime's step must agree with PyTorch's step on data perturbed by no more than this.
        train: whether the export holds a training step besides inference; fp32 only.
        opset: version of the ``ai.onnx`` operator set; of the backends that write ONNX, and only of them.
        minimum_os: the oldest system that must load the files, such as ``"iOS18"``; of Core ML.
        batch: fix the batch size of this target's files; None leaves it free where backend and model allow it.
        ort_format: write the models in ONNX Runtime's own format too, for reduced builds (onnxruntime only).
    """

    name: str
    os: str
    arch: str
    backend: str
    precision: str
    rtol: float
    atol: float
    inference_rtol: float
    inference_atol: float
    backward_error: float = 1e-6
    train: bool = False
    opset: int | None = None
    minimum_os: str = ""
    batch: int | None = None
    ort_format: bool = False


def available_targets() -> tuple[str, ...]:
    """Return the names of the targets that come with NagEdge, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def target_file(name: str) -> Path:
    """Return the file of a target that comes with NagEdge.

    Raises:
        ConfigurationError: when there is none of that name.
    """
    known = available_targets()
    if name not in known:
        raise ConfigurationError(
            f"unknown target {name!r}; `nagedge targets ls` lists the {len(known)} that come with NagEdge, or give the "
            "path of a .toml file." + nearest_name(name, known)
        )
    return _folder() / f"{name}.toml"


def load_target(name_or_path: str | PathLike[str]) -> Target:
    """Return a target by name, or from a file of one's own.

    Args:
        name_or_path: a name of :func:`available_targets`; anything that is a path object, ends in ``.toml``
            or holds a path separator is read as a file.

    Raises:
        ConfigurationError: for an unknown name, a missing or malformed file, an unknown or missing key, or a
            value of the wrong type or out of range.
    """
    is_name = isinstance(name_or_path, str) and not name_or_path.endswith(".toml") and "/" not in name_or_path
    path = target_file(str(name_or_path)) if is_name else Path(name_or_path)
    target = read_record(Target, path, _TEXTS)
    _check_ranges(path, target)
    return target


def _check_ranges(path: Path, target: Target) -> None:
    for key, known in {"backend": BACKEND_NAMES, "precision": PRECISIONS}.items():
        got = getattr(target, key)
        if got not in known:
            raise ConfigurationError(
                f"target file {path}: unknown {key} {got!r}; this version has {', '.join(known)}."
                + nearest_name(got, known)
            )
    for key in ("rtol", "atol", "inference_rtol", "inference_atol", "backward_error"):
        got = getattr(target, key)
        if not (math.isfinite(got) and got >= 0):
            raise ConfigurationError(f"target file {path}: {key} is {got}, expected a finite number >= 0.")
    precisions = _PRECISIONS_OF[target.backend]
    if target.precision not in precisions:
        raise ConfigurationError(
            f"target file {path}: precision is {target.precision!r}, but backend {target.backend!r} has "
            f"{', '.join(precisions)}."
        )
    if target.train and target.precision != "fp32":
        raise ConfigurationError(
            f"target file {path}: train is true with precision {target.precision!r}; a training step is fp32: the "
            "updates are smaller than the last bit of anything coarser. Make it two targets."
        )
    if target.batch is not None and target.batch < 1:
        raise ConfigurationError(f"target file {path}: batch is {target.batch}, expected a size >= 1.")
    _check_opset(path, target)
    if target.minimum_os and target.backend != "coreml":
        raise ConfigurationError(f"target file {path}: minimum_os belongs to backend 'coreml' only.")
    if target.ort_format and target.backend != "onnxruntime":
        raise ConfigurationError(f"target file {path}: ort_format belongs to backend 'onnxruntime' only.")


def _check_opset(path: Path, target: Target) -> None:
    if target.backend not in _OPSETS:
        if target.opset is not None:
            raise ConfigurationError(
                f"target file {path}: opset is {target.opset}, but backend {target.backend!r} writes no ONNX: "
                "remove it."
            )
        return
    lowest, highest = _OPSETS[target.backend]
    if target.opset is None:
        raise ConfigurationError(
            f"target file {path}: 'opset' is missing; a target that writes ONNX states it."
        )
    if not lowest <= target.opset <= highest:
        raise ConfigurationError(
            f"target file {path}: opset is {target.opset}, expected {lowest} to {highest}; 18 runs on every "
            "ONNX Runtime since 1.14."
        )


def _folder() -> Path:
    """Return where the shipped files lie: in the package (wheel), else beside it (editable install)."""
    package = Path(__file__).parent
    shipped = package / "_export"
    return shipped if shipped.is_dir() else package.parent / "export"
