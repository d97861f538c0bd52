"""The assets of the Android app: the part of a bundle that it reads, as the export wrote it, byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from nagedge.bundle import MANIFEST_FILE, MOMENTUM_FILE, PARAMS_FILE, check_replaceable
from nagedge.errors import ConfigurationError
from nagedge.files import replace_folder

if TYPE_CHECKING:
    from nagedge.bundle import Bundle
    from nagedge.manifest import TargetEntry

__all__ = ["ASSET_FOLDER", "write_android_assets"]

ASSET_FOLDER = "bundle"
"""The folder of the assets in which the app looks."""


def write_android_assets(bundle: Bundle, assets: str | Path) -> Path:
    """Write ``bundle/`` into a folder of assets, in place of the one that is there, and return it.

    The manifest is the bundle's own, so that the app has the export's hash (:meth:`Manifest.content_hash`). Of the
    other files only those are copied that the app reads: parameters, momentum, inference and the training step.

    Args:
        bundle: must hold a training step for ONNX Runtime in float32.
        assets: the app's folder, such as ``android_demo/app/src/main/assets``; it is made where it is missing.

    Raises:
        ConfigurationError: no target fits, or something else is in the place of ``bundle/``.
    """
    artifacts = _target(bundle).artifacts
    folder = Path(assets) / ASSET_FOLDER
    check_replaceable(folder)
    names = [MANIFEST_FILE, PARAMS_FILE, MOMENTUM_FILE, artifacts["infer"], artifacts["train_step"]]
    try:
        with replace_folder(folder) as new:
            for name in names:
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path / name, new / name)
    except OSError as error:
        raise ConfigurationError(
            f"the assets in {str(assets)!r} cannot be written: {error.strerror}. Give another folder with "
            "--android-assets, or free some space."
        ) from error
    return folder


def _target(bundle: Bundle) -> TargetEntry:
    """Return the first target that the app can run, which is the one that it takes."""
    targets = bundle.manifest.targets
    for entry in targets.values():
        if (
            entry.backend == "onnxruntime"
            and entry.precision == "fp32"
            and {"infer", "train_step"} <= entry.artifacts.keys()
        ):
            return entry
    raise ConfigurationError(
        f"bundle {str(bundle.path)!r} has no target that trains on ONNX Runtime in float32, which the Android app "
        f"needs (it has {', '.join(targets)}): export it with --target any-any-onnxruntime-fp32-train. No assets were "
        "written."
    )
