"""Models of many families are exported with everything trainable and agree with PyTorch over a training trajectory.

``uv run pytest tests/integration/test_timm_sweep.py -m "" -n 0 --coverage-table docs/coverage.md`` writes the page of
what was covered.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pytest
from zoo import IMAGE_SIZE, SMALL, STEPS, TIMM, Outcome, try_out

FAST = ("mnasnet_small", "resnet10t")

PAGE = """# What is covered

Each model was made with random weights and two heads (a classification and a regression), exported with everything
trainable and four examples (images of {size}x{size}), and verified against PyTorch over {steps} training steps, losses,
parameters and momentum buffers after each. It is a list of what was tried, not of what works: any model whose operators
have a lowering can be exported, and is verified before it is believed.

Made on {date} with {versions} by

```bash norun="takes half an hour"
uv run pytest tests/integration/test_timm_sweep.py -m "" -n 0 --coverage-table docs/coverage.md
```

| model | trained values | free batch | largest relative difference | realigned steps | export, s | verdict |
|---|---|---|---|---|---|---|
{rows}

*Largest relative difference*: of all tensors and steps, the difference over the largest value of its tensor, where the
relative tolerance (1e-3) bounds it. *Realigned steps*: where the trajectories parted
[at a kink](guides/verify.md#kinks). *Export*: wall time of one export on one thread of the machine that made this page,
which was not idle; for comparison among the rows only.
"""


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[list[Outcome]]:
    """What the tests of this module add to; written as a page at the end when that was asked for."""
    found: list[Outcome] = []
    yield found
    page = request.config.getoption("--coverage-table")
    if page:
        Path(page).write_text(_page(found), encoding="utf-8")


def _page(outcomes: list[Outcome]) -> str:
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "onnxruntime", "timm"))
    return PAGE.format(
        size=IMAGE_SIZE,
        steps=STEPS,
        date=datetime.now(UTC).date(),
        versions=f"{packages} and Python {platform.python_version()}",
        rows="\n".join(_row(outcome) for outcome in outcomes),
    )


def _row(outcome: Outcome) -> str:
    if not outcome.export_s:
        return f"| {outcome.model} | | | | | | refused: {outcome.refusal} |"
    free = "yes" if outcome.free_batch else "no"
    return (
        f"| {outcome.model} | {outcome.parameters:,} | {free} | {outcome.worst_rel:.1e} "
        f"| {outcome.realigned} of {STEPS} | {outcome.export_s:.0f} | {outcome.refusal or 'agrees'} |"
    )


@pytest.mark.parametrize(
    "name",
    [
        *SMALL,
        *FAST,
        *(
            pytest.param(name, marks=pytest.mark.slow(reason="a model of full size, half a minute each"))
            for name in TIMM
            if name not in FAST
        ),
    ],
)
def test_a_model_is_exported_and_agrees_with_pytorch(
    name: str, tmp_path: Path, outcomes: list[Outcome]
) -> None:
    outcome = try_out(name, tmp_path)
    outcomes.append(outcome)
    assert outcome.refusal == ""
    assert outcome.within_tolerance
    assert outcome.free_batch
    assert outcome.realigned <= STEPS // 2, "kinks are the exception"
