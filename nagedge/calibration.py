"""The examples from which static quantisation takes the ranges of activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.data.examples import Examples
from nagedge.data.load import load_examples
from nagedge.data.preprocessing import Preprocessing
from nagedge.errors import ConfigurationError, NagEdgeError
from nagedge.graphs.example import input_specs
from nagedge.lowering import Calibration, batched
from nagedge.sources import ExportSource
from nagedge.targets import Target

__all__ = ["Calibrator", "calibrated"]

Arrays = dict[str, npt.NDArray[Any]]

_ROWS = 256
_KEPT_ROWS = 8


def calibrated(target: Target) -> bool:
    """Whether lowering for ``target`` needs calibration: its activations are quantised ahead of time."""
    return target.precision == "int8" and target.backend != "coreml"


class Calibrator:
    """Reads the calibration data when the first target asks for it; most exports need none.

    Args:
        source: what is exported; its training data serve when nothing is given.
        given: a file of raw examples, prepared examples, or None.

    Attributes:
        notes: what a reader of the bundle should know of the data.
    """

    def __init__(self, source: ExportSource, given: str | Path | Examples | None) -> None:
        self._source, self._given = source, given
        self._inputs: Arrays | None = None
        self.notes: tuple[str, ...] = ()

    @property
    def used(self) -> bool:
        """Whether a target has asked."""
        return self._inputs is not None

    def batches(self) -> Calibration:
        """Return up to 256 rows in batches.

        Raises:
            NagEdgeError: the data cannot be read.
        """
        if self._inputs is None:
            inputs = self._read()
            rows = len(next(iter(inputs.values())))
            chosen = np.sort(np.random.default_rng(0).permutation(rows)[:_ROWS])
            self._inputs = {name: array[chosen] for name, array in inputs.items()}
        return batched(self._inputs)

    def few(self) -> Arrays:
        """Return a few rows, on which verification runs calibrated targets; floats as float16, for their size."""
        assert self._inputs is not None  # the caller asks `used`
        return {
            name: array[:_KEPT_ROWS].astype(np.float16) if array.dtype == np.float32 else array[:_KEPT_ROWS]
            for name, array in self._inputs.items()
        }

    def _read(self) -> Arrays:
        source = self._source
        if isinstance(self._given, Examples):
            return self._given.inputs
        specs, tensors = input_specs(source.model, source.example_input)
        if self._given is not None:
            if len(specs) != 1:
                raise ConfigurationError(
                    f"{source.name} has {len(specs)} inputs; a calibration file holds one. Give Examples from Python."
                )
            spec = source.input or specs[0]
            preprocessing = source.preprocessing or Preprocessing(input=spec.name)
            return load_examples(self._given, list(source.tasks), preprocessing, spec)[0].inputs
        if source.training_examples is not None:
            try:
                return source.training_examples().inputs
            except NagEdgeError as error:
                raise ConfigurationError(
                    f"the data that {source.name} was trained on cannot be read for calibration: {error} Or name other "
                    "data with --calibration."
                ) from error
        rows = len(tensors[0])
        note = (
            f"The ranges of int8 activations were taken from the {rows} rows of the example input. Give real data with "
            "--calibration."
        )
        self.notes = (note,)
        names = (
            [spec.name for spec in specs] if source.input is None or len(specs) != 1 else [source.input.name]
        )
        return {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
