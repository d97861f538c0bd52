"""Folders of parts that are complete once they lie at their place, each with a list of its files.

A part is built beside its place and renamed: an interrupted setup goes on where it stopped, and a part that lost a file
is built anew.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nagedge.devices.arm64_parts import Part
from nagedge.errors import RuntimeUnavailableError
from nagedge.files import put_in_place

__all__ = ["PartState", "make_parts", "state_of"]

Progress = Callable[[str, int, int], None]

_LIST = ".files.json"


@dataclass(frozen=True)
class PartState:
    """What is known of a part without changing it.

    Args:
        name: of the part. size_bytes: on disk.
        problem: what is wrong; empty for a complete part, ``"not made yet"`` for none.
        versions: of what it holds, by name.
    """

    name: str
    size_bytes: int
    problem: str
    versions: dict[str, str]


def state_of(folder: Path, part: Part) -> PartState:
    """Return what is known of the part in a folder; nothing is made or run."""
    try:
        listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        files: dict[str, int] = listed["files"]
        versions: dict[str, str] = listed["versions"]
        wanted: str = listed["what"]
    except (OSError, ValueError, KeyError):
        return PartState(part.name, 0, "incomplete" if folder.exists() else "not made yet", {})
    size = sum(files.values())
    for name, file_bytes in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != file_bytes:
            return PartState(part.name, size, f"{name} is missing or damaged", versions)
    if wanted != part.what:
        return PartState(part.name, size, f"it holds {wanted}, not {part.what}", versions)
    return PartState(part.name, size, "", versions)


def make_parts(
    folder: Path,
    parts: Sequence[Part],
    try_out: Callable[[], None],
    *,
    name: str,
    needed_bytes: int,
    progress: Progress,
    mirror: str | None,
    anew: bool,
) -> None:
    """Make the parts in a folder, or what is missing or damaged of them.

    Args:
        folder: where they lie. parts: in the order of making.
        try_out: called when all are there.
        name: what ``nagedge devices setup`` calls them. needed_bytes: free space to begin with.
        progress: called with a description, the parts done and the parts in all.
        mirror: address of a Debian archive; None takes the one that the system's apt uses.
        anew: whether to make every part again.

    Raises:
        RuntimeUnavailableError: the disk is full, or the folder cannot be written; what is complete is kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(
            folder.with_suffix(".lock"), lambda: progress("waiting for another setup", 0, len(parts))
        ):
            if any(state_of(folder / part.name, part).problem for part in parts):
                _check_space(folder, needed_bytes)
            scratch = folder / "downloads"
            scratch.mkdir(exist_ok=True)
            for left in folder.glob(".*.part"):  # what a killed setup left; whoever builds holds the lock
                shutil.rmtree(left, ignore_errors=True)
            for index, part in enumerate(parts):
                progress(part.what, index, len(parts) + 1)
                if anew or state_of(folder / part.name, part).problem:
                    _make(folder / part.name, part, scratch, mirror)
            progress("trying it out", len(parts), len(parts) + 1)
            try_out()
            shutil.rmtree(scratch, ignore_errors=True)  # not before: an interrupted setup uses it again
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RuntimeUnavailableError(
                f"the disk is full: the {name} emulator in {folder} needs {needed_bytes >> 20} MiB while it is made. "
                f"Free some space or set NAGEDGE_CACHE to a folder on another disk, then run `nagedge devices setup "
                f"{name}` again: what is complete is kept."
            ) from error
        raise RuntimeUnavailableError(
            f"the {name} emulator cannot be made in {folder}: {error.strerror or error}: {error.filename or ''}. Set "
            "NAGEDGE_CACHE to a folder that you may write to."
        ) from error


def _check_space(folder: Path, needed_bytes: int) -> None:
    if shutil.disk_usage(folder).free < needed_bytes:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))


def _make(folder: Path, part: Part, scratch: Path, mirror: str | None) -> None:
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{part.name}.", suffix=".part"))
    try:
        versions = part.build(temporary, scratch, mirror)
        files = {
            str(path.relative_to(temporary)): path.stat().st_size
            for path in sorted(temporary.rglob("*"))
            if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts
        }
        listed = {"what": part.what, "versions": versions, "files": files}
        (temporary / _LIST).write_text(json.dumps(listed), encoding="utf-8")
        temporary.chmod(0o755)
        put_in_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock that no other process holds; the system gives it back when a process dies."""
    import fcntl

    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
