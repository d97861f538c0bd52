"""Which of a bundle's artifacts are profiled, and what is fed to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagedge.errors import ConfigurationError, nearest_name
from nagedge.runtimes.batches import random_batch
from nagedge.runtimes.state import initial_state

if TYPE_CHECKING:
    from nagedge.bundle import Bundle
    from nagedge.manifest import Manifest

__all__ = ["ROLE_OF", "Artifact", "artifacts_of", "feeds", "usual_batch"]

Array = npt.NDArray[Any]

ROLE_OF = {"infer": "infer", "train": "train_step"}
"""What can be measured -> the role of its artifact."""

_USUAL_BATCH = {"infer": 1, "train": 16}


@dataclass(frozen=True)
class Artifact:
    """One file that computes one thing.

    Args:
        target: its name in the bundle. what: ``"infer"`` or ``"train"``.
        name: of the file, relative to the bundle. file: where it lies.
        backend: what wrote it; also the name of the runtime that it is made for.
        precision: of the target. batch: examples a call.
        rtol, atol: how closely another run must agree.
    """

    target: str
    what: str
    name: str
    file: Path
    backend: str
    precision: str
    batch: int
    rtol: float
    atol: float

    @property
    def signature(self) -> str | None:
        """The signature of a ``.tflite``; None for other files."""
        return self.what if self.backend in ("litert", "tflite_runtime") else None


def artifacts_of(
    bundle: Bundle, targets: Sequence[str] | None, what: Sequence[str], batch: int | None
) -> tuple[Artifact, ...]:
    """Return the artifacts of the targets, in the order of the manifest; an artifact that two targets share once.

    Args:
        bundle: where they are.
        targets: names; None takes all. what: of :data:`ROLE_OF`.
        batch: examples a call; None takes 1 for inference and 16 for training, or what the bundle fixes.

    Raises:
        ConfigurationError: a name is unknown, or no target has an artifact for a part of ``what``.
    """
    for part in what:
        if part not in ROLE_OF:
            raise ConfigurationError(
                f"cannot profile {part!r}; expected one of {', '.join(ROLE_OF)}."
                + nearest_name(part, ROLE_OF)
            )
    if not what:
        raise ConfigurationError("nothing to profile was named; expected infer, train or both.")
    for name in targets or ():
        if name not in bundle.manifest.targets:
            bundle.target(name)  # says which there are
    found: list[Artifact] = []
    for part in dict.fromkeys(what):
        named = [name for name in targets or () if ROLE_OF[part] in bundle.manifest.targets[name].artifacts]
        if targets is not None and not named:
            bundle.target(targets[0], role=ROLE_OF[part])  # says what the target lacks
        if targets is None:
            bundle.target(None, role=ROLE_OF[part])
        seen: set[tuple[str, str]] = set()
        for name, entry in bundle.manifest.targets.items():
            if ROLE_OF[part] not in entry.artifacts or (targets is not None and name not in targets):
                continue
            path = entry.artifacts[ROLE_OF[part]]
            files = [path] if path in bundle.manifest.files else bundle.manifest.files_in(path)
            content = (entry.backend, "".join(bundle.manifest.files[file].sha256 for file in files))
            if content in seen:
                continue
            seen.add(content)
            tolerances = (
                (entry.inference_rtol, entry.inference_atol) if part == "infer" else (entry.rtol, entry.atol)
            )
            size = usual_batch(bundle.manifest, name, part, batch)
            file = bundle.file(path)
            found.append(Artifact(name, part, path, file, entry.backend, entry.precision, size, *tolerances))
    return tuple(found)


def usual_batch(manifest: Manifest, target: str, what: str, batch: int | None) -> int:
    """Return the examples of a call.

    Raises:
        ConfigurationError: the artifact takes another number.
    """
    fixed = manifest.batch_of(target)
    if fixed is not None and batch not in (None, fixed):
        whose = f"target {target!r}" if manifest.batch is None else "this bundle"
        raise ConfigurationError(f"batch is {batch}, but {whose} takes exactly {fixed}.")
    return fixed or batch or _USUAL_BATCH[what]


def feeds(bundle: Bundle, what: str, batch: int, *, lr: float = 0.0) -> dict[str, Array]:
    """Return every array that an artifact may take, by name: the same numbers every time.

    Args:
        bundle: whose state and ranges of inputs. what: of :data:`ROLE_OF`. batch: rows.
        lr: step size of a training step. 0 computes the same state again, so that no drift of the weights is measured.
    """
    inputs, targets = random_batch(bundle.manifest, batch, np.random.default_rng(0))
    fed: dict[str, Array] = dict(inputs)
    if bundle.manifest.training is not None:
        state = initial_state(bundle)
        fed |= {f"params.{name}": value for name, value in state.params.items()}
        fed |= {f"buffers.{name}": value for name, value in state.buffers.items()}
        if what == "train":
            fed |= {f"momentum.{name}": value for name, value in state.momentum.items()}
    if what == "train":
        scalars = {"lr": lr, "momentum": 0.9, "weight_decay": 0.0}
        fed |= {f"target.{name}": value for name, value in targets.items()}
        fed |= {name: np.asarray(value, np.float32) for name, value in scalars.items()}
        fed["sample_weight"] = np.ones(batch, np.float32)
    return fed
