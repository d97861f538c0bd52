"""``nagedge doctor``: what this machine has, and what is missing."""

from __future__ import annotations

from typing import Annotated

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
_OPTIONAL = ("timm", "torchvision", "mlxtend", "ai-edge-litert", "ai-edge-quantizer", "coremltools")
_SOUND = frozenset({"ok", "optional", "not here", "not made yet", "ready"})


def command(
    make: Annotated[
        bool, typer.Option("--make", help="Make or repair the isolated runtimes; needs a network once.")
    ] = False,
) -> None:
    """Show versions, runtimes, threads and caches; exit code 1 when something needed is missing or broken."""
    import sys

    import nagedge
    from nagedge.cli.output import print_table

    failed = _make_isolated() if make else {}
    rows: list[list[object]] = [
        ["python", sys.version.split()[0], "ok"],
        ["nagedge", nagedge.__version__, "ok"],
    ]
    rows += [_package(name, missing="missing") for name in _PACKAGES]
    rows += [_package(name, missing="optional") for name in _OPTIONAL]
    rows += [*_runtimes(), *_isolated(), *_threads(), *_caches()]
    print_table("NagEdge on this machine", ["what", "found", "state"], rows)
    broken = [str(row[0]) for row in rows if row[2] not in _SOUND]
    for text in failed.values():
        typer.echo(text, err=True)
    if broken:
        typer.echo(f"needs attention: {', '.join(broken)}", err=True)
    if broken or failed:
        raise typer.Exit(1)


def _make_isolated() -> dict[str, str]:
    """Make the isolated runtimes that are not ready; return why not, by name, for those that cannot be made."""
    from nagedge.cli.output import progress_bar
    from nagedge.errors import RuntimeUnavailableError
    from nagedge.runtimes.isolation import ENVIRONMENTS, make, state_of

    failed = {}
    with progress_bar() as report:
        for name, environment in ENVIRONMENTS.items():
            try:
                if state_of(environment).kind != "ready":
                    make(environment, report)
            except RuntimeUnavailableError as error:
                failed[name] = f"{error}"
    return failed


def _package(name: str, *, missing: str) -> list[object]:
    from importlib import metadata

    try:
        return [name, metadata.version(name), "ok"]
    except metadata.PackageNotFoundError:
        return [name, "not installed", missing]


def _runtimes() -> list[list[object]]:
    """Return the runtimes of this process; each is loaded, since a broken one shows only then."""
    from nagedge.errors import RuntimeUnavailableError
    from nagedge.runtimes import RUNTIMES, available_runtime
    from nagedge.runtimes.isolation import ENVIRONMENTS

    rows: list[list[object]] = []
    for name in RUNTIMES:
        if name in ENVIRONMENTS:
            continue
        try:
            rows.append([f"runtime {name}", f"{available_runtime(name)} on the host", "ok"])
        except RuntimeUnavailableError as error:
            rows.append([f"runtime {name}", f"{error}", "not here"])
        except (ImportError, OSError) as error:
            rows.append([f"runtime {name}", f"{error}", "broken"])
    return rows


def _isolated() -> list[list[object]]:
    """Return the runtimes with an environment of their own; nothing is made or repaired."""
    from nagedge.runtimes.isolation import ENVIRONMENTS, state_of

    rows: list[list[object]] = []
    for name, environment in ENVIRONMENTS.items():
        state = state_of(environment)
        found = "made on first use" if state.kind == "not made yet" else f"{state.size_bytes / 2**20:.0f} MiB"
        if state.reason:
            found = f"{state.reason}; {found}"
        found = f"{environment.version}, {found}: {state.folder}"
        rows.append([f"runtime {name}", found, state.kind])
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

    from nagedge.runtimes.isolation import cache_folder

    folders = {
        "working folder": Path.cwd(),
        "temporary folder": Path(tempfile.gettempdir()),
        "cache": cache_folder(),
    }
    rows: list[list[object]] = []
    for name, folder in folders.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        rows.append([name, f"{folder}", "ok" if os.access(existing, os.W_OK) else "not writable"])
    return rows
