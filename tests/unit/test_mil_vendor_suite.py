"""coremltools' own tests of its ops, run on the evaluator: numbers that others wrote down for Core ML."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.slow  # hundreds of conversions: many minutes
def test_coremltools_own_tests_pass(tmp_path: Path) -> None:
    package = find_spec("coremltools")
    assert package is not None
    assert package.submodule_search_locations is not None
    tests = Path(package.submodule_search_locations[0]) / "converters/mil/mil/ops/tests"
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        "PYMIL_TEST_TARGETS": "mlprogram",
        "INCLUDE_MIL_FP32_UNIT_TESTS": "1",
        "MIL_VENDOR_PARAMETERS": "2",
    }
    # what only builds programs and never predicts says nothing here
    chosen = "not builder_eval and not invalid and not test_utils and not type_inference"
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-c", os.devnull, f"--rootdir={tmp_path}", "-p", "mil_vendor_plugin",
            "-p", "no:cacheprovider", "-q", "-W", "ignore", "--tb=line", "-k", chosen, str(tests),
        ],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    summary = done.stdout.strip().splitlines()[-1]
    passed = re.search(r"(\d+) passed", summary)
    assert done.returncode == 0, done.stdout[-8000:]
    assert passed is not None
    assert int(passed[1]) > 500, summary
