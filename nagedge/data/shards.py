"""Shards: folders of Parquet files, or of tar files with one group of members a sample, read piece by piece."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from nagedge.data.images import decode_image
from nagedge.data.raw import RawExamples, fitted_target
from nagedge.data.tables import Columns, table_targets
from nagedge.errors import DataError
from nagedge.specs import TaskSpec

__all__ = ["read_shards", "shard_files"]

PIECE, TAR_PIECE = 1024, 128
"""So many rows of a table, and samples of a tar file, are held at a time."""
_INPUT_SUFFIXES = ("npy", "png", "jpg", "jpeg")

Array = npt.NDArray[Any]


def shard_files(folder: Path) -> list[Path]:
    """Return the shards of a folder by name, all ``.parquet`` or all ``.tar``.

    Raises:
        DataError: there are none, or both.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder, expected one with .parquet or .tar shards. Check the path."
        )
    found = {suffix: sorted(folder.glob(f"*.{suffix}")) for suffix in ("parquet", "tar")}
    present = [files for files in found.values() if files]
    if len(present) != 1:
        what = "both .parquet and .tar files" if present else "no .parquet and no .tar file"
        raise DataError(f"{folder} holds {what}, expected shards of one kind. Divide or fill the folder.")
    return present[0]


def read_shards(
    folder: Path,
    tasks: Sequence[TaskSpec],
    *,
    columns: Sequence[str],
    colour: str,
    targets: Mapping[str, str | Sequence[str]],
    classes: Mapping[str, Sequence[str]],
) -> Iterator[RawExamples]:
    """Yield the rows of all shards in order, at most :data:`PIECE` or :data:`TAR_PIECE` at a time.

    A Parquet shard has the input columns and the target columns. A tar shard is WebDataset's: the members of a sample
    share the name up to the first dot; one is the input (``.npy``, ``.png`` or ``.jpg``), ``.json`` holds the targets
    by task name.

    Args:
        folder: the shards.
        tasks: what is read. targets: task name -> its columns (of Parquet). classes: task name -> class names.
        columns: the input columns (of Parquet). colour: of images.

    Raises:
        DataError: a shard that is truncated or damaged, a column or a member that is missing.
    """
    for shard in shard_files(folder):
        if shard.suffix == ".parquet":
            yield from _parquet(shard, tasks, columns, targets, classes)
        else:
            yield from _tar(shard, tasks, colour)


def _parquet(
    shard: Path,
    tasks: Sequence[TaskSpec],
    columns: Sequence[str],
    targets: Mapping[str, str | Sequence[str]],
    classes: Mapping[str, Sequence[str]],
) -> Iterator[RawExamples]:
    mapping = {task.name: targets.get(task.name, task.name) for task in tasks}
    wanted = [
        *columns,
        *(n for names in mapping.values() for n in ([names] if isinstance(names, str) else names)),
    ]
    done = 0
    try:
        with pa.parquet.ParquetFile(shard) as file:
            for name in wanted:
                if name not in file.schema_arrow.names:
                    raise DataError(
                        f"{shard} has no column {name!r}, expected it in every shard. Write it again."
                    )
            for batch in file.iter_batches(
                batch_size=PIECE, columns=list(dict.fromkeys(wanted)), use_threads=False
            ):
                table = pa.Table.from_batches([batch])
                names = tuple(f"row {row}" for row in range(done + 1, done + 1 + batch.num_rows))
                piece = Columns(str(shard), {name: table[name] for name in wanted}, names)
                with np.errstate(over="ignore"):
                    values = np.stack([piece.numbers(name) for name in columns], axis=1).astype(np.float32)
                raw_targets = table_targets(piece, tasks, mapping, classes)
                done += batch.num_rows
                yield RawExamples(
                    str(shard), values, raw_targets, None, names, tuple(columns), tuple(piece.findings)
                )
    except (pa.ArrowException, OSError) as error:
        raise _damaged(shard, done, str(error).splitlines()[0]) from None


def _tar(shard: Path, tasks: Sequence[TaskSpec], colour: str) -> Iterator[RawExamples]:
    with shard.open("rb") as file:  # the end of an archive is two empty blocks; tarfile does not miss them
        file.seek(-min(1024, shard.stat().st_size), io.SEEK_END)
        if file.read() != bytes(1024):
            raise _damaged(shard, 0, "its end is missing")
    done = 0
    pending: list[tuple[str, Array, Mapping[str, Any]]] = []
    try:
        with tarfile.open(shard, "r|") as archive:
            for sample in _samples(shard, archive, colour):
                pending.append(sample)
                if len(pending) == TAR_PIECE:
                    yield _stacked(shard, pending, tasks)
                    done += len(pending)
                    pending = []
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _damaged(shard, done + len(pending), str(error) or "unexpected end") from None
    if pending:
        yield _stacked(shard, pending, tasks)


def _samples(
    shard: Path, archive: tarfile.TarFile, colour: str
) -> Iterator[tuple[str, Array, Mapping[str, Any]]]:
    key, value, labels = "", None, None
    for member in archive:
        if not member.isfile():
            continue
        name, _, suffix = member.name.partition(".")
        file = archive.extractfile(member)
        content = file.read() if file is not None else b""
        if len(content) != member.size:
            raise EOFError(f"member {member.name!r} is cut off")
        if name != key:
            if key:
                yield _complete(shard, key, value, labels)
            key, value, labels = name, None, None
        if suffix == "json":
            labels = json.loads(content)
        elif suffix in _INPUT_SUFFIXES:
            value = _input(shard, member.name, suffix, content, colour)
    if key:
        yield _complete(shard, key, value, labels)


def _complete(
    shard: Path, key: str, value: Array | None, labels: Mapping[str, Any] | None
) -> tuple[str, Array, Mapping[str, Any]]:
    if value is None or labels is None:
        missing = "an input (.npy, .png or .jpg)" if value is None else "labels (.json)"
        raise DataError(
            f"{shard}, sample {key!r} has no {missing}, expected both one after the other. Write it again."
        )
    return key, value, labels


def _input(shard: Path, name: str, suffix: str, content: bytes, colour: str) -> Array:
    if suffix == "npy":
        try:
            return np.asarray(np.load(io.BytesIO(content), allow_pickle=False), dtype=np.float32)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{shard}, member {name!r} is no array: {error}. Write it again.") from None
    pixels = decode_image(io.BytesIO(content), colour)
    if isinstance(pixels, str):
        raise DataError(f"{shard}, member {name!r} is {pixels}, expected an 8-bit image. Write it again.")
    return pixels.astype(np.float32)


def _stacked(
    shard: Path, samples: Sequence[tuple[str, Array, Mapping[str, Any]]], tasks: Sequence[TaskSpec]
) -> RawExamples:
    shape = samples[0][1].shape
    for key, value, _ in samples:
        if value.shape != shape:
            raise DataError(
                f"{shard}, sample {key!r} has an input of shape {list(value.shape)}, others have {list(shape)}:"
                " expected one shape. Write the shards again."
            )
    raw_targets = {}
    for task in tasks:
        values = [np.nan if labels.get(task.name) is None else labels[task.name] for _, _, labels in samples]
        raw_targets[task.name] = fitted_target(task, np.asarray(values), f"{shard}, labels {task.name!r}")
    names = tuple(f"sample {key!r}" for key, _, _ in samples)
    return RawExamples(str(shard), np.stack([value for _, value, _ in samples]), raw_targets, None, names)


def _damaged(shard: Path, rows: int, reason: str) -> DataError:
    return DataError(
        f"{shard} is truncated or damaged after {rows} rows ({reason}). Write this shard again, or remove it."
    )
