"""Models of many families are exported for every target and agree with PyTorch in every runtime.

``uv run pytest tests/integration/test_coverage.py -m "" -n 0 --coverage-table docs/coverage.md`` writes the page
of what was covered; CI runs a few models for all targets and a few more for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from coverage_page import coverage_page
from zoo import SMALL, STEPS, TIMM, Outcome, try_out

from nagedge.targets import available_targets, load_target

STOCK = "any-any-onnxruntime-fp32-train"
FAST = ("mnasnet_small", "resnet10t")
EVERY_TARGET = ("MLP", "DS-CNN, audio features", "GRU text classifier", "transformer encoder")


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[list[Outcome]]:
    """What the tests of this module add to; written as a page at the end when that was asked for."""
    found: list[Outcome] = []
    yield found
    page = request.config.getoption("--coverage-table")
    if page:
        Path(page).write_text(coverage_page(found), encoding="utf-8")


def check(outcome: Outcome, targets: Sequence[str], *, rounded: bool = True) -> None:
    """Check the outcome; without ``rounded`` only that of float32, as what int8 costs a deep net is for the page."""
    assert outcome.refused == {}
    assert outcome.free_batch
    wanted = {(t, half) for t in targets for half in ("inference", "training")}
    wanted -= {(t, "training") for t in targets if not load_target(t).train}
    assert set(outcome.halves) == wanted
    disagreeing = {
        (target, part): half
        for (target, part), half in outcome.halves.items()
        if half.verdict != "within tolerance" and (rounded or load_target(target).precision == "fp32")
    }
    assert disagreeing == {}
    for target, count in outcome.realigned.items():
        assert count <= STEPS // 2, f"{target}: kinks are the exception"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in EVERY_TARGET else pytest.mark.slow(reason="minutes a model"))
        for name in (*SMALL, *TIMM)
    ],
)
def test_a_model_agrees_on_every_target(name: str, tmp_path: Path, outcomes: list[Outcome]) -> None:
    targets = available_targets()
    outcome = try_out(name, targets, tmp_path)
    outcomes.append(outcome)
    check(outcome, targets, rounded=name in SMALL)


@pytest.mark.parametrize("name", [*(name for name in SMALL if name not in EVERY_TARGET), *FAST])
def test_a_model_agrees_on_the_stock_runtime(name: str, tmp_path: Path) -> None:
    check(try_out(name, [STOCK], tmp_path), [STOCK])
