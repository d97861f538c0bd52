"""What a finished APK must be: signed, aligned, without a permission, and calling only what Android has."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from api import declared_classes, parse_reference, problems, stub_classes, wrong_constants
from apk import app_settings
from build import DEMO, run
from tools import Tools

__all__ = ["NEWER", "ApiReport", "alignment_problems", "api_report", "badging", "permissions", "signatures"]

PAGE_BYTES = 16 * 1024
"""Of a phone with Android 15 or newer; what is mapped from the APK has to lie on such a boundary."""

NEWER: Mapping[str, str] = {
    "android.os.Build.SOC_MODEL: Ljava/lang/String;": "BenchmarkActivity asks for the API level first",
}
"""What is newer than the oldest system the app runs on, and why that is right."""

_OF_ONNX_RUNTIME = "java.nio.file."
"""Its own Java code names these, since API level 26, for training sessions, which the app does not open."""


@dataclass(frozen=True)
class ApiReport:
    """References to Android's and Java's own classes in the dex file: how many there are, and which are wrong."""

    methods: int
    fields: int
    problems: tuple[str, ...]


def signatures(tools: Tools, apk: Path) -> dict[str, bool]:
    """Return by scheme, such as ``"v2"``, whether the APK verifies with it.

    Raises:
        BuildError: it does not verify at all.
    """
    text = run([
        "java", "-jar", tools.android("apksigner.jar"), "verify", "--verbose", "--min-sdk-version",
        str(app_settings().minimum_sdk), apk,
    ])  # fmt: skip
    return {
        scheme: value == "true"
        for scheme, value in re.findall(r"using (v[\d.]+) scheme.*: (true|false)", text)
    }


def badging(tools: Tools, apk: Path) -> str:
    """Return what the system reads of an APK before it installs it."""
    return run([tools.android("aapt2"), "dump", "badging", apk])


def permissions(tools: Tools, apk: Path) -> list[str]:
    """Return the permissions that the app asks for."""
    text = run([tools.android("aapt2"), "dump", "permissions", apk])
    return re.findall(r"uses-permission[\w-]*: name='([^']+)'", text)


def alignment_problems(apk: Path) -> list[str]:
    """Say which libraries are compressed, or cannot be mapped on pages of 16 KB: their place, or their segments."""
    wrong = []
    with zipfile.ZipFile(apk) as archive, apk.open("rb") as file:
        libraries = [info for info in archive.infolist() if info.filename.startswith("lib/")]
        for info in libraries:
            if info.compress_type != zipfile.ZIP_STORED:
                wrong.append(f"{info.filename} is compressed")
            file.seek(info.header_offset + 26)
            name, extra = struct.unpack("<HH", file.read(4))
            start = info.header_offset + 30 + name + extra
            if start % PAGE_BYTES:
                wrong.append(f"{info.filename} begins at {start}, which is no multiple of {PAGE_BYTES}")
            wrong += [
                f"{info.filename} has a segment aligned to {alignment}"
                for alignment in _segment_alignments(archive.read(info))
                if alignment % PAGE_BYTES
            ]
    return wrong if libraries else ["there is no library"]


def _segment_alignments(library: bytes) -> list[int]:
    """Of the loadable segments of a 64-bit ELF library."""
    (offset,) = struct.unpack_from("<Q", library, 0x20)
    size, count = struct.unpack_from("<HH", library, 0x36)
    headers = [struct.unpack_from("<IIQQQQQQ", library, offset + index * size) for index in range(count)]
    return [header[7] for header in headers if header[0] == 1]


def api_report(tools: Tools, apk: Path) -> ApiReport:
    """Look up every reference to a class of Android or Java, on the oldest system and on API level 36."""
    lists = {
        kind: [
            line
            for line in run(["java", "-jar", tools.android("baksmali.jar"), "list", kind, apk]).splitlines()
            if re.match(r"\[*L(?:android|java|javax|dalvik)/", line)
        ]
        for kind in ("methods", "fields")
    }
    declared, stubs = declared_classes(tools.api_levels), stub_classes(tools.stubs_api36)
    wrong = wrong_constants(DEMO / "ci" / "stubs", declared)
    for reference in map(parse_reference, lists["methods"] + lists["fields"]):
        if reference.owner.startswith(_OF_ONNX_RUNTIME) or str(reference) in NEWER:
            continue
        if problem := problems(reference, declared, stubs, app_settings().minimum_sdk):
            wrong.append(problem)
    return ApiReport(len(lists["methods"]), len(lists["fields"]), tuple(wrong))
