"""A converter in a process of its own: what it is given and gives back, and how each of its deaths reads."""

from __future__ import annotations

import logging
import re
import tempfile
import time
from pathlib import Path

import pytest

from nagedge.backends.subprocess_conversion import run_conversion
from nagedge.errors import ConfigurationError, UnsupportedOperatorError

HERE = "converters_for_tests"
WHAT = "conversion for target 'phone'"


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_bytes_and_plain_values_arrive_and_bytes_come_back() -> None:
    payload = {"model": bytes(range(256)), "empty": b"", "name": "é", "sizes": [1, 2.5, None], "on": True}
    assert run_conversion(f"{HERE}:echo", payload, what=WHAT) == {
        "model": bytes(range(256)), "empty": b"", "name": "'é'".encode(), "sizes": b"[1, 2.5, None]", "on": b"True",
    }  # fmt: skip


def test_noise_files_and_settings_stay_in_the_process(
    capfd: pytest.CaptureFixture[str], own_temporary_folder: Path
) -> None:
    handlers = list(logging.getLogger().handlers)
    first, second = (run_conversion(f"{HERE}:surroundings", {}, what=WHAT) for _ in range(2))
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    assert list(own_temporary_folder.iterdir()) == []
    assert Path(first["temporary"].decode()).parent == Path(first["cwd"].decode())
    assert first["order"] == second["order"]
    assert first["heavy"] == b"False"


def test_the_modules_that_convert_onnx_import_no_torch() -> None:
    assert run_conversion(f"{HERE}:precision_modules", {}, what=WHAT)["torch"] == b"False"


def test_an_error_of_ours_comes_through_as_it_is() -> None:
    with pytest.raises(ConfigurationError, match=r"^the text\nof two lines$"):
        run_conversion(f"{HERE}:own_error", {}, what=WHAT)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        ("other_error", "ValueError: node 'Conv_3' is not known."),
        ("silent_error", "KeyError: no text."),
        ("segfault", "the converter was killed by SIGSEGV. It said: [E] bad node Conv_3."),
        ("killed", "the converter was killed by SIGKILL, as the system does when memory runs out."),
        ("missing", "AttributeError: module 'converters_for_tests' has no attribute 'missing'."),
    ],
)
def test_every_other_end_becomes_one_error_that_says_what_to_do(
    function: str, text: str, own_temporary_folder: Path
) -> None:
    with pytest.raises(
        UnsupportedOperatorError, match=rf"^{re.escape(WHAT)} failed: {re.escape(text)} Take another\.$"
    ):
        run_conversion(f"{HERE}:{function}", {}, what=WHAT, remedy="Take another.")
    assert list(own_temporary_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "without a result"), (3, "with exit code 3"), ("bye", r"exit code 1\. It said: bye\.")],
)
def test_a_converter_that_leaves_is_an_error_whatever_its_exit_code(code: object, text: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=text):
        run_conversion(f"{HERE}:leaves", {"code": code}, what=WHAT)


def test_a_result_that_is_no_bytes_is_an_error() -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"exit code 1\..*not JSON serializable"):
        run_conversion(f"{HERE}:no_bytes", {}, what=WHAT)


def test_a_converter_that_hangs_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(UnsupportedOperatorError, match=r"was not done after 1 s\. Choose another target"):
        run_conversion(f"{HERE}:hangs", {}, what=WHAT, timeout_s=1)
    assert time.monotonic() - started < 30
