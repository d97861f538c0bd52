"""One forward pass in the runtime and in PyTorch, at every batch size that is worth a look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.runtimes import open_inference
from nagedge.runtimes.batches import random_batch
from nagedge.verification.batches import batch_sizes
from nagedge.verification.comparison import Comparison, compare
from nagedge.verification.trajectory import Lane

__all__ = ["inference"]

Array = npt.NDArray[Any]


def inference(lane: Lane) -> Iterator[Comparison]:
    """Yield the comparison of every task's output, twice at each of two batch sizes where the batch is free.

    Twice in one session: a runtime that keeps its buffers can be right in the first call and wrong from the second on.

    A bundle with calibrated targets holds a few examples: ranges of activations were made for such, and not for noise.
    """
    reference = open_inference(lane.bundle, runtime="torch")
    runtime = open_inference(lane.bundle, lane.target, runtime=lane.runtime)
    entry = lane.entry
    for i, size in enumerate(2 * batch_sizes(lane.bundle.manifest, lane.target)):
        inputs = _inputs(lane, size, np.random.default_rng([lane.seed, 10**6 + i]))
        got, expected = runtime.predict(inputs), reference.predict(inputs)
        for task, value in expected.items():
            yield compare(
                f"infer.{task}",
                0,
                got[task],
                [value],
                entry.inference_rtol,
                entry.inference_atol,
                lane.target,
            )


def _inputs(lane: Lane, size: int, rng: np.random.Generator) -> dict[str, Array]:
    manifest = lane.bundle.manifest
    examples = lane.bundle.examples()
    if lane.entry.precision == "fp32" or not examples:
        return random_batch(manifest, size, rng)[0]
    rows = np.resize(rng.permutation(len(next(iter(examples.values())))), size)
    return {spec.name: examples[spec.name][rows].astype(spec.dtype) for spec in manifest.inputs}
