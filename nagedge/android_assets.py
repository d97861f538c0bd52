"""The assets of the Android app: the part of a bundle that it reads, as the export wrote it, byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from nagedge.bundle import check_replaceable
from nagedge.devices.android_app import app_files, app_target
from nagedge.errors import ConfigurationError
from nagedge.files import replace_folder

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

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
    names = app_files(bundle.manifest, _target(bundle))
    folder = Path(assets) / ASSET_FOLDER
    check_replaceable(folder)
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


def _target(bundle: Bundle) -> str:
    target = app_target(bundle.manifest)
    if target is None:
        raise ConfigurationError(
            f"bundle {str(bundle.path)!r} has no target that trains on ONNX Runtime in float32, which the Android app "
            f"needs (it has {', '.join(bundle.manifest.targets)}): export it with --target "
            "any-any-onnxruntime-fp32-train. No assets were written."
        )
    return target
