"""The files of onnxruntime-web: fetched once with npm, checked against their hashes, kept per user.

The stock package is used as it is published; nothing of it is changed. Of its 507 files (128 MB) two are kept: the
module with its glue code, and the WebAssembly for processors (12.4 MB, 3.1 MB compressed).
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nagedge.errors import RuntimeUnavailableError
from nagedge.files import replace_folder, sha256_of
from nagedge.runtimes.isolation import cache_folder
from nagedge.web.npm import npm_command

__all__ = ["VERSION", "WebRuntime", "web_runtime"]

Progress = Callable[[str, int, int], None]

VERSION = "1.24.3"
"""The one whose hashes are below; before 1.29, from which on ONNX Runtime has telemetry."""

_MODULE, _WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_SHA256 = {
    _MODULE: "9f716d6e3c4280dcced6f0fcb9814c1d7630de83d8177880a2ef445fe48ca913",
    _WASM: "be0e129949062ad50290ef94683fac8be5bb6156f709e030b7a5f1661a2f6c17",
}
_FETCH_LIMIT_S = 600
_NPM_OPTIONS = (
    "--ignore-scripts",
    "--loglevel=error",
    "--fetch-retries=1",  # without a network the answer shall come in seconds
    "--fetch-retry-mintimeout=1000",
)


@dataclass(frozen=True)
class WebRuntime:
    """The two files of onnxruntime-web that a page or Node needs.

    Attributes:
        module: the ES module; it needs no other file when it is given the WebAssembly.
        wasm: the WebAssembly.
    """

    module: Path
    wasm: Path


def web_runtime(cache: Path | None = None, progress: Progress | None = None) -> WebRuntime:
    """Return the files, fetched on first use; afterwards no network is needed.

    Args:
        cache: the folder to keep them in; None takes the user's cache folder.
        progress: called with a description, 0 or 1 and 1, when they have to be fetched.

    Raises:
        RuntimeUnavailableError: npm cannot be had, cannot fetch the package, or fetched another than the pinned one.
    """
    folder = (cache or cache_folder()) / f"onnxruntime-web-{VERSION}"
    if not _is_whole(folder):
        report = progress or (lambda description, completed, total: None)
        report(f"fetching onnxruntime-web {VERSION} (31 MB), once", 0, 1)
        _fetch(folder)
        report(f"fetched onnxruntime-web {VERSION}", 1, 1)
    return WebRuntime(module=folder / _MODULE, wasm=folder / _WASM)


def _is_whole(folder: Path) -> bool:
    return all(
        (folder / name).is_file() and sha256_of(folder / name) == sha256 for name, sha256 in _SHA256.items()
    )


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="nagedge-npm-") as name:
        archive = _packed(Path(name))
        with replace_folder(folder) as new:
            _unpack(archive, new)


def _packed(folder: Path) -> Path:
    """Let npm fetch the package, from wherever the user's own settings say, and return the archive."""
    command = [*npm_command(), "pack", f"onnxruntime-web@{VERSION}", *_NPM_OPTIONS]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_FETCH_LIMIT_S, check=False
        )
        reason = _reason(done)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = f"{error}"
    archives = list(folder.glob("*.tgz"))
    if not archives:
        raise RuntimeUnavailableError(
            f"onnxruntime-web {VERSION} cannot be fetched: `npm pack onnxruntime-web@{VERSION}` failed "
            f"({reason.strip()}). Connect to the network once; afterwards it is taken from the cache."
        )
    return archives[0]


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return npm's own code of what went wrong, such as ``ECONNREFUSED``, else its last words."""
    lines = [line.removeprefix("npm error").strip() for line in done.stderr.splitlines() if line.strip()]
    codes = [line.removeprefix("code ") for line in lines if line.startswith("code ")]
    return (codes or lines[-1:] or [f"it ended with {done.returncode}"])[0]


def _unpack(archive: Path, folder: Path) -> None:
    """Take the pinned files out of the archive, and refuse any other content."""
    try:
        with tarfile.open(archive) as packed:
            for name in _SHA256:
                member = packed.extractfile(f"package/dist/{name}")
                if member is not None:
                    with (folder / name).open("wb") as file:
                        shutil.copyfileobj(member, file)
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise RuntimeUnavailableError(
            f"onnxruntime-web {VERSION} as fetched by npm cannot be unpacked: {error}. Try again; if it stays so, the "
            "package that your npm settings lead to is not the published one."
        ) from None
    if not _is_whole(folder):
        raise RuntimeUnavailableError(
            f"onnxruntime-web {VERSION} as fetched by npm is not the published one: the SHA-256 of a file differs from "
            "the pinned one. It was not kept. Check which registry your npm settings name."
        )
