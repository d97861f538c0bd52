"""The Android app, built once for all tests that need it: its tools, `core`, its APK, and bundles to compare with."""

from __future__ import annotations

import fcntl
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

DEMO = Path(__file__).resolve().parents[2] / "android_demo"
sys.path.insert(0, str(DEMO / "ci"))

import apk  # noqa: E402 - the folder of the build scripts is no package
import build  # noqa: E402
import tools as android_tools  # noqa: E402
import walkthrough  # noqa: E402

if TYPE_CHECKING:
    import nagedge

__all__ = ["DEMO", "Built", "built", "fetched"]


@dataclass(frozen=True)
class Built:
    """What the tests share: it takes a minute, so that two processes build it once."""

    tools: android_tools.Tools
    folder: Path

    @property
    def golden(self) -> Path:
        return self.folder / "golden"

    @property
    def core(self) -> Path:
        return self.folder / "core.jar"

    @property
    def apk(self) -> Path:
        return self.folder / "app.apk"

    @property
    def exported(self) -> nagedge.Bundle:
        import nagedge

        return nagedge.load(self.golden / "folded" / "bundle")


@pytest.fixture(scope="session")
def fetched() -> android_tools.Tools:
    try:
        return android_tools.fetch_tools()
    except android_tools.ToolsUnavailableError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{error}")


@pytest.fixture(scope="session")
def built(fetched: android_tools.Tools, tmp_path_factory: pytest.TempPathFactory) -> Built:
    from android_golden import write_golden

    from nagedge.android_assets import write_android_assets

    shared = tmp_path_factory.getbasetemp()
    shared = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "android"
    shared.mkdir(exist_ok=True)
    made = Built(fetched, shared)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "complete").exists():
            write_golden(made.golden)
            build.compile_core(fetched, shared)
            assets = shared / "assets"
            write_android_assets(made.exported, assets)
            app = apk.compile_app(fetched, made.core, shared, assets)
            apk.assemble(fetched, made.core, app, shared)
            walkthrough.compile_standins(fetched, made.core, shared)
            (shared / "complete").touch()
    return made
