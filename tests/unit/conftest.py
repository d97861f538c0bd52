"""Makes the small models that several unit tests share importable: ``from models_for_tests import ...``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
