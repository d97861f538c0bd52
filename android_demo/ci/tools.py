"""The tools that build and test the app without Gradle and the Android SDK: pinned, fetched once, kept per user.

Each is what somebody published as a package of PyPI, npm or Debian; it is fetched with that registry's own client, as
the user has set it up, checked against the SHA-256 below and unpacked. None is in this repository. Standard library
only.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ORT_VERSION", "PACKAGES", "Package", "Tools", "ToolsUnavailableError", "fetch_tools"]

ORT_VERSION = "1.26.0"
"""Of the AAR and of the library for the JVM. Below 1.29, from which on ONNX Runtime sends telemetry unless it is told
not to, which an app without a network shall not even try. gradle/libs.versions.toml has the same."""

_FETCH_LIMIT_S = 900


class ToolsUnavailableError(Exception):
    """A tool is missing on this machine and cannot be fetched; the text says which and why."""


@dataclass(frozen=True)
class Package:
    """One published package.

    Attributes:
        registry: ``"pypi"``, ``"npm"`` or ``"debian"``.
        name, version: as the registry has them. file: what its client calls the archive.
        sha256: of that file.
        use: what is taken from it.
    """

    registry: str
    name: str
    version: str
    file: str
    sha256: str
    use: str


PACKAGES = (
    Package(
        "npm", "kotlin-compiler", "2.4.20", "kotlin-compiler-2.4.20.tgz",
        "c23dab400d7ce5ea8b6c909947c0ca5454189e4bb1108695b5f464500e5e950f",
        "kotlinc, the Kotlin library and kotlin.test",
    ),
    Package(
        "npm", "com.github.asus4.onnxruntime", "0.4.8", "com.github.asus4.onnxruntime-0.4.8.tgz",
        "007a59a954d2161ffb1b3977a649c7945ee37bf30ad493891d4252c02e9536a4",
        f"the Android archive (AAR) of ONNX Runtime {ORT_VERSION}, and its library for Linux",
    ),
    Package(
        "pypi", "mobsf", "4.5.3", "mobsf-4.5.3-py3-none-any.whl",
        "8e1ec272edb656c7aec24bc451ad56f2191857fd1726229bf0da496521ecf207",
        "R8 (in bundletool), apksigner, baksmali, aapt2 and the framework's resources of API 36 (in apktool)",
    ),
    Package(
        "pypi", "chaquopy-stubs-android", "36.20260406", "chaquopy_stubs_android-36.20260406-py3-none-any.whl",
        "5e18511ccb7ae519d8c4643408cf16262fa5f20eb1d1a7e97cfe28de16e12008",
        "the signatures of every public class of Android's API 36",
    ),
    Package(
        "npm", "@nativescript/types-android", "9.1.1", "nativescript-types-android-9.1.1.tgz",
        "16193ea9c70286d5b0d3e2dc559abb483ad61fb599219c59d1a4146fe370b25a",
        "since which API level every public class and member of Android is there, and the values of constants",
    ),
    Package(
        "debian", "junit4", "4.13.2-3", "junit4_4.13.2-3_all.deb",
        "2f516bef5fa0f714da4f8b95c367c00aea64159c099c5157579fb95823dbcc56", "JUnit",
    ),
    Package(
        "debian", "libhamcrest-java", "2.2-1", "libhamcrest-java_2.2-1_all.deb",
        "a3e84b0462e4bd75bfcd34dd46c9a5db6b9e7174da2d120339f4dc89aab90a56", "what JUnit needs",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Tools:
    """Where the unpacked tools lie."""

    folder: Path

    @property
    def kotlin(self) -> Path:
        """The compiler's folder."""
        return self.folder / "kotlin-compiler"

    @property
    def kotlin_library(self) -> Path:
        """Kotlin's own classes."""
        return self.kotlin / "lib" / "kotlin-stdlib.jar"

    @property
    def ort_java(self) -> Path:
        """The Java API of ONNX Runtime: ``classes.jar`` of the AAR."""
        return self.folder / "aar" / "classes.jar"

    @property
    def ort_natives(self) -> Path:
        """The AAR's libraries: a folder for each processor."""
        return self.folder / "aar" / "jni"

    @property
    def ort_licenses(self) -> tuple[Path, ...]:
        """What has to travel with ONNX Runtime."""
        return tuple(self.folder / "ort" / name for name in ("LICENSE", "ThirdPartyNotices.txt"))

    @property
    def ort_linux(self) -> Path:
        """The runtime's library for Linux on x86_64, of the same version."""
        return self.folder / "ort" / "libonnxruntime.so"

    @property
    def junit(self) -> tuple[Path, ...]:
        """JUnit 4 and what it needs."""
        return tuple(self.folder / "junit" / name for name in ("junit4.jar", "hamcrest-2.2.jar"))

    @property
    def stubs_api36(self) -> Path:
        """Python stubs of API level 36."""
        return self.folder / "stubs36"

    @property
    def api_levels(self) -> Path:
        """Declarations of the API levels 21 to 37, with the level since which each is there."""
        return self.folder / "since" / "android-platform-21-37-merged.d.ts"

    def android(self, name: str) -> Path:
        """``aapt2``, ``framework.apk``, ``apksigner.jar``, ``baksmali.jar`` or ``bundletool.jar``."""
        return self.folder / "android" / name

    def kotlinc(self) -> list[str]:
        """What starts the compiler, to which arguments are added."""
        jar = self.kotlin / "lib" / "kotlin-compiler.jar"
        # A compiler that runs for half a minute does not earn back what optimising it costs.
        java = ["java", "-Xmx1g", "-XX:TieredStopAtLevel=1"]
        return [*java, "-cp", str(jar), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]


def fetch_tools(cache: Path | None = None) -> Tools:
    """Return the tools, fetched on first use (322 MB); afterwards no network is needed.

    Args:
        cache: the folder to keep them in; None takes the user's cache folder.

    Raises:
        ToolsUnavailableError: this machine lacks a JDK or a client, or a package cannot be fetched, or is another.
    """
    _check_machine()
    pins = [(package.name, package.sha256) for package in PACKAGES]
    key = hashlib.sha256(repr((pins, _LAYOUT)).encode()).hexdigest()[:12]
    base = cache or _cache_folder()
    base.mkdir(parents=True, exist_ok=True)
    folder = base / f"android-tools-{key}"
    with (base / "android-tools.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes fetch once
        if not folder.is_dir():
            partial = Path(tempfile.mkdtemp(dir=base, prefix="android-tools-", suffix=".part"))
            try:
                _fill(partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return Tools(folder)


_LAYOUT = 2
"""Rises when what is unpacked where changes, so that an older cache is not used."""

_FROM_MOBSF = {
    "apksigner.jar": "tools/apksigner.jar",
    "baksmali.jar": "tools/baksmali-3.0.8-dev-fat.jar",
    "bundletool.jar": "tools/bundletool-all-1.17.2.jar",
    "apktool.jar": "tools/apktool_3.0.3.jar",
}


def _cache_folder() -> Path:
    """The folder that NagEdge keeps its isolated runtimes in."""
    if own := os.environ.get("NAGEDGE_CACHE"):
        return Path(own)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "nagedge"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nagedge"


def _check_machine() -> None:
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise ToolsUnavailableError(
            f"the pinned aapt2 and the library of ONNX Runtime are for Linux on x86_64, this is {sys.platform} on "
            f"{os.uname().machine}."
        )
    for tool in ("java", "javac", "keytool"):
        if shutil.which(tool) is None:
            raise ToolsUnavailableError(
                f"{tool} is not on the PATH: install a JDK, such as openjdk-17-jdk-headless."
            )


def _fill(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="nagedge-android-") as name:
        archives = {package.name: _fetched(package, Path(name)) for package in PACKAGES}
        _untar(
            archives["kotlin-compiler"], folder / "kotlin-compiler", lambda path: not path.endswith(".klib")
        )
        wanted = (
            "Plugins/Android/onnxruntime.aar",
            "Plugins/Linux/x64/libonnxruntime.so",
            "LICENSE",
            "ThirdPartyNotices.txt",
        )
        _untar(archives["com.github.asus4.onnxruntime"], folder / "ort", wanted.__contains__, flat=True)
        _unzip(
            folder / "ort" / "onnxruntime.aar", folder / "aar", lambda path: not path.startswith("headers/")
        )
        (folder / "ort" / "onnxruntime.aar").unlink()
        _from_mobsf(archives["mobsf"], folder / "android")
        _unzip(archives["chaquopy-stubs-android"], folder / "stubs36", lambda path: path.endswith(".pyi"))
        merged = "lib/android/android-platform-21-37-merged.d.ts"
        _untar(archives["@nativescript/types-android"], folder / "since", merged.__eq__, flat=True)
        for package in ("junit4", "libhamcrest-java"):
            _undebian(archives[package], folder / "junit")


def _from_mobsf(wheel: Path, folder: Path) -> None:
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name, end in _FROM_MOBSF.items():
            inner = next(entry for entry in archive.namelist() if entry.endswith(end))
            (folder / name).write_bytes(archive.read(inner))
    with zipfile.ZipFile(folder / "apktool.jar") as archive:
        (folder / "framework.apk").write_bytes(archive.read("prebuilt/android-framework.jar"))
        (folder / "aapt2").write_bytes(archive.read("prebuilt/linux/aapt2"))
    (folder / "aapt2").chmod(0o755)
    (folder / "apktool.jar").unlink()


def _fetched(package: Package, folder: Path) -> Path:
    """Let the registry's own client fetch a package, and return the archive if it is the pinned one."""
    command = _CLIENTS[package.registry](package)
    what = f"{package.name} {package.version} ({package.use})"
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_FETCH_LIMIT_S, check=False
        )
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"it ended with {done.returncode}"]
        reason = lines[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    archive = folder / package.file
    if not archive.is_file():
        raise ToolsUnavailableError(f"{what} cannot be fetched: `{' '.join(command)}` failed: {reason}")
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        raise ToolsUnavailableError(
            f"{what} has sha256 {digest}, pinned is {package.sha256}: it was not kept. Check which registry your "
            "settings name."
        )
    return archive


def _pip(package: Package) -> list[str]:
    module = [sys.executable, "-m", "pip"]
    if subprocess.run([*module, "--version"], capture_output=True, check=False).returncode != 0:
        module = ["pip"]  # an environment that uv made has none of its own
    pinned = f"{package.name}=={package.version}"
    return [
        *module, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.12", "--dest=.", pinned
    ]  # fmt: skip


def _npm(package: Package) -> list[str]:
    return ["npm", "pack", "--ignore-scripts", "--loglevel=error", f"{package.name}@{package.version}"]


def _apt(package: Package) -> list[str]:
    return ["apt-get", "download", "--quiet", f"{package.name}={package.version}"]


_CLIENTS: dict[str, Callable[[Package], list[str]]] = {"pypi": _pip, "npm": _npm, "debian": _apt}


def _untar(archive: Path, folder: Path, wanted: Callable[[str], bool], *, flat: bool = False) -> None:
    """Unpack an npm package; all its files lie under ``package/``."""
    with tarfile.open(archive) as packed:
        for member in packed:
            name = member.name.removeprefix("package/")
            if member.isfile() and wanted(name):
                member.name = Path(name).name if flat else name
                packed.extract(member, folder, filter="data")


def _unzip(archive: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            if wanted(name):
                packed.extract(name, folder)


def _undebian(archive: Path, folder: Path) -> None:
    """Take the jars of a Debian package; ``dpkg-deb`` is there wherever ``apt-get`` is."""
    folder.mkdir(exist_ok=True)
    unpack = functools.partial(subprocess.run, check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as name:
        unpack(["dpkg-deb", "--extract", str(archive), name])
        for jar in Path(name, "usr/share/java").glob("*.jar"):
            if not jar.is_symlink():
                shutil.copyfile(jar, folder / jar.name)
