"""What every test run needs: one thread a process, and the same examples every time."""

from __future__ import annotations

import os

# Before numpy, torch and onnxruntime are imported: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import pytest
from hypothesis import settings

# A failure seen once is seen by everybody: no random seed, no stored examples, no deadline on shared processors.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--coverage-table", metavar="FILE", help="write the page of tests/integration/test_coverage.py"
    )
