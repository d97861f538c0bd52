"""How the emulator is made, with small parts in the place of the real ones; the real ones: tests/integration."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nagedge.devices import arm64, arm64_parts
from nagedge.devices.arm64 import home, installed, setup, states
from nagedge.devices.arm64_parts import Part, find_compiler, parts
from nagedge.errors import RuntimeUnavailableError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the emulator is made on Linux")


class Built:
    """Counts how often each part was built; one of them may fail."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.failing: dict[str, BaseException] = {}

    def part(self, name: str) -> Part:
        def build(folder: Path, scratch: Path, mirror: str | None) -> dict[str, str]:
            self.names.append(name)
            (folder / "half").write_text("x")
            if name in self.failing:
                raise self.failing[name]
            (folder / "whole").write_text(name)
            return {name: "1.0"}

        return Part(name, f"part {name}", build)


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    found = Built()
    monkeypatch.setenv("NAGEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(arm64, "parts", lambda: tuple(found.part(name) for name in ("a", "b", "c")))
    monkeypatch.setattr(arm64, "_check_system", lambda: None)
    monkeypatch.setattr(arm64, "_try_out", lambda made: None)
    return found


def test_parts_are_made_once_and_counted(built: Built) -> None:
    seen: list[tuple[str, int, int]] = []
    with pytest.raises(
        RuntimeUnavailableError, match=r"not set up \(a: not made yet\)\. Run `nagedge devices setup"
    ):
        installed()
    setup(lambda *step: seen.append(step))
    assert [(done, total) for _, done, total in seen] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    setup()
    assert built.names == ["a", "b", "c"]
    assert installed().folder == home()
    assert [(state.problem, state.size_bytes, state.versions) for state in states()] == [
        ("", 2, {name: "1.0"}) for name in "abc"
    ]
    setup(anew=True)
    assert built.names == ["a", "b", "c"] * 2


def test_an_interrupted_setup_goes_on_where_it_stopped(built: Built) -> None:
    built.failing["b"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        setup()
    assert sorted(path.name for path in home().iterdir()) == ["a", "downloads"]
    (home() / ".b.killed.part").mkdir()  # what a killed one leaves
    del built.failing["b"]
    setup()
    assert built.names == ["a", "b", "b", "c"]
    assert sorted(path.name for path in home().iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "whole").unlink(), "whole is missing or damaged"),
        (lambda folder: (folder / "whole").write_text("longer than before"), "whole is missing or damaged"),
        (lambda folder: (folder / ".files.json").write_text("{"), "incomplete"),
        (
            lambda folder: (folder / ".files.json").write_text(
                (folder / ".files.json").read_text().replace("part b", "part b 0.9")
            ),
            "it holds part b 0.9, not part b",
        ),
    ],
)
def test_a_damaged_part_is_made_again_and_only_it(built: Built, damage: object, problem: str) -> None:
    setup()
    damage(home() / "b")
    assert [state.problem for state in states()] == ["", problem, ""]
    with pytest.raises(RuntimeUnavailableError, match=r"\(b: "):
        installed()
    setup()
    assert built.names == ["a", "b", "c", "b"]
    assert [state.problem for state in states()] == ["", "", ""]


def test_a_full_disk_is_one_clear_error_and_loses_nothing(built: Built) -> None:
    built.failing["c"] = OSError(errno.ENOSPC, "No space left on device", "x")
    with pytest.raises(RuntimeUnavailableError, match=r"the disk is full: .* needs 700 MiB .* NAGEDGE_CACHE"):
        setup()
    assert [state.problem for state in states()] == ["", "", "not made yet"]
    del built.failing["c"]
    setup()
    assert built.names == ["a", "b", "c", "c"]


def test_too_little_space_is_seen_before_anything_is_made(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arm64, "_NEEDED_BYTES", 1 << 60)  # more than any disk has
    with pytest.raises(RuntimeUnavailableError, match="the disk is full"):
        setup()
    assert built.names == []


def test_a_cache_that_cannot_be_written_is_one_clear_error(built: Built, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RuntimeUnavailableError, match="Set NAGEDGE_CACHE to a folder that you may write to"):
        setup()


def test_two_setups_at_once_make_each_part_once(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = built.part("a").build

    def build(folder: Path, scratch: Path, mirror: str | None) -> dict[str, str]:
        time.sleep(0.3)
        return slow(folder, scratch, mirror)

    monkeypatch.setattr(arm64, "parts", lambda: (Part("a", "part a", build), built.part("b")))
    said: list[str] = []
    threads = [
        threading.Thread(target=setup, args=(lambda text, done, total: said.append(text),)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built.names == ["a", "b"]
    assert "waiting for another setup" in said


def test_a_missing_compiler_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(
        RuntimeUnavailableError,
        match=r"no C compiler was found \(no-such-compiler\).*apt-get install gcc libc6-dev",
    ):
        find_compiler()


def test_a_compiler_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.raises(RuntimeUnavailableError, match=r"cannot be compiled with false: exit code 1"):
        arm64_parts._build_plugin(tmp_path, tmp_path, None)


def test_the_plugin_compiles_without_a_warning(tmp_path: Path) -> None:
    source = Path(arm64.__file__).with_name("nagcount.c")
    command = [find_compiler(), "-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]
    subprocess.run([*command, str(tmp_path / "x.so"), str(source)], check=True)


@pytest.mark.parametrize(
    ("system", "missing", "text"),
    [
        ("darwin", "", "runs on Linux only, this is darwin"),
        ("linux", "apt-get", "is made with apt-get, which this"),
    ],
)
def test_other_systems_are_told_what_is_needed(
    system: str, missing: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arm64.sys, "platform", system)
    monkeypatch.setattr(arm64.shutil, "which", lambda name: None if name == missing else f"/usr/bin/{name}")
    with pytest.raises(RuntimeUnavailableError, match=text):
        setup()


def test_every_part_says_what_it_is() -> None:
    names = [part.name for part in parts()]
    assert len(names) == len(set(names))
    assert {
        "qemu",
        "system",
        "cores",
        "plugin",
        "site-onnxruntime",
        "site-litert",
        "site-tflite_runtime",
    } <= {*names}


def test_the_list_of_files_is_readable(built: Built) -> None:
    setup()
    listed = json.loads((home() / "a/.files.json").read_text())
    assert listed == {"what": "part a", "versions": {"a": "1.0"}, "files": {"half": 1, "whole": 1}}
