"""Archives that Linux unpacks into its first file system: "newc" of cpio, as the kernel's documentation gives it.

See ``Documentation/driver-api/early-userspace/buffer-format.rst`` of Linux. Equal contents give equal bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

__all__ = ["Archive"]

_FOLDER, _FILE, _LINK, _DEVICE = 0o40755, 0o100644, 0o120777, 0o20666


class Archive:
    """An archive that is being written; :meth:`end` completes it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._number = file, 0

    def folder(self, name: str) -> None:
        """Add a folder."""
        self._entry(name, _FOLDER)

    def file(self, name: str, content: bytes, *, executable: bool = False) -> None:
        """Add a file."""
        self._entry(name, _FILE | (0o111 if executable else 0), content)

    def device(self, name: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._entry(name, _DEVICE, device=(major, minor))

    def tree(self, source: Path, name: str = "") -> None:
        """Add what a folder holds under ``name``, sorted; links as links, compiled modules and all."""
        for path in sorted(source.iterdir()):
            inside = f"{name}/{path.name}" if name else path.name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                self._entry(inside, _LINK, os.fsencode(path.readlink()))
            elif stat.S_ISDIR(mode):
                self.folder(inside)
                self.tree(path, inside)
            elif stat.S_ISREG(mode):
                self.file(inside, path.read_bytes(), executable=bool(mode & 0o100))

    def folders(self, names: Iterable[str]) -> None:
        """Add folders."""
        for name in names:
            self.folder(name)

    def end(self) -> None:
        """Write the last entry."""
        self._entry("TRAILER!!!", 0)

    def _entry(self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._number += 1
        ending = os.fsencode(name) + b"\0"
        fields = (self._number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(ending), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + ending
        self._file.write(header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4))
