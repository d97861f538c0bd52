"""Assemble and sign the app without Gradle: aapt2, kotlinc, R8, apksigner."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from build import DEMO, classpath, run, strict_kotlinc
from tools import Tools

__all__ = ["AppSettings", "app_settings", "assemble", "compile_app"]

_ABIS = ("arm64-v8a", "x86_64")
"""The processors that the APK has ONNX Runtime for; app/build.gradle.kts has the same."""

_PASSWORD = "android"  # noqa: S105 - of a key that is made for one build, as that of every debug build


@dataclass(frozen=True)
class AppSettings:
    """What app/build.gradle.kts says."""

    namespace: str
    minimum_sdk: int
    target_sdk: int
    version_code: int
    version_name: str


def app_settings() -> AppSettings:
    """Read them from the Gradle file, so that they stand in one place."""
    text = (DEMO / "app" / "build.gradle.kts").read_text(encoding="utf-8")

    def value(name: str) -> str:
        match = re.search(rf'^\s*{name} = "?([^"\n]+)"?$', text, re.MULTILINE)
        assert match is not None, name
        return match[1]

    return AppSettings(
        value("namespace"),
        int(value("minSdk")),
        int(value("targetSdk")),
        int(value("versionCode")),
        value("versionName"),
    )


def compile_app(tools: Tools, core: Path, out: Path, assets: Path | None) -> Path:
    """Compile resources and code of `app`, warnings being errors, and return the jar; out/base.apk has the resources.

    Android's own classes are those of ci/stubs: declarations of what the app uses, nothing else. That each exists on
    Android is checked afterwards, in the finished APK.

    Args:
        assets: a folder that holds ``bundle/``, as ``nagedge export --android-assets`` fills it; None for none.
    """
    source = DEMO / "app" / "src" / "main"
    _link_resources(tools, source, out, assets)
    stubs, classes = out / "stubs", out / "app-classes"
    for folder in (stubs, classes):
        folder.mkdir(parents=True, exist_ok=True)
    javac = ["javac", "--release", "8", "-Xlint:-options", "-Werror"]
    run([*javac, "-d", stubs, *sorted((DEMO / "ci" / "stubs").rglob("*.java"))])
    _zip(out / "android-stubs.jar", stubs)
    run([*javac, "-d", classes, *sorted((out / "generated").rglob("R.java"))])
    against = classpath(tools.kotlin_library, core, out / "android-stubs.jar", classes)
    run([*strict_kotlinc(tools), "-cp", against, "-d", classes, source / "kotlin"])
    return _zip(out / "app.jar", classes)


def _link_resources(tools: Tools, source: Path, out: Path, assets: Path | None) -> None:
    settings = app_settings()
    # Gradle's plugin adds these two: the package, from the build file, and that libraries stay in the APK.
    manifest = (source / "AndroidManifest.xml").read_text(encoding="utf-8")
    named = manifest.replace("<manifest ", f'<manifest package="{settings.namespace}" ', 1)
    named = named.replace("<application\n", '<application android:extractNativeLibs="false"\n', 1)
    (out / "AndroidManifest.xml").write_text(named, encoding="utf-8")
    aapt2 = tools.android("aapt2")
    run([aapt2, "compile", "--dir", source / "res", "-o", out / "resources.zip"])
    options: list[str | Path] = ["-A", assets] if assets is not None else []
    run([
        aapt2, "link", "-I", tools.android("framework.apk"), "--manifest", out / "AndroidManifest.xml",
        "--java", out / "generated", "-o", out / "base.apk", "--min-sdk-version", str(settings.minimum_sdk),
        "--target-sdk-version", str(settings.target_sdk), "--version-code", str(settings.version_code),
        "--version-name", settings.version_name, *options, out / "resources.zip",
    ])  # fmt: skip


def assemble(tools: Tools, core: Path, app: Path, out: Path) -> Path:
    """Turn the jars into a dex file (R8, as in a release build), put everything together, sign it; return the APK."""
    dex = out / "dex"
    dex.mkdir(exist_ok=True)
    rules = DEMO / "app" / "proguard-rules.pro"
    own_rules = out / "rules.pro"
    # Gradle's plugin keeps what manifest and layouts name; here aapt2 writes those rules.
    settings = app_settings()
    kept = "".join(
        f"-keep class {settings.namespace}.{name} {{ <init>(...); }}\n" for name in _named_classes()
    )
    own_rules.write_text(rules.read_text(encoding="utf-8") + kept, encoding="utf-8")
    libraries = [
        word
        for jar in (_java8(out), out / "android-stubs.jar", tools.kotlin / "lib" / "annotations-13.0.jar")
        for word in ("--lib", jar)
    ]
    run([
        "java", "-Xmx1g", "-cp", tools.android("bundletool.jar"), "com.android.tools.r8.R8", "--release",
        "--min-api", str(settings.minimum_sdk), *libraries, "--pg-conf", own_rules, "--output", dex,
        app, core, tools.ort_java, tools.kotlin_library,
    ])  # fmt: skip
    unsigned = out / "unsigned.apk"
    shutil.copyfile(out / "base.apk", unsigned)
    with zipfile.ZipFile(unsigned, "a") as archive:
        archive.write(dex / "classes.dex", "classes.dex", zipfile.ZIP_DEFLATED)
        for abi in _ABIS:
            for library in sorted((tools.ort_natives / abi).glob("*.so")):
                # Stored, so that the system maps it from the APK; apksigner aligns it.
                archive.write(library, f"lib/{abi}/{library.name}", zipfile.ZIP_STORED)
        for text in tools.ort_licenses:
            archive.write(text, f"assets/licenses/onnxruntime-{text.name}", zipfile.ZIP_DEFLATED)
    return _sign(tools, unsigned, out / "app.apk", settings)


def _sign(tools: Tools, unsigned: Path, signed: Path, settings: AppSettings) -> Path:
    """Sign with a key that is made for this build; who publishes an app has another."""
    keys = signed.parent / "keys.p12"
    if not keys.exists():
        run([
            "keytool", "-genkeypair", "-keystore", keys, "-storepass", _PASSWORD, "-alias", "demo", "-keyalg", "RSA",
            "-validity", "10000", "-dname", "CN=NagEdge demo",
        ])  # fmt: skip
    run([
        "java", "-jar", tools.android("apksigner.jar"), "sign", "--ks", keys, "--ks-pass", f"pass:{_PASSWORD}",
        "--min-sdk-version", str(settings.minimum_sdk), "--lib-page-alignment", "16384", "--out", signed, unsigned,
    ])  # fmt: skip
    return signed


def _named_classes() -> Iterable[str]:
    """The classes that manifest and layouts name, by their names in the app's package."""
    source = DEMO / "app" / "src" / "main"
    names = re.findall(
        r'android:name="\.(\w+)"', (source / "AndroidManifest.xml").read_text(encoding="utf-8")
    )
    for layout in sorted((source / "res" / "layout").glob("*.xml")):
        names += re.findall(r"<dev\.nagedge\.demo\.(\w+)", layout.read_text(encoding="utf-8"))
    return sorted(set(names))


def _java8(out: Path) -> Path:
    """The signatures of Java 8's own classes, as the JDK has them for ``--release 8``: R8 wants to know them."""
    java = shutil.which("javac")
    assert java is not None
    signatures = Path(java).resolve().parents[1] / "lib" / "ct.sym"
    jar = out / "java8.jar"
    with zipfile.ZipFile(signatures) as source, zipfile.ZipFile(jar, "w") as target:
        written = set()
        for name in source.namelist():
            # Older JDKs: "879A/java/lang/String.sig", a folder for the releases that share it; newer: with a module.
            releases, _, rest = name.partition("/")
            first, _, inner = rest.partition("/")
            path = (inner if "." in first else rest).removesuffix(".sig") + ".class"
            if "8" in releases and name.endswith(".sig") and path not in written:
                written.add(path)
                target.writestr(path, source.read(name))
    return jar


def _zip(jar: Path, folder: Path) -> Path:
    with zipfile.ZipFile(jar, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return jar
