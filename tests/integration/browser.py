"""A real browser for the tests of the page: Chromium, without a window, driven by Playwright."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# No sandbox: continuous integration runs as root, and the page is ours. The rest keeps the browser from calling home.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
STARTED_S = 60


def find_browser() -> str:
    """Return the path of a Chromium. Without one the test is skipped, or fails where continuous integration runs."""
    named = os.environ.get("NAGEDGE_TEST_BROWSER")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
    if found is not None:
        return found
    reason = (
        f"no browser: {named or ', '.join(NAMES)} not on the PATH. Install Chromium (Debian: apt-get install chromium) "
        "or name one with NAGEDGE_TEST_BROWSER"
    )
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def chromium() -> Iterator[tuple[Any, Any]]:
    """Yield Playwright and a browser of it."""
    from playwright.sync_api import sync_playwright

    path = find_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield playwright, browser
        finally:
            browser.close()


@contextmanager
def killable(playwright: Any, profile: Path) -> Iterator[tuple[Any, Any]]:
    """Yield a page of a browser that keeps its data in ``profile``, and a function that kills it like a power cut."""
    port_file = profile / "DevToolsActivePort"
    port_file.unlink(missing_ok=True)
    options = ("--headless", f"--user-data-dir={profile}", "--remote-debugging-port=0")
    process = subprocess.Popen(
        [find_browser(), *options, *FLAGS, "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip

    def kill() -> None:
        with_children = process.pid  # it leads its own process group
        try:
            os.killpg(with_children, signal.SIGKILL)
        except ProcessLookupError:
            return
        process.wait()

    try:
        deadline = time.monotonic() + STARTED_S
        while not (port_file.exists() and len(port_file.read_text().split()) == 2):
            assert process.poll() is None, "the browser ended"
            assert time.monotonic() < deadline, "the browser does not start"
            time.sleep(0.05)
        port = port_file.read_text().split()[0]
        browser = playwright.chromium.connect_over_cdp(f"http://127.0.0.1:{port}")
        yield browser.contexts[0].new_page(), kill
    finally:
        kill()


def draw(page: Any, strokes: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Draw with the mouse on the page's pad; points are shares of its width and height."""
    pad = page.locator(".pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    for stroke in strokes:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=5)
        page.mouse.up()
