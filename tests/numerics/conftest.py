"""Settings of the numerics suite: its harness is importable; hypothesis runs the same bounded examples every time."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

logging.getLogger("torch.__trace").setLevel(logging.WARNING)  # pytest would keep every line of it

settings.register_profile(
    "numerics",
    derandomize=True,
    deadline=None,
    max_examples=12,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("numerics")
