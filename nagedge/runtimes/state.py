"""The state of a training session, and the checks of what is fed to one: the same for every runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagedge.errors import BundleError, DataError
from nagedge.specs import BATCH

if TYPE_CHECKING:
    from nagedge.bundle import Bundle
    from nagedge.manifest import Manifest

__all__ = [
    "TrainingState",
    "checked_batch",
    "initial_state",
    "losses_of",
    "named_state",
    "state_of",
    "step_inputs",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TrainingState:
    """What a training step reads and writes, by name.

    Attributes:
        params: trained parameters.
        momentum: their momentum buffers.
        buffers: buffers that the step updates.
    """

    params: dict[str, Array]
    momentum: dict[str, Array]
    buffers: dict[str, Array]


def named_state(state: TrainingState) -> dict[str, Array]:
    """Return every tensor of a state under the name that a training step has for it: ``params.<name>`` and so on."""
    roles = {"params": state.params, "momentum": state.momentum, "buffers": state.buffers}
    return {f"{role}.{name}": array for role, arrays in roles.items() for name, array in arrays.items()}


def state_of(named: Mapping[str, Array]) -> TrainingState:
    """Return the state of such names, as copies."""
    roles: dict[str, dict[str, Array]] = {"params": {}, "momentum": {}, "buffers": {}}
    for key, array in named.items():
        role, _, name = key.partition(".")
        roles[role][name] = np.array(array)
    return TrainingState(**roles)


def initial_state(bundle: Bundle) -> TrainingState:
    """Return the state that the bundle was exported with."""
    training = bundle.manifest.training
    assert training is not None  # the callers open bundles that can train
    params, momentum = bundle.params(), bundle.momentum()
    for name in (*training.parameters, *training.buffers):
        if name not in params:
            raise BundleError(
                f"bundle {str(bundle.path)!r}: {name!r} is trained, says the manifest, but params.safetensors does not "
                "hold it. Export again, or take the bundle from a backup."
            )
    return TrainingState(
        {name: params[name] for name in training.parameters},
        {name: momentum.get(name, np.zeros_like(params[name])) for name in training.parameters},
        {name: params[name] for name in training.buffers},
    )


def checked_batch(
    manifest: Manifest,
    inputs: Mapping[str, Array],
    targets: Mapping[str, Array] | None,
    sample_weight: Array | None,
    *,
    target: str | None = None,
) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """Return inputs, targets and weights in the manifest's dtypes, checked against its shapes.

    Args:
        manifest: what fits.
        inputs: by name.
        targets: by task name; None for inference.
        sample_weight: None for ones.
        target: name of the target whose artifact is run; it may fix the batch size.

    Raises:
        DataError: an input or target is missing, or has a dtype or shape that does not fit; a weight is negative.
    """
    sizes: dict[str, int] = {}

    def fitted(what: str, given: Mapping[str, Array], name: str, dtype: str, shape: list[int | str]) -> Array:
        if name not in given:
            raise DataError(f"{what} {name!r} is missing; got {', '.join(given) or 'none'}.")
        array = np.asarray(given[name])
        # What fits already, as most batches do, is not looked at twice: a small model's step takes half a millisecond.
        has_form = array.ndim > 0 and shape[0] == BATCH and array.shape[1:] == (*shape[1:],)
        if has_form and array.dtype == dtype and array.flags.c_contiguous:
            sizes[f"{what} {name!r}"] = array.shape[0]
            return array
        if array.dtype != np.dtype(dtype) and not np.can_cast(array.dtype, dtype, "same_kind"):
            raise DataError(f"{what} {name!r} has dtype {array.dtype}, expected {dtype}: convert it first.")
        array = np.ascontiguousarray(array, dtype=dtype)
        expected = [s if isinstance(s, int) else None for s in shape]
        if array.ndim == len(expected) + 1 and array.shape[-1] == 1:
            array = array[..., 0]  # [batch, 1] is [batch]
        fits = array.ndim == len(expected) and all(
            e is None or e == got for e, got in zip(expected, array.shape, strict=True)
        )
        if not fits:
            raise DataError(
                f"{what} {name!r} has shape {list(array.shape)}, expected "
                f"[{', '.join(str(s) for s in shape)}]: prepare it as the manifest's preprocessing says."
            )
        sizes[f"{what} {name!r}"] = array.shape[0]
        return array

    checked_inputs = {s.name: fitted("input", inputs, s.name, s.dtype, s.shape) for s in manifest.inputs}
    checked_targets = (
        {}
        if targets is None
        else {
            t.name: fitted("target", targets, t.name, t.target.dtype, t.target.shape) for t in manifest.tasks
        }
    )
    batch = next(iter(sizes.values()))
    weight = np.ones(batch, np.float32)
    if sample_weight is not None:
        weight = np.ascontiguousarray(sample_weight, np.float32)
        if weight.ndim != 1 or not (weight >= 0).all() or np.isinf(weight).any():
            raise DataError(
                f"sample_weight of shape {list(weight.shape)}: expected one finite number >= 0 a row."
            )
    sizes["sample_weight"] = weight.shape[0]
    if batch == 0:
        raise DataError("the batch has no row: give at least one example.")
    for name, size in sizes.items():
        if size != batch:
            raise DataError(
                f"{name} has {size} rows, the first input has {batch}: give one a row of the batch."
            )
    fixed = manifest.batch if target is None else manifest.batch_of(target)
    if fixed is not None and batch != fixed:
        whose = f"target {target!r}" if target and manifest.batch is None else "this bundle"
        raise DataError(
            f"the batch has {batch} rows, {whose} takes exactly {fixed}: fill it up with rows of sample_weight 0, or "
            "export with a free batch."
        )
    return checked_inputs, checked_targets, weight


def step_inputs(
    manifest: Manifest,
    inputs: Mapping[str, Array],
    targets: Mapping[str, Array],
    sample_weight: Array | None,
    *,
    target: str,
    **scalars: float,
) -> dict[str, Array]:
    """Return what a training step takes besides the state, under its names; checked as :func:`checked_batch` does.

    Args:
        manifest, inputs, targets, sample_weight, target: as for :func:`checked_batch`.
        scalars: of this step, by name: the learning rate and what belongs to it.
    """
    checked, wanted, weight = checked_batch(manifest, inputs, targets, sample_weight, target=target)
    return {
        **checked,
        **{f"target.{name}": value for name, value in wanted.items()},
        "sample_weight": weight,
        **{name: np.asarray(value, np.float32) for name, value in scalars.items()},
    }


def losses_of(manifest: Manifest, results: Mapping[str, Array]) -> dict[str, float]:
    """Return a training step's losses: ``"loss"``, then one a task, by name."""
    by_task = {task.name: float(results[f"loss.{task.name}"].item()) for task in manifest.tasks}
    return {"loss": float(results["loss"].item()), **by_task}
