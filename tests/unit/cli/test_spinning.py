from __future__ import annotations

import subprocess
import sys

import pytest

from nagedge.cli.app import spin_briefly


def test_threads_spin_briefly_unless_the_user_said_how() -> None:
    environment = {"PATH": "/bin"}
    spin_briefly(environment)
    assert environment == {"PATH": "/bin", "GOMP_SPINCOUNT": "10000"}


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_the_users_own_choice_stays(name: str) -> None:
    environment = {name: "ACTIVE"}
    spin_briefly(environment)
    assert environment == {name: "ACTIVE"}


def test_it_is_set_before_torch_is_imported() -> None:
    code = """
import os, sys
os.environ.pop("OMP_WAIT_POLICY", None); os.environ.pop("GOMP_SPINCOUNT", None)
from nagedge.cli.app import app
assert "torch" not in sys.modules
app(["targets", "ls"], standalone_mode=False)
assert os.environ["GOMP_SPINCOUNT"] == "10000"
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)
