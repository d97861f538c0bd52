"""``nagedge doctor``: what this machine has, and what is missing."""

from __future__ import annotations

import typer

__all__ = ["command"]

_PACKAGES = (
    "torch",
    "onnx",
    "onnxruntime",
    "numpy",
    "pyarrow",
    "lightning-fabric",
    "pydantic",
    "safetensors",
)
_OPTIONAL = ("timm", "torchvision", "mlxtend")


def command() -> None:
    """Show versions, runtimes, threads and caches; exit code 1 when something needed is missing."""
    import sys

    import nagedge
    from nagedge.cli.output import print_table

    rows: list[list[object]] = [
        ["python", sys.version.split()[0], "ok"],
        ["nagedge", nagedge.__version__, "ok"],
    ]
    rows += [_package(name, missing="missing") for name in _PACKAGES]
    rows += [_package(name, missing="optional") for name in _OPTIONAL]
    rows += [*_runtimes(), *_threads(), *_caches()]
    print_table("NagEdge on this machine", ["what", "found", "state"], rows)
    broken = [row[0] for row in rows if row[2] not in {"ok", "optional"}]
    if broken:
        typer.echo(f"needs attention: {', '.join(map(str, broken))}", err=True)
        raise typer.Exit(1)


def _package(name: str, *, missing: str) -> list[object]:
    from importlib import metadata

    try:
        return [name, metadata.version(name), "ok"]
    except metadata.PackageNotFoundError:
        return [name, "not installed", missing]


def _runtimes() -> list[list[object]]:
    """Return the runtimes that a bundle can be run with; each is loaded, since a broken one shows only then."""
    from importlib import import_module

    from nagedge.runtimes import RUNTIMES
    from nagedge.runtimes.onnxruntime import import_onnxruntime

    rows: list[list[object]] = []
    for name in RUNTIMES:
        try:
            version = (import_onnxruntime() if name == "onnxruntime" else import_module(name)).__version__
        except (ImportError, OSError) as error:
            rows.append([f"runtime {name}", f"{error}", "broken"])
        else:
            rows.append([f"runtime {name}", f"{version} on the host", "ok"])
    return rows


def _threads() -> list[list[object]]:
    import os

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        ["processors usable", usable, "ok"],
        ["OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "not set"), "ok"],
    ]


def _caches() -> list[list[object]]:
    """Return the folders that are written to besides the ones the user names, and whether that works."""
    import os
    import tempfile
    from pathlib import Path

    folders = {
        "working folder": Path.cwd(),
        "temporary folder": Path(tempfile.gettempdir()),
        "cache": Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")),
    }
    rows: list[list[object]] = []
    for name, folder in folders.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        rows.append([name, f"{folder}", "ok" if os.access(existing, os.W_OK) else "not writable"])
    return rows
