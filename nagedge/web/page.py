"""The page: one folder of static files in which a bundle predicts and learns, in a browser, without a server.

A page that is opened from disk may load classic scripts and ``data:`` addresses, but may fetch nothing and import no
module file. Both ways of opening it shall work alike, so that there is one way: ES modules are ``data:`` addresses in
an import map, and the model and the runtime are text (base64 of gzip) in two classic scripts. The page's policy then
forbids every connection, even to where the page came from.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from nagedge.data.preprocessing import Preprocessing
from nagedge.errors import BundleError, ConfigurationError
from nagedge.files import replace_folder
from nagedge.web.runtime import web_runtime

if TYPE_CHECKING:
    from nagedge.bundle import Bundle
    from nagedge.web.runtime import WebRuntime

__all__ = ["model_files", "page_files", "policy", "web_target", "write_page"]

_MARK = '<meta name="generator" content="nagedge web">'
_DTYPES = ("float32", "float64", "int32", "int64", "bool", "uint8")
"""Input types that a browser has arrays for."""

_IMPORT = re.compile(r'((?:from|import) )"\./([a-z_]+)\.mjs"')


def write_page(
    bundle: Bundle,
    out: str | Path,
    *,
    target: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write the page of a bundle as a folder of static files and return the folder.

    Args:
        bundle: must hold a training step for ONNX Runtime.
        out: a new or empty folder, or one that holds such a page, which is replaced.
        target: whose files; None takes the first that trains on ONNX Runtime, one for the web before others.
        progress: called with a description, the steps done and the steps in all, when the runtime has to be fetched.

    Raises:
        ConfigurationError: ``out`` holds something else, or the bundle has no such target.
        BundleError: the bundle needs something that a browser does not have.
        RuntimeUnavailableError: onnxruntime-web cannot be had.
    """
    out = Path(out)
    _check_replaceable(out)
    files = page_files(bundle, web_runtime(progress=progress), target=target)
    with replace_folder(out) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return out


def page_files(bundle: Bundle, runtime: WebRuntime, *, target: str | None = None) -> dict[str, bytes]:
    """Return the content of the page's files by name; see :func:`write_page`."""
    name = web_target(bundle, target)
    _check_inputs(bundle)
    modules = _modules() | {"onnxruntime-web": runtime.module.read_text(encoding="utf-8")}
    import_map = json.dumps({"imports": {key: _data_url(text) for key, text in modules.items()}})
    page = _asset("index.html")
    filled = {
        "mark": _MARK,
        "title": html.escape(f"{bundle.manifest.model}, learning on this device"),
        "policy": html.escape(policy([import_map, _inline_module(page)]), quote=True),
        "import_map": import_map,
    }
    for key, value in filled.items():
        page = page.replace(f"{{{{{key}}}}}", value)
    return {
        "index.html": page.encode(),
        "style.css": _asset("style.css").encode(),
        "model.js": _script(model_files(bundle, name)),
        "runtime.js": _script({"runtime.wasm": runtime.wasm.read_bytes()}),
        "onnxruntime-web.LICENSE.txt": _asset("onnxruntime-web.LICENSE.txt").encode(),
    }


def policy(inline: list[str]) -> str:
    """Return the Content-Security-Policy: the page's own files and these inline scripts, and no connection at all."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in inline
    )
    return "; ".join((
        "default-src 'none'",
        f"script-src 'self' data: 'wasm-unsafe-eval' {hashes}",
        "style-src 'self'",
        "img-src data: blob:",
        "connect-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ))  # fmt: skip


def web_target(bundle: Bundle, target: str | None) -> str:
    """Return the name of the target whose files the page takes.

    Raises:
        ConfigurationError: the bundle has none that trains on ONNX Runtime, or the named one does not.
    """
    if target is not None:
        name, entry = bundle.target(target, role="train_step")
        if entry.backend != "onnxruntime" or "infer" not in entry.artifacts:
            raise ConfigurationError(
                f"target {name!r} of bundle {str(bundle.path)!r} has backend {entry.backend!r}; a browser runs "
                "'onnxruntime' targets, such as any-any-onnxruntime-fp32-train."
            )
        return name
    fitting = [
        name
        for name, entry in bundle.manifest.targets.items()
        if entry.backend == "onnxruntime" and {"infer", "train_step"} <= entry.artifacts.keys()
    ]
    if not fitting:
        raise ConfigurationError(
            f"bundle {str(bundle.path)!r} has no training step for ONNX Runtime in any target "
            f"({', '.join(bundle.manifest.targets)}): export it with --target any-any-onnxruntime-fp32-train."
        )
    return next((name for name in fitting if name.startswith("web-")), fitting[0])


def model_files(bundle: Bundle, target: str) -> dict[str, bytes]:
    """Return what the page needs of a bundle, by the names that its modules read them under."""
    manifest = bundle.manifest
    artifacts = manifest.targets[target].artifacts
    files = {
        "params.safetensors": bundle.file("params.safetensors").read_bytes(),
        "momentum.safetensors": bundle.file("momentum.safetensors").read_bytes(),
        "infer.onnx": bundle.file(artifacts["infer"]).read_bytes(),
        "train_step.onnx": bundle.file(artifacts["train_step"]).read_bytes(),
    }
    digest = hashlib.sha256(b"".join(hashlib.sha256(files[name]).digest() for name in sorted(files)))
    about = {
        "identity": digest.hexdigest()[:32],
        "target": target,
        "batch": manifest.batch_of(target),
        "manifest": manifest.model_dump(
            mode="json",
            include={"model", "inputs", "tasks", "preprocessing", "training", "versions"},
        ),
    }
    return {"bundle.json": json.dumps(about, allow_nan=False).encode(), **files}


def _check_inputs(bundle: Bundle) -> None:
    manifest = bundle.manifest
    for entry in manifest.inputs:
        if entry.dtype not in _DTYPES:
            raise BundleError(
                f"input {entry.name!r} of bundle {str(bundle.path)!r} has dtype {entry.dtype}, for which a browser has "
                f"no type; expected one of {', '.join(_DTYPES)}."
            )
    if manifest.preprocessing is not None:
        Preprocessing.from_json(manifest.preprocessing)  # raises for a step that this version does not know


def _check_replaceable(out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    index = out / "index.html"
    if index.is_file() and _MARK in index.read_text(encoding="utf-8", errors="replace")[:4096]:
        return
    raise ConfigurationError(
        f"{str(out)!r} exists and holds no page of nagedge web: nothing was written. Give another --out."
    )


def _asset(name: str) -> str:
    return (resources.files("nagedge.web") / "assets" / name).read_text(encoding="utf-8")


def _modules() -> dict[str, str]:
    """Return the page's modules by the names that they have in the page, where an address can say no ``./``."""
    folder = resources.files("nagedge.web") / "assets"
    return {
        f"nagedge/{item.name}": _IMPORT.sub(r'\1"nagedge/\2.mjs"', item.read_text(encoding="utf-8"))
        + f"//# sourceURL=nagedge/{item.name}\n"
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.name.endswith(".mjs")
    }


def _inline_module(page: str) -> str:
    match = re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    return match[1]


def _data_url(module: str) -> str:
    return f"data:text/javascript;base64,{base64.b64encode(module.encode()).decode()}"


def _script(files: Mapping[str, bytes]) -> bytes:
    """Return a classic script that holds files as base64 of gzip; equal files give equal bytes."""
    lines = ["globalThis.nagedgeFiles ??= {};"]
    for name, content in files.items():
        packed = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
        lines.append(f"nagedgeFiles[{json.dumps(name)}] = {json.dumps(packed)};")
    return "\n".join([*lines, ""]).encode()
