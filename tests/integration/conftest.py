"""What the integration tests share: modules beside them (``from zoo import ...``), the emulator, the Android app."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nagedge.devices import arm64
from nagedge.devices.arm64 import Installation
from nagedge.errors import RuntimeUnavailableError

sys.path.insert(0, str(Path(__file__).parent))

from adb_device import adb_server  # noqa: F401 - after the path is right; fixtures
from android_built import built, fetched  # noqa: F401 - after the path is right; fixtures


@pytest.fixture(scope="session")
def emulator() -> Installation:
    """The arm64 emulator in the user's cache. Without one the test is skipped, or fails in continuous integration."""
    if sys.platform != "linux":
        pytest.skip("the emulator is made on Linux")
    try:
        return arm64.setup()
    except RuntimeUnavailableError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the emulator cannot be made here: {error}")


@pytest.fixture
def busy() -> Iterator[None]:
    """Loops that keep every core of this machine busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()
