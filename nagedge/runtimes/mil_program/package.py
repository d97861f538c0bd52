"""The folder of a Core ML package (``.mlpackage``): its manifest, and the files that it lists.

Layout as ``libmodelpackage`` of coremltools writes it: ``Manifest.json`` names items by identifier, with paths
relative to ``Data/``; one of them is the model's specification, another its weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nagedge.errors import BundleError

__all__ = ["Package", "open_package"]

_LARGEST_MANIFEST = 2**20
_MODEL_PATH = "@model_path/"


@dataclass(frozen=True)
class Package:
    """A package whose manifest has been read.

    Attributes:
        path: the folder.
        model: the specification's path relative to ``Data/``.
        items: paths of all listed files and folders, relative to ``Data/``.
    """

    path: Path
    model: PurePosixPath
    items: tuple[PurePosixPath, ...]

    def model_file(self) -> Path:
        """Return the file of the specification."""
        return self._file(self.model, "the model's specification")

    def weight_file(self, name: str) -> Path:
        """Return the file that a program calls ``name``, such as ``@model_path/weights/weight.bin``.

        Raises:
            BundleError: the name leads out of the package, to nothing, or to what the manifest does not list.
        """
        relative = name.removeprefix(_MODEL_PATH)
        if not name.startswith(_MODEL_PATH) or not _is_safe(relative):
            raise BundleError(
                f"program {str(self.path)!r} reads the file {name!r}, which may lead out of the package: expected "
                f"{_MODEL_PATH}… without '..'. Do not use it."
            )
        path = self.model.parent / relative
        if not any(path == item or item in path.parents for item in self.items):
            raise BundleError(
                f"program {str(self.path)!r} reads {name!r}, but Manifest.json has no entry for it (it lists "
                f"{', '.join(str(item) for item in self.items)}). Export again, or take it from a backup."
            )
        return self._file(path, f"the weight file {name!r}")

    def _file(self, relative: PurePosixPath, what: str) -> Path:
        current = self.path
        for part in ("Data", *relative.parts):
            current /= part
            if current.is_symlink():
                raise BundleError(
                    f"program {str(self.path)!r}: {str(relative)!r} is a link. Copy the real file there."
                )
        if not current.is_file():
            raise BundleError(
                f"program {str(self.path)!r} lacks {what}, expected at {'Data/' + str(relative)!r}. Export again, or "
                "take it from a backup."
            )
        return current


def open_package(path: Path) -> Package:
    """Read the manifest of the package at ``path``.

    Raises:
        BundleError: there is no package, or its manifest is damaged or names files outside of it.
    """
    manifest = path / "Manifest.json"
    if not manifest.is_file() or manifest.is_symlink():
        raise BundleError(
            f"{str(path)!r} is no Core ML package: expected a folder with Manifest.json and Data/. Give the "
            ".mlpackage folder itself."
        )
    size = manifest.stat().st_size
    if size > _LARGEST_MANIFEST:
        raise BundleError(f"program {str(path)!r}: Manifest.json is {size} bytes, too large to be one.")
    try:
        document = json.loads(manifest.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"program {str(path)!r}: Manifest.json is damaged ({error}). Export again, or take it from a backup."
        ) from None
    entries = document.get("itemInfoEntries") if isinstance(document, dict) else None
    root = document.get("rootModelIdentifier") if isinstance(document, dict) else None
    if not isinstance(entries, dict) or not isinstance(root, str):
        raise BundleError(
            f"program {str(path)!r}: Manifest.json lacks 'itemInfoEntries' or 'rootModelIdentifier'. Export again, or "
            "take it from a backup."
        )
    items = {key: _item_path(path, key, entry) for key, entry in entries.items()}
    if root not in items:
        raise BundleError(
            f"program {str(path)!r}: Manifest.json has no entry for its root model {root!r}. Export again, or take it "
            "from a backup."
        )
    return Package(path, items[root], tuple(items.values()))


def _item_path(package: Path, key: str, entry: object) -> PurePosixPath:
    relative = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(relative, str) or not _is_safe(relative):
        raise BundleError(
            f"program {str(package)!r}: Manifest.json gives the item {key!r} the path {relative!r}, which may lead out "
            "of the package. Do not use it."
        )
    return PurePosixPath(relative)


def _is_safe(relative: str) -> bool:
    """Tell whether a path stays inside the folder it is relative to, on any system."""
    path = PurePosixPath(relative)
    bad = relative.startswith("/") or any(mark in relative for mark in ("\\", ":", "\0"))
    return not bad and bool(path.parts) and ".." not in path.parts
