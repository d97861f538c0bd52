"""The whole emulated machine: what is packed for it, how it is started, and what is read from its console."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from nagedge.devices import system_emulation, system_init
from nagedge.devices.arm64 import Installation
from nagedge.devices.arm64_system import SystemInstallation
from nagedge.devices.initramfs import Archive
from nagedge.devices.system_emulation import run_in_system
from nagedge.devices.system_init import MARKER
from nagedge.errors import BundleError, ConfigurationError, RuntimeUnavailableError


def entries(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Read an archive back, by the kernel's description of the format: name -> mode, content, device."""
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = fields[6], fields[11]
        start = at + 110
        name = data[start : start + name_size - 1].decode()
        assert data[start + name_size - 1] == 0
        content = (start + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (fields[1], data[content : content + size], (fields[9], fields[10]))
        at = (content + size + 3) // 4 * 4


def test_an_archive_holds_what_was_put_into_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "bin").mkdir(parents=True)
    (source / "bin/tool").write_bytes(b"tool")
    (source / "bin/tool").chmod(0o755)
    (source / "link").symlink_to("bin/tool")
    written = []
    for _ in range(2):
        file = io.BytesIO()
        archive = Archive(file)
        archive.folder("dev")
        archive.device("dev/null", 1, 3)
        archive.tree(source, "usr")
        archive.file("odd", b"12345")
        archive.end()
        written.append(file.getvalue())
    assert written[0] == written[1]
    found = entries(written[0])
    assert found == {
        "dev": (0o40755, b"", (0, 0)),
        "dev/null": (0o20666, b"", (1, 3)),
        "usr/bin": (0o40755, b"", (0, 0)),
        "usr/bin/tool": (0o100755, b"tool", (0, 0)),
        "usr/link": (0o120777, b"bin/tool", (0, 0)),
        "odd": (0o100644, b"12345", (0, 0)),
    }


@pytest.fixture
def machine(tmp_path: Path) -> SystemInstallation:
    """An emulator whose QEMU is a shell script of the test's: ``qemu`` beside it."""
    base = tmp_path / "arm64"
    for name in ("system/usr/bin", "numpy-2/numpy", "site-onnxruntime/onnxruntime"):
        (base / name).mkdir(parents=True)
    (base / "site-onnxruntime/onnxruntime/__init__.py").write_text("")
    folder = tmp_path / "arm64-system"
    for name in ("qemu-system/lib64", "qemu-system/usr/lib", "kernel"):
        (folder / name).mkdir(parents=True)
    loader = folder / "qemu-system/lib64/ld-linux-x86-64.so.2"  # starts whatever QEMU is
    loader.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/command\ncp "$(echo "$@" | sed "s/.*-initrd //; s/ .*//")" '
                      f"{tmp_path}/initrd\nexec sh {tmp_path}/qemu\n")  # fmt: skip
    loader.chmod(0o755)
    (tmp_path / "model.onnx").write_bytes(b"a model")
    return SystemInstallation(folder, Installation(base))


ANSWER = {
    "cores": 2, "runtime": "onnxruntime 1.2.3", "timed": "a run", "durations_ns": [4800, 3200, 1600],
    "compared": {"loss": ["1e-07", "2.5"], "state": ["nan", "1.0"]},
}  # fmt: skip


def run(
    machine: SystemInstallation, tmp_path: Path, script: str, **options: object
) -> system_emulation.SystemRun:
    (tmp_path / "qemu").write_text(script)
    inputs = {"x": np.ones((2, 3), np.float32)}
    return run_in_system(
        machine,
        "cortex-a53",
        "onnxruntime",
        tmp_path / "model.onnx",
        inputs,
        {"loss": np.ones(())},
        **options,  # type: ignore[arg-type]
    )


def test_a_machine_is_packed_started_and_read(machine: SystemInstallation, tmp_path: Path) -> None:
    script = f"echo '[0.1] the kernel talks'; echo '{MARKER}{json.dumps(ANSWER)}'"
    found = run(machine, tmp_path, script, threads=2, calls=3)
    assert found.ticks == (300, 200, 100)  # 16 virtual nanoseconds each
    assert (found.cores, found.runtime, found.call) == (2, "onnxruntime 1.2.3", "a run")
    assert found.differences["loss"] == (1e-07, 2.5)
    assert np.isnan(found.differences["state"][0])
    command = (tmp_path / "command").read_text()
    for part in (
        "-cpu cortex-a53",
        "-smp 2",
        "-icount shift=4,sleep=off",
        "-seed 1",
        "clock=vm",
        "PYTHONHASHSEED=0",
    ):
        assert part in command
    packed = entries((tmp_path / "initrd").read_bytes())
    assert packed["init"][0] == 0o100755
    assert packed["init"][1].startswith(b"#!/usr/bin/python3.11\n")
    assert packed["dev/console"][2] == (5, 1)
    assert "site/onnxruntime/__init__.py" in packed
    assert packed["work/model.onnx"][1] == b"a model"
    opening, repeating = [json.loads(line) for line in packed["work/requests.jsonl"][1].splitlines()]
    assert (opening["threads"], repeating["calls"]) == (2, 3)
    assert {"work/runner.py", "work/inputs.npz", "work/expected.npz"} <= set(packed)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo 'Kernel panic - not syncing'", r"without an answer while it ran 'model\.onnx'.*Kernel panic"),
        ("echo 'no such core' >&2; exit 1", "without an answer .* last words: no such core"),
        (f"echo '{MARKER}{{\"refused\": \"bad model. More\"}}'", r"refuses 'model\.onnx' on onnxruntime: bad model"),
        (f"echo '{MARKER}{{\"error\": \"MemoryError: x\"}}'", "refuses .*: MemoryError: x"),
    ],
)  # fmt: skip
def test_a_machine_that_fails_says_so(
    machine: SystemInstallation, tmp_path: Path, script: str, text: str
) -> None:
    with pytest.raises(BundleError, match=text):
        run(machine, tmp_path, script)


def test_a_machine_that_hangs_is_ended(machine: SystemInstallation, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"did not finish 'model\.onnx' within 0\.2 s"):
        run(machine, tmp_path, "exec sleep 60", timeout_s=0.2)


def test_what_does_not_exist_is_refused(machine: SystemInstallation, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="unknown core 'cortex-a1'"):
        run_in_system(machine, "cortex-a1", "onnxruntime", tmp_path / "model.onnx", {}, {})
    with pytest.raises(RuntimeUnavailableError, match="'ort_training' is not in the arm64 emulator"):
        run_in_system(machine, "cortex-a53", "ort_training", tmp_path / "model.onnx", {}, {})


def test_the_guest_tells_the_largest_difference() -> None:
    ours, theirs = np.float32([1.0, 2.5]), np.float32([1.0, 2.0])
    assert system_init._difference(ours, theirs) == ["0.5", "2.0"]
    assert system_init._difference(ours, np.zeros(3)) == ["inf", "0"]
    assert system_init._difference(np.float32([np.nan]), np.zeros(1))[0] == "nan"
    assert system_init._difference(np.zeros(0), np.zeros(0)) == ["0.0", "0.0"]


def test_the_guest_needs_nothing_of_this_package() -> None:
    text = Path(system_init.__file__).read_text()
    modules = {
        line.split()[1].partition(".")[0]
        for line in text.splitlines()
        if line.startswith(("import ", "from "))
    }
    assert modules <= set(sys.stdlib_module_names)
