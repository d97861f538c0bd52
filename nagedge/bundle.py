"""The bundle: the exported folder (or a .zip of it), written atomically, checked before anything in it is parsed.

docs/bundle-format.md describes the format for clients; :mod:`nagedge.manifest` is its schema.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from pydantic import ValidationError
from safetensors import SafetensorError

from nagedge.errors import BundleError, ConfigurationError, nearest_name
from nagedge.files import replace_folder, sha256_of, write_file
from nagedge.manifest import SCHEMA_VERSION, FileEntry, Manifest, TargetEntry, VerificationEntry

__all__ = [
    "EXAMPLES_FILE",
    "MANIFEST_FILE",
    "MOMENTUM_FILE",
    "PARAMS_FILE",
    "Bundle",
    "check_replaceable",
    "write_bundle",
]

MANIFEST_FILE = "manifest.json"
PARAMS_FILE = "params.safetensors"
MOMENTUM_FILE = "momentum.safetensors"
EXAMPLES_FILE = "examples.safetensors"
FORWARD_FILE = "forward.json"
FORWARD_TRAIN_FILE = "forward_train.json"

Arrays = dict[str, npt.NDArray[Any]]
_LARGEST_MANIFEST = 64 * 2**20


@dataclass(frozen=True)
class Bundle:
    """An exported bundle on disk, whose files have been checked against the manifest.

    Attributes:
        path: the folder (of a .zip: a temporary folder that lives as long as this object).
        manifest: what the bundle holds.
    """

    path: Path
    manifest: Manifest
    _owner: object = field(default=None, repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read a bundle; sizes, hashes and names of all its files are checked first.

        Raises:
            BundleError: the bundle is missing, damaged, foreign, or newer than this program.
        """
        path = Path(path)
        owner = None
        folder = path
        if path.is_file():
            owner, folder = _unpack(path)
        manifest = _read_manifest(folder, path)
        for name, entry in manifest.files.items():
            _check_file(folder, name, entry, path)
        for target_name, target in manifest.targets.items():
            for artifact in target.artifacts.values():
                if artifact not in manifest.files and not manifest.files_in(artifact):
                    raise BundleError(
                        f"bundle {str(path)!r}: target {target_name!r} names {artifact!r}, which the manifest does not "
                        "list among its files. Export again, or take the bundle from a backup."
                    )
        return cls(folder, manifest, owner)

    def params(self) -> Arrays:
        """Return every tensor of the model's state by name: trained, frozen, buffers and constants."""
        return self._tensors(PARAMS_FILE)

    def momentum(self) -> Arrays:
        """Return the momentum buffers by parameter name; empty for a bundle without training."""
        return self._tensors(MOMENTUM_FILE) if MOMENTUM_FILE in self.manifest.files else {}

    def examples(self) -> Arrays:
        """Return a few prepared inputs by name, ``[rows, ...]``; empty unless a target was calibrated."""
        return self._tensors(EXAMPLES_FILE) if EXAMPLES_FILE in self.manifest.files else {}

    def text(self, name: str) -> str:
        """Return the text of one of the bundle's files."""
        return self.file(name).read_text(encoding="utf-8")

    def file(self, name: str) -> Path:
        """Return the path of one of the bundle's files, or of a folder of them.

        Raises:
            BundleError: the manifest lists no such file.
        """
        if name not in self.manifest.files and not self.manifest.files_in(name):
            raise BundleError(f"bundle {str(self.path)!r} holds no {name!r}.")
        return self.path / name

    def target(self, name: str | None = None, *, role: str = "infer") -> tuple[str, TargetEntry]:
        """Return name and entry of a target; without a name, of the first one that has an artifact for ``role``.

        Raises:
            ConfigurationError: the bundle has no such target, or none with that artifact.
        """
        targets = self.manifest.targets
        if name is not None:
            if name not in targets:
                raise ConfigurationError(
                    f"bundle {str(self.path)!r} has no target {name!r}; it has {', '.join(targets)}."
                    + nearest_name(name, targets)
                )
            if role not in targets[name].artifacts:
                raise ConfigurationError(
                    f"target {name!r} of bundle {str(self.path)!r} has no {role!r} artifact (it has "
                    f"{', '.join(targets[name].artifacts)}): export it with a target whose name ends in -train."
                )
            return name, targets[name]
        for candidate, entry in targets.items():
            if role in entry.artifacts:
                return candidate, entry
        raise ConfigurationError(
            f"bundle {str(self.path)!r} has no {role!r} artifact in any target ({', '.join(targets)}): export it with "
            "a target whose name ends in -train."
        )

    def with_verification(self, results: Mapping[str, list[VerificationEntry]]) -> Bundle:
        """Store verification results in the manifest and return the bundle that has them."""
        merged = {**self.manifest.verification, **results}
        manifest = self.manifest.model_copy(update={"verification": merged})
        if self._owner is None:
            write_file(self.path / MANIFEST_FILE, _manifest_text(manifest))
        return Bundle(self.path, manifest, self._owner)

    def _tensors(self, name: str) -> Arrays:
        try:
            return safetensors.numpy.load_file(self.file(name))
        except (SafetensorError, ValueError, OSError) as error:
            raise BundleError(f"bundle {str(self.path)!r}: {name} is no safetensors file: {error}.") from None


def write_bundle(
    out: str | Path,
    manifest: Manifest,
    files: Mapping[str, bytes],
    tensors: Mapping[str, Arrays],
    *,
    shown: str | Path | None = None,
) -> Bundle:
    """Write a bundle in place of the one at ``out``, which stays until the new one is whole.

    Args:
        out: the folder, or a path ending in ``.zip``.
        manifest: its ``files`` are filled in here.
        files: content by path inside the bundle.
        tensors: arrays by name, by the path of the safetensors file.
        shown: the path that an error names, where ``out`` is a draft of what the user asked for.

    Raises:
        ConfigurationError: ``out`` exists and is not a bundle, or cannot be written.
    """
    out = Path(out)
    check_replaceable(out)
    try:
        if out.suffix == ".zip":
            with tempfile.TemporaryDirectory() as folder:
                _fill(Path(folder), manifest, files, tensors)
                write_file(out, _zipped(Path(folder)))
            return Bundle.load(out)
        with replace_folder(out) as folder_path:
            complete = _fill(folder_path, manifest, files, tensors)
        return Bundle(out, complete)
    except OSError as error:
        raise ConfigurationError(
            f"bundle {str(shown or out)!r} cannot be written: {error.strerror}. What was there is kept; free some "
            "space, or give another --out."
        ) from error


def _fill(
    folder: Path, manifest: Manifest, files: Mapping[str, bytes], tensors: Mapping[str, Arrays]
) -> Manifest:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name, arrays in tensors.items():
        contiguous = {key: np.ascontiguousarray(value).reshape(value.shape) for key, value in arrays.items()}
        (folder / name).write_bytes(safetensors.numpy.save(contiguous))
    entries = {
        path.relative_to(folder).as_posix(): FileEntry(size_bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    complete = manifest.model_copy(update={"files": entries})
    (folder / MANIFEST_FILE).write_text(_manifest_text(complete), encoding="utf-8")
    return complete


def _manifest_text(manifest: Manifest) -> str:
    return json.dumps(manifest.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"


def _zipped(folder: Path) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".zip") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(folder).as_posix())
        file.flush()
        return Path(file.name).read_bytes()


def check_replaceable(out: str | Path) -> None:
    """Refuse to write a bundle over anything but a bundle, an empty folder or nothing, or where nothing can be written.

    Raises:
        ConfigurationError: something else is there, or a folder above cannot be written to.
    """
    out = Path(out)
    if not out.exists() and not out.is_symlink():
        above = next(folder for folder in out.absolute().parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            reason = "is no folder" if not above.is_dir() else "is a folder that you may not write to"
            raise ConfigurationError(
                f"bundle {str(out)!r} cannot be written: {str(above)!r} {reason}. Give another --out."
            )
        return
    if out.is_dir() and not out.is_symlink():
        if not any(out.iterdir()):
            return
        manifest = out / MANIFEST_FILE
        if (
            manifest.is_file()
            and '"nagedge-bundle"' in manifest.read_text(encoding="utf-8", errors="replace")[:4096]
        ):
            return
        raise ConfigurationError(
            f"{str(out)!r} exists and is not a bundle: nothing was written. Give another --out, or remove it first."
        )
    if out.suffix == ".zip" and _is_zipped_bundle(out):
        return
    raise ConfigurationError(
        f"{str(out)!r} exists and is not a bundle: nothing was written. Give another --out."
    )


def _is_zipped_bundle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(MANIFEST_FILE) as manifest:
            return b'"nagedge-bundle"' in manifest.read(4096)
    except (OSError, KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error):
        return False


def _read_manifest(folder: Path, shown: Path) -> Manifest:
    path = folder / MANIFEST_FILE
    if not path.is_file() or path.is_symlink():
        what = "holds no bundle" if folder.is_dir() else "does not exist"
        raise BundleError(
            f"{str(shown)!r} {what}: expected a folder or .zip with {MANIFEST_FILE}. Give what "
            "`nagedge export --out` wrote."
        )
    if path.stat().st_size > _LARGEST_MANIFEST:
        raise BundleError(
            f"bundle {str(shown)!r}: {MANIFEST_FILE} is {path.stat().st_size} bytes, too large to be one."
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"bundle {str(shown)!r}: {MANIFEST_FILE} is damaged ({error}). Export again, or take it from a backup."
        ) from None
    if not isinstance(document, dict) or document.get("format") != "nagedge-bundle":
        raise BundleError(f'{str(shown)!r} is no bundle: {MANIFEST_FILE} lacks "format": "nagedge-bundle".')
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"bundle {str(shown)!r} has schema version {version!r}, this program reads {SCHEMA_VERSION}. Use the "
            "version of NagEdge that wrote it, or export again."
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        reason = "this key is unknown" if first["type"] == "extra_forbidden" else first["msg"]
        raise BundleError(
            f"bundle {str(shown)!r}: {MANIFEST_FILE} is wrong at {at!r}: {reason}. Export again, or take it from "
            "a backup."
        ) from None


def _check_name(name: str, shown: Path) -> None:
    """Refuse a path that could lead out of the bundle on any system."""
    parts = PurePosixPath(name).parts
    unsafe = name.startswith("/") or "\\" in name or ":" in name or "\0" in name or ".." in parts or not parts
    if unsafe or PurePosixPath(name).as_posix() != name:
        raise BundleError(
            f"bundle {str(shown)!r} names the file {name!r}, which may lead out of the bundle. It was not written by "
            "this program; do not use it."
        )


def _check_no_link(is_link: bool, name: str, shown: Path) -> None:
    if is_link:
        raise BundleError(f"bundle {str(shown)!r}: {name!r} is a link. Copy the real file there.")


def _check_file(folder: Path, name: str, entry: FileEntry, shown: Path) -> None:
    _check_name(name, shown)
    current = folder
    for part in PurePosixPath(name).parts:
        current = current / part
        _check_no_link(current.is_symlink(), name, shown)
    if not current.is_file():
        raise BundleError(
            f"bundle {str(shown)!r}: {name!r} is missing. Export again, or take it from a backup."
        )
    size = current.stat().st_size
    if size != entry.size_bytes:
        raise BundleError(
            f"bundle {str(shown)!r}: {name!r} has {size} bytes, the manifest says {entry.size_bytes}: it is truncated "
            "or was changed. Export again, or take it from a backup."
        )
    digest = sha256_of(current)
    if digest != entry.sha256:
        raise BundleError(
            f"bundle {str(shown)!r}: {name!r} has sha256 {digest[:16]}…, the manifest says {entry.sha256[:16]}…: it "
            "was changed. Export again, or take it from a backup."
        )


def _unpack(path: Path) -> tuple[object, Path]:
    """Unpack a .zip into a temporary folder that is removed with the returned owner."""
    if not zipfile.is_zipfile(path):
        raise BundleError(
            f"{str(path)!r} is a file but no .zip archive: give a bundle's folder, or a .zip of it."
        )
    folder = Path(tempfile.mkdtemp(prefix="nagedge-bundle-"))
    owner = _Owner()
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename
                if info.is_dir():
                    continue
                _check_name(name, path)
                _check_no_link(stat.S_ISLNK(info.external_attr >> 16), name, path)
                archive.extract(info, folder)
    except BundleError:
        raise
    except (
        Exception
    ) as error:  # what a damaged archive raises is not one class (zlib.error, RuntimeError, ...)
        raise BundleError(
            f"bundle {str(path)!r} cannot be unpacked: {error}. Export again, or take it from a backup."
        ) from None
    inner = [p for p in folder.iterdir() if not re.match(r"\.|__MACOSX", p.name)]
    if len(inner) == 1 and inner[0].is_dir() and not (folder / MANIFEST_FILE).exists():
        return owner, inner[0]  # zipped with its folder
    return owner, folder


class _Owner:
    """Keeps an unpacked bundle's folder alive."""
