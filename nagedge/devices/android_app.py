"""The Android app's benchmark on an attached device: hands it a bundle, starts it, asks it until it is done.

Nothing of this needs a permission, a debuggable build or storage that both may use:

- The bundle is pushed to ``/data/local/tmp``, which is adb's shell's and which every app may read: AOSP's sepolicy has
  ``allow untrusted_app shell_data_file:file r_file_perms`` (``untrusted_app.te`` in Android 7, ``untrusted_app_all.te``
  since 8), and TensorFlow Lite's benchmark app takes its models from there. ``Android/data`` of the shared storage
  would not do: on Android 11 shell and app do not see each other's files there (androidx.benchmark's ``Outputs``).
- The result comes back through ``dumpsys activity COMPONENT``, which calls ``Activity.dump`` in the app.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nagedge.bundle import MANIFEST_FILE, MOMENTUM_FILE, PARAMS_FILE
from nagedge.devices.adb import push, shell
from nagedge.errors import BundleError, RuntimeUnavailableError

if TYPE_CHECKING:
    from nagedge.bundle import Bundle
    from nagedge.manifest import Manifest

__all__ = [
    "ACTIVITY",
    "PACKAGE",
    "Measured",
    "app_files",
    "app_target",
    "hand_over",
    "is_installed",
    "measure",
]

PACKAGE = "dev.nagedge.demo"
ACTIVITY = f"{PACKAGE}/.BenchmarkActivity"

_FOLDER = "/data/local/tmp/nagedge/bundles"
_POLL_S = 1.0
_SILENT_S = 30.0
"""How long the app may take to show its screen."""


@dataclass(frozen=True)
class Measured:
    """What the app's benchmark found.

    Args:
        profile: the text of a profile. unpinned: why it did not stay on the cores it was told; empty when it did.
        hidden: whether another screen covered it, so that its process may have been slowed down.
    """

    profile: str
    unpinned: str
    hidden: bool


def app_target(manifest: Manifest) -> str | None:
    """Return the target that the app takes: the first in float32 that trains on ONNX Runtime."""
    for name, entry in manifest.targets.items():
        if (
            entry.backend == "onnxruntime"
            and entry.precision == "fp32"
            and {"infer", "train_step"} <= entry.artifacts.keys()
        ):
            return name
    return None


def app_files(manifest: Manifest, target: str) -> tuple[str, ...]:
    """Return the files of a bundle that the app reads."""
    artifacts = manifest.targets[target].artifacts
    return (MANIFEST_FILE, PARAMS_FILE, MOMENTUM_FILE, artifacts["infer"], artifacts["train_step"])


def is_installed(serial: str) -> bool:
    """Whether the app is on a device; raises :class:`RuntimeUnavailableError` when the device is gone."""
    return shell(serial, f"pm path {PACKAGE} 2>/dev/null; true").startswith("package:")


def hand_over(serial: str, bundle: Bundle, target: str) -> str:
    """Push what the app reads of a bundle, unless it is there, and return the folder on the device.

    Raises:
        RuntimeUnavailableError: the device is gone, or full.
    """
    digest = bundle.manifest.content_hash()
    folder = f"{_FOLDER}/{digest[:16]}"
    names = app_files(bundle.manifest, target)
    if shell(serial, f"cat {folder}/complete 2>/dev/null; true").strip() == digest:
        return folder
    folders = sorted({f"{folder}/{name}".rpartition("/")[0] for name in names} | {folder})
    shell(serial, f"rm -rf {folder} && mkdir -p {shlex.join(folders)}")
    for name in names:
        push(serial, bundle.path / name, f"{folder}/{name}")
    # The app is another user: every folder on the way must let it through, whatever the umask was.
    ways = ["/data/local/tmp/nagedge", _FOLDER, *_between(folder, folders)]
    files = [f"{folder}/{name}" for name in names]
    shell(serial, f"chmod 755 {shlex.join(ways)} && chmod 644 {shlex.join(files)}")
    shell(serial, f"echo {digest} > {folder}/complete")
    return folder


def _between(folder: str, folders: list[str]) -> list[str]:
    """Return ``folder`` and every folder between it and each of ``folders``."""
    found = {folder}
    for one in folders:
        while one != folder:
            found.add(one)
            one = one.rpartition("/")[0]  # noqa: PLW2901 - upwards, until it is the bundle's
    return sorted(found)


def measure(
    serial: str,
    extras: Mapping[str, str | int],
    *,
    timeout_s: float,
    watch: Callable[[], None] = lambda: None,
    poll_s: float = _POLL_S,
) -> Measured:
    """Start the app's benchmark and wait until it is done.

    Args:
        serial: of the device.
        extras: of the intent, see ``BenchmarkActivity``; ``token`` must be another one each time.
        timeout_s: to wait at most. watch: called at every look.
        poll_s: between two looks, which disturb what is measured.

    Raises:
        RuntimeUnavailableError: the device is gone; the app cannot be started, was ended, or takes too long.
        BundleError: the app refuses the bundle.
    """
    words = ["am", "start", "-S", "-W", "-n", ACTIVITY]
    for name, value in extras.items():
        words += ["--ei" if isinstance(value, int) else "--es", name, str(value)]
    said = shell(serial, shlex.join(words))
    wrong = re.search(r"^.*(?:Error|Exception|Permission Denial).*$", said, re.MULTILINE)
    if wrong:
        raise RuntimeUnavailableError(
            f"device {serial!r}: the app's benchmark cannot be started: {wrong[0].strip()} Install the app of this "
            "version again, see android_demo/README.md."
        )
    started = time.monotonic()
    seen = False
    while True:
        facts = _facts(serial)
        mine = facts.get("token") == str(extras.get("token", ""))
        watch()
        waited_s = time.monotonic() - started
        if mine and facts.get("state") == "done":
            return Measured(facts["profile"], facts.get("unpinned", ""), facts.get("hidden") == "true")
        if mine and facts.get("state") == "failed":
            raise BundleError(f"the app on device {serial!r} cannot measure it: {facts.get('error', '')}")
        if not mine and (seen or waited_s > _SILENT_S):
            raise RuntimeUnavailableError(
                f"device {serial!r}: the app's benchmark "
                + (
                    "was closed or killed before it was done. Leave the phone alone, unlocked, with its screen on."
                    if seen
                    else "does not answer `dumpsys activity`: the app is an older one. Install that of this version."
                )
            )
        if waited_s > timeout_s:
            raise RuntimeUnavailableError(
                f"device {serial!r}: the app's benchmark was not done after {timeout_s:.0f} s; it said "
                f"{facts.get('state', 'nothing')!r}. See `adb logcat -s NagEdge`."
            )
        seen = seen or mine
        time.sleep(poll_s)


def _facts(serial: str) -> dict[str, str]:
    """Return what the benchmark's screen says of itself; nothing when there is none."""
    text = shell(serial, f"dumpsys activity {ACTIVITY}; true")
    return dict(re.findall(r"^\s*nagedge\.(\w+)=(.*?)\r?$", text, re.MULTILINE))
