"""Data larger than memory: shards go through cleaning and preprocessing once, into files that are mapped, not read.

What memory holds is a piece of a shard, the order of the rows (eight bytes each) and a sample for the statistics. A
batch then reads its own rows from the files. The order of an epoch is a function of the run's seed, as it is for data
in memory, so that shuffling is that of all rows, and a run that was interrupted goes on to the same bits.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nagedge.data.cleaning import CleaningReport
from nagedge.data.examples import Examples
from nagedge.data.raw import RawExamples, clean
from nagedge.errors import DataError
from nagedge.specs import TaskSpec

__all__ = ["Store", "cache_folder", "clean_pieces", "mapped_examples", "sample_of"]

SAMPLE_VALUES = 2**20
"""Statistics are those of training rows with so many values together, drawn by the seed of the split; of all rows where
there are fewer, and of 256 at least."""

Array = npt.NDArray[Any]


class Store:
    """Arrays that grow row by row in files of one folder, then are mapped.

    Args:
        folder: is made; files in it are overwritten.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._kinds: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self.rows: dict[str, int] = {}

    def append(self, name: str, rows: Array) -> None:
        """Add rows ``[m, ...]`` to an array.

        Raises:
            DataError: their shape or dtype is not that of the rows before, or the disk is full.
        """
        kind = (rows.dtype, rows.shape[1:])
        if self._kinds.setdefault(name, kind) != kind:
            raise DataError(
                f"{self._folder}: rows of {name!r} have dtype {kind[0]} and shape {list(kind[1])}, those before"
                f" {self._kinds[name][0]} and {list(self._kinds[name][1])}. Write the shards alike."
            )
        try:
            if name not in self._files:
                self._files[name] = (self._folder / f"{name}.raw").open("wb")
            self._files[name].write(np.ascontiguousarray(rows).tobytes())
        except OSError as error:
            raise DataError(
                f"{self._folder} cannot be written: {error.strerror}. Free some space, or set data.cache to"
                " another folder."
            ) from None
        self.rows[name] = self.rows.get(name, 0) + len(rows)

    def mapped(self, name: str) -> Array:
        """Return an array as a shared map of its file: pages come and go as they are needed."""
        if name in self._files:
            self._files.pop(name).close()
        dtype, shape = self._kinds[name]
        return np.memmap(self._folder / f"{name}.raw", dtype, "r+", shape=(self.rows[name], *shape))

    def remove(self, name: str) -> None:
        """Delete the file of an array that is mapped no more."""
        with contextlib.suppress(OSError):
            (self._folder / f"{name}.raw").unlink()


def clean_pieces(
    pieces: Iterator[RawExamples], tasks: Sequence[TaskSpec], store: Store, **policies: Any
) -> CleaningReport:
    """Write the usable rows of all pieces to ``input`` and ``target.<task>``; return what became of the others.

    Args:
        pieces: of one source. tasks: what is read. store: where to.
        policies: of :func:`nagedge.data.raw.clean`.

    Raises:
        DataError: as ``clean``, or no row is left at all.
    """
    total = CleaningReport("", 0, 0)
    for piece in pieces:
        kept, report = clean(piece, tasks, allow_none=True, **policies)
        total = _added(total, report)
        if len(kept.names):
            store.append("input", kept.input)
            for task in tasks:
                store.append(f"target.{task.name}", kept.targets[task.name])
    if not total.rows_kept:
        raise DataError(f"no usable row is left. {total}. Correct the shards.")
    return total


def _added(total: CleaningReport, piece: CleaningReport) -> CleaningReport:
    shard = Path(piece.source)
    dropped = [
        replace(entry, first_rows=tuple(f"{shard.name} {name}" for name in entry.first_rows))
        for entry in piece.dropped
    ]
    return replace(
        total,
        source=str(shard.parent),
        rows_read=total.rows_read + piece.rows_read,
        rows_kept=total.rows_kept + piece.rows_kept,
        dropped=(*total.dropped, *dropped),
        filled_values=total.filled_values + piece.filled_values,
    ).merged()


def sample_of(rows: npt.NDArray[np.int64], values: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the rows whose statistics count, rising; ``values`` is the size of one."""
    count = max(256, SAMPLE_VALUES // values)
    if len(rows) <= count:
        return np.sort(rows)
    return np.sort(np.random.default_rng([seed, 1]).choice(rows, count, replace=False))


def mapped_examples(
    store: Store,
    part: str,
    rows: npt.NDArray[np.int64],
    input_name: str,
    source: Mapping[str, Array],
    steps: Any,
) -> Examples:
    """Write the rows of one part, preprocessed, and return them mapped.

    Args:
        store: where to. part: ``"train"``, ``"validation"`` or ``"test"``.
        rows: of the part. input_name: of the model.
        source: the mapped raw arrays. steps: the preprocessing.
    """
    rows = np.sort(rows)
    for start in range(0, len(rows), 1024):
        chosen = rows[start : start + 1024]
        store.append(f"{part}.input", steps.apply_array(np.asarray(source["input"][chosen])))
        targets = {name: np.asarray(array[chosen]) for name, array in source.items() if name != "input"}
        for name, values in steps.apply_targets(targets).items():
            store.append(f"{part}.{name}", values)
    return Examples(
        inputs={input_name: store.mapped(f"{part}.input")},
        targets={name: store.mapped(f"{part}.{name}") for name in source if name != "input"},
    )


def cache_folder(cache: Path | None) -> Path:
    """Return a new folder for mapped files, in the one that was named or where temporary files go.

    It goes when the process ends. Every process has its own: those that train together prepare the same rows each.

    Raises:
        DataError: it cannot be made.
    """
    try:
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="nagedge-shards-", dir=cache))
    except OSError as error:
        raise DataError(
            f"{cache or tempfile.gettempdir()} cannot hold prepared rows: {error.strerror}. Set data.cache to another"
            " folder."
        ) from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
