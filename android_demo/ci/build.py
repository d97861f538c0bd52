"""Compile the app's two modules and run the tests of `core`, with the pinned tools and no Gradle."""

from __future__ import annotations

import os
import re
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tools import ORT_VERSION, Tools
from unbionic import unbionic

__all__ = [
    "DEMO",
    "BuildError",
    "classpath",
    "compile_core",
    "compile_core_tests",
    "run",
    "run_core_tests",
    "runtime_options",
    "strict_kotlinc",
]

DEMO = Path(__file__).resolve().parents[1]
"""The Gradle project."""

_STRICT = (
    "-Werror", "-jvm-target", "1.8", "-Xjdk-release=8", "-language-version", "2.3", "-api-version", "2.3", "-no-stdlib",
    "-no-reflect",
)  # fmt: skip
"""As the build.gradle.kts files have it: what runs on Android 7 is Java 8, and Gradle's Kotlin is 2.3."""

_JAVA = ("java", "-Xms512m", "-Xmx512m", "-XX:+AlwaysPreTouch", "-XX:+UseSerialGC")
"""The heap has its whole size from the start, so that what the process grows by was not freed by native code."""


class BuildError(Exception):
    """A tool ended with an error; the text is its output."""


def run(command: Sequence[str | Path], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a tool and return what it printed.

    Raises:
        BuildError: it failed.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if done.returncode != 0:
        raise BuildError(f"{' '.join(words[:6])} … ended with {done.returncode}:\n{output}")
    return output


def strict_kotlinc(tools: Tools) -> list[str]:
    """What starts the compiler with the options of both modules."""
    return [*tools.kotlinc(), *_STRICT]


def classpath(*paths: Path) -> str:
    """Jars and folders as one word."""
    return os.pathsep.join(str(path) for path in paths)


def compile_core(tools: Tools, out: Path) -> Path:
    """Compile `core` against the AAR's own Java API, warnings being errors, and return its jar."""
    jar = out / "core.jar"
    sources = DEMO / "core" / "src" / "main" / "kotlin"
    run([*strict_kotlinc(tools), "-cp", classpath(tools.kotlin_library, tools.ort_java), "-d", jar, sources])
    return jar


def compile_core_tests(tools: Tools, core: Path, out: Path) -> Path:
    """Compile the tests of `core` and return their jar."""
    jar = out / "core-tests.jar"
    sources = DEMO / "core" / "src" / "test" / "kotlin"
    needed = classpath(core, *_for_tests(tools))
    run([*strict_kotlinc(tools), f"-Xfriend-paths={core}", "-cp", needed, "-d", jar, sources])
    return jar


def _for_tests(tools: Tools) -> tuple[Path, ...]:
    return (tools.kotlin_library, tools.kotlin / "lib" / "kotlin-test.jar", tools.ort_java, *tools.junit)


def run_core_tests(tools: Tools, core: Path, tests: Path, golden: Path, out: Path) -> str:
    """Run JUnit on every class whose name ends in ``Test``, with ONNX Runtime's library for Linux.

    Args:
        golden: what Python computed; see tests/integration/android_golden.py.
        out: a folder for the natives and the tests' own files.

    Returns:
        What JUnit printed; its last line counts the tests.

    Raises:
        BuildError: a test failed.
    """
    options, environment = runtime_options(tools, out)
    with zipfile.ZipFile(tests) as jar:
        classes = sorted(
            name[:-6].replace("/", ".") for name in jar.namelist() if re.search(r"/\w+Test\.class$", name)
        )
    command = [
        *_JAVA, *options, f"-Dnagedge.golden={golden}", f"-Dnagedge.ort={ORT_VERSION}", "-cp",
        classpath(core, tests, *_for_tests(tools)), "org.junit.runner.JUnitCore",
    ]  # fmt: skip
    return run([*command, *classes], env=environment)


def runtime_options(tools: Tools, out: Path) -> tuple[list[str], dict[str, str]]:
    """Put ONNX Runtime for this machine into ``out``; return the JVM's options and the environment that use it."""
    natives = out / "natives"
    natives.mkdir(parents=True, exist_ok=True)
    shim = (tools.ort_natives / "x86_64" / "libonnxruntime4j_jni.so").read_bytes()
    for name, content in (
        ("libonnxruntime.so", tools.ort_linux.read_bytes()), ("libonnxruntime4j_jni.so", unbionic(shim))
    ):  # fmt: skip
        # Renamed into place: a JVM of another test process may have the file mapped.
        part = natives / f"{name}.{os.getpid()}"
        part.write_bytes(content)
        part.replace(natives / name)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(natives), "OMP_NUM_THREADS": "1"}
    return [f"-Donnxruntime.native.path={natives}", "-Duser.language=en"], environment
