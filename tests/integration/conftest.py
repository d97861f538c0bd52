"""Makes what the integration tests share importable, ``from zoo import ...``, and the built Android app a fixture."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from adb_device import adb_server  # noqa: F401 - after the path is right; fixtures
from android_built import built, fetched  # noqa: F401 - after the path is right; fixtures
