"""Cases of the ONNX lowering, lowered to ML Programs: the saved files compute what torch computes."""

from __future__ import annotations

from pathlib import Path

import pytest
from lowering_harness import Lowering, onnx_cases
from mil_lowering_harness import check, packaged

from nagedge.backends.mil_lowering.lower import RULES
from nagedge.errors import UnsupportedOperatorError

KNOWN = [
    item
    for part in ("elementwise", "structure", "compute")
    for item in onnx_cases(part)
    if item.lowers in RULES
]
GRID = [item for item in KNOWN if "kernel (" in item.label]  # pooling in every combination: here every ninth
WITHOUT_ENTRIES = [item for item in KNOWN if item.label == "no element"]
CASES = [item for item in KNOWN if item not in GRID and item not in WITHOUT_ENTRIES] + GRID[::9]


@pytest.mark.parametrize("item", CASES, ids=str)
def test_the_program_computes_what_torch_computes(item: Lowering, tmp_path: Path) -> None:
    check(item, tmp_path)


@pytest.mark.parametrize("item", WITHOUT_ENTRIES, ids=str)
def test_a_tensor_without_entries_is_refused(item: Lowering) -> None:
    with pytest.raises(UnsupportedOperatorError, match="without entries"):
        packaged(item)
