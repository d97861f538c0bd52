"""The Android app: `core` is tested on the JVM against what Python computes; the APK is assembled and looked into.

The tools are fetched once, see android_demo/ci/tools.py. Where they cannot be had the tests are skipped, but not on CI.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
import tomllib
import zipfile
from pathlib import Path

import pytest
from android_built import DEMO, Built  # before those of the build scripts' folder, which it makes importable
from android_golden import CASES, TARGET

import api  # isort: skip
import apk  # isort: skip
import build  # isort: skip
import tools as android_tools  # isort: skip
import verify  # isort: skip
import walkthrough  # isort: skip
from nagedge.manifest import Manifest
from nagedge.profiling.results import Profile


def test_core_passes_its_tests_on_the_jvm(built: Built) -> None:
    """50 steps to Python's losses, resuming, damage, cancelling, kills; the profile is read back by Python."""
    tests = build.compile_core_tests(built.tools, built.core, built.folder)
    output = build.run_core_tests(built.tools, built.core, tests, built.golden, built.folder)
    sources = (DEMO / "core/src/test/kotlin").rglob("*Test.kt")
    written = sum(path.read_text(encoding="utf-8").count("@Test\n") for path in sources)
    assert f"OK ({written} tests)" in output, output
    for case in CASES:
        found = re.search(
            rf"{case}: the largest difference of a loss from Python's over 50 steps is (\S+)", output
        )
        assert found is not None, output
        assert float(found[1]) <= 1e-6

    for case in ("folded", "fixed-batch"):
        profile = Profile.from_json((built.golden / f"profile-{case}.json").read_text())
        assert [workload.name for workload in profile.workloads] == ["infer", "train"]
        assert (profile.targets, profile.devices) == ((TARGET,), ("android",))
        for workload in profile.workloads:
            assert workload.evidence == workload.latency.evidence == "measured-device"
            assert workload.runtime == f"onnxruntime {android_tools.ORT_VERSION}"
            assert len(workload.latency.samples_ms) == 120
            assert workload.latency.quantile(0.5).value is not None
            assert workload.latency.steady_ms[-1] == workload.latency.samples_ms[-1]


def test_a_person_can_use_the_app_on_stand_ins_of_android(built: Built, tmp_path: Path) -> None:
    """Its own activities, views and job: draw, correct, learn, stop, export, reset, import, restart, benchmark."""
    output = walkthrough.walk_through(built.tools, built.core, built.folder, built.folder / "assets")
    seen = dict(line.split(": ", 1) for line in output.splitlines() if ": " in line)
    assert built.exported.manifest.content_hash()[:12] in seen["headline"]
    assert seen["fresh"] == "as exported: nothing learnt yet"
    factory = seen["a seven"]
    # The bundle is not trained: it knows nothing of digits, until it is told that a seven is a three.
    assert seen["examples"] == "10 examples to learn from, 2 kept aside"
    score = re.search(r"digit: (\d) of 9 right → (\d) of 9", seen["scores"])
    assert score is not None
    assert int(score[2]) > int(score[1])
    assert re.search(r"prediction p50 \d+\.\d\d ms, p90 \d+\.\d\d ms · training step p50 \d", seen["latency"])
    learnt = seen["a seven after learning"]
    assert learnt.startswith("3, ")
    assert seen["a seven after the reset"] == factory
    assert seen["a seven after the import"] != factory
    assert seen["reset asks"] == "Weights only / Weights and examples"
    assert re.match(r"\d+ steps learnt, 9 examples to learn from, 2 kept aside", seen["after a restart"])
    assert "holds no bundle" in seen["benchmark of nothing"]
    assert "nagedge export" in seen["without a bundle"]
    profile = Profile.from_json((built.folder / "phone/external/profile.json").read_text())
    assert profile.host.os_name == "Android 7.0 (API 24)"
    assert [len(workload.latency.samples_ms) for workload in profile.workloads] == [60, 60]


def test_the_apk_is_signed_and_says_what_it_is(built: Built) -> None:
    schemes = verify.signatures(built.tools, built.apk)
    assert schemes["v2"]
    assert schemes["v3"]
    text = verify.badging(built.tools, built.apk)
    assert "package: name='dev.nagedge.demo' versionCode='1'" in text
    assert "minSdkVersion:'24'" in text
    assert "targetSdkVersion:'36'" in text
    assert "launchable-activity: name='dev.nagedge.demo.MainActivity'" in text
    assert "native-code: 'arm64-v8a' 'x86_64'" in text


def test_a_changed_apk_does_not_verify(built: Built, tmp_path: Path) -> None:
    changed = tmp_path / "changed.apk"
    content = bytearray(built.apk.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    with pytest.raises(build.BuildError):
        verify.signatures(built.tools, changed)


def test_the_app_asks_for_no_permission_and_so_for_no_network(built: Built) -> None:
    assert verify.permissions(built.tools, built.apk) == []


def test_the_libraries_can_be_mapped_on_pages_of_16_kb(built: Built, tmp_path: Path) -> None:
    assert verify.alignment_problems(built.apk) == []
    moved = tmp_path / "moved.apk"
    with zipfile.ZipFile(moved, "w") as archive:
        archive.write(built.tools.ort_natives / "arm64-v8a" / "libonnxruntime4j_jni.so", "lib/arm64-v8a/x.so")
    assert any("no multiple of 16384" in problem for problem in verify.alignment_problems(moved))


def test_every_reference_exists_on_android_7_and_on_android_16(built: Built) -> None:
    report = verify.api_report(built.tools, built.apk)
    assert report.problems == ()
    assert report.methods > 300
    assert report.fields > 20


def test_the_check_of_references_finds_what_is_missing_or_too_new(built: Built) -> None:
    declared, stubs = api.declared_classes(built.tools.api_levels), api.stub_classes(built.tools.stubs_api36)

    def verdict(line: str) -> str:
        return api.problems(api.parse_reference(line), declared, stubs, 24) or ""

    assert verdict("Landroid/view/View;->getContext()Landroid/content/Context;") == ""
    assert verdict("Landroid/widget/Button;->setText(Ljava/lang/CharSequence;)V") == ""
    assert "not declared" in verdict("Landroid/view/View;->getContext(I)Landroid/content/Context;")
    assert "not declared" in verdict("Landroid/view/View;->fly()V")
    assert "not declared" in verdict("Landroid/no/Such;->thing()V")
    assert "since API level 31" in verdict("Landroid/os/Build;->SOC_MODEL:Ljava/lang/String;")
    assert "since API level 26" in verdict("Ljava/util/Base64;->getEncoder()Ljava/util/Base64$Encoder;")
    wrong = "Landroid/app/job/JobInfo$Builder;->setMinimumLatency(I)Landroid/app/job/JobInfo$Builder;"
    assert "not in API level 36" in verdict(wrong), "it takes a long"
    assert verdict(wrong.replace("(I)", "(J)")) == ""


def test_the_bundle_in_the_apk_is_the_export(built: Built, tmp_path: Path) -> None:
    with zipfile.ZipFile(built.apk) as archive:
        names = [name for name in archive.namelist() if name.startswith("assets/bundle/")]
        archive.extractall(tmp_path, names)
    folder = tmp_path / "assets/bundle"
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
    assert manifest.content_hash() == built.exported.manifest.content_hash()
    for name in (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()):
        if name != "manifest.json":
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == manifest.files[name].sha256
    assert len(names) == 5


def test_the_libraries_in_the_apk_are_the_published_ones(built: Built) -> None:
    with zipfile.ZipFile(built.apk) as archive:
        for abi in ("arm64-v8a", "x86_64"):
            for library in ("libonnxruntime.so", "libonnxruntime4j_jni.so"):
                assert (
                    archive.read(f"lib/{abi}/{library}")
                    == (built.tools.ort_natives / abi / library).read_bytes()
                )
        (machine,) = struct.unpack_from("<H", archive.read("lib/arm64-v8a/libonnxruntime.so"), 18)
        assert machine == 183, "AArch64"
        assert "assets/licenses/onnxruntime-LICENSE" in archive.namelist()


def test_gradle_has_the_versions_that_are_tested_here() -> None:
    catalog = tomllib.loads((DEMO / "gradle/libs.versions.toml").read_text(encoding="utf-8"))
    version = catalog["versions"]["onnxruntime"]
    assert version == android_tools.ORT_VERSION
    assert tuple(int(part) for part in version.split(".")) < (1, 29), (
        "from 1.29 on it sends telemetry by default"
    )
    wrapper = (DEMO / "gradle/wrapper/gradle-wrapper.properties").read_text(encoding="utf-8")
    digest = re.search(r"^distributionSha256Sum=([0-9a-f]{64})$", wrapper, re.MULTILINE)
    assert digest is not None
    root = (DEMO / "build.gradle.kts").read_text(encoding="utf-8")
    assert f'distributionSha256Sum = "{digest[1]}"' in root
    gradle = re.search(r'gradleVersion = "([\d.]+)"', root)
    assert gradle is not None
    assert f"/gradle-{gradle[1]}-bin.zip" in wrapper
    settings = apk.app_settings()
    assert (settings.minimum_sdk, settings.target_sdk) == (24, 36)


def test_the_build_scripts_of_gradle_are_kotlin_and_name_what_the_catalog_has(
    fetched: android_tools.Tools, tmp_path: Path
) -> None:
    """Gradle's own classes are not to be had here: the compiler knows no name of theirs, but it parses every line."""
    scripts = [path.read_text(encoding="utf-8") for path in sorted(DEMO.rglob("*.gradle.kts"))]
    assert len(scripts) == 4
    together = "\n".join(scripts)
    catalog = tomllib.loads((DEMO / "gradle/libs.versions.toml").read_text(encoding="utf-8"))
    declared = {name.replace("-", ".") for name in catalog["libraries"]}
    declared |= {f"plugins.{name.replace('-', '.')}" for name in catalog["plugins"]}
    used = set(re.findall(r"\blibs\.([\w.]+)", together)) - {"versions.onnxruntime.get"}
    assert used == declared
    for entry in (*catalog["libraries"].values(), *catalog["plugins"].values()):
        assert entry["version"]["ref"] in catalog["versions"]

    lines = together.splitlines()
    imports = [line for line in lines if line.startswith("import ")]
    body = "\n".join([*imports, *(line for line in lines if not line.startswith("import "))])
    (tmp_path / "scripts.kts").write_text(body, encoding="utf-8")
    (tmp_path / "broken.kts").write_text(
        body.replace("compileSdk = 36", "compileSdk = = 36"), encoding="utf-8"
    )
    with pytest.raises(build.BuildError) as caught:
        build.run([*fetched.kotlinc(), "-no-reflect", "-d", "out", "scripts.kts", "broken.kts"], cwd=tmp_path)
    found = re.findall(r"^(\w+)\.kts:\d+:\d+: error: (.*)", str(caught.value), re.MULTILINE)
    assert sum(name == "scripts" and text.startswith("unresolved reference") for name, text in found) > 50
    assert [text for name, text in found if name == "scripts" and "syntax" in text] == []
    assert [text for name, text in found if name == "broken" and "syntax" in text] != []


def test_no_tool_is_in_the_repository_and_core_knows_no_android() -> None:
    for path in DEMO.rglob("*"):
        if path.is_file() and not {".gradle", "build", "__pycache__", "assets"} & set(
            path.relative_to(DEMO).parts
        ):
            assert path.suffix not in {".jar", ".aar", ".so", ".apk", ".dex", ".tgz", ".whl", ".deb"}, path
    for path in (DEMO / "core").rglob("*.kt"):
        assert not re.search(
            r"^import (?:android|androidx)\.", path.read_text(encoding="utf-8"), re.MULTILINE
        ), path
    for path in DEMO.rglob("*.kt"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
        assert "androidx" not in path.read_text(encoding="utf-8"), path


def test_tools_that_cannot_be_had_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(android_tools.ToolsUnavailableError, match="java is not on the PATH"):
        android_tools.fetch_tools(tmp_path)
    monkeypatch.undo()
    if shutil.which("java") is None:
        pytest.skip("there is no JDK")
    wrong = android_tools.Package("npm", "left-pad", "1.3.0", "left-pad-1.3.0.tgz", "0" * 64, "nothing")
    (tmp_path / wrong.file).write_bytes(b"another")
    monkeypatch.setitem(android_tools._CLIENTS, "npm", lambda package: ["true"])
    with pytest.raises(android_tools.ToolsUnavailableError, match="it was not kept"):
        android_tools._fetched(wrong, tmp_path)
