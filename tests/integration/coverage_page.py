"""The page of what was covered, made from the outcomes of the sweep."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata

from zoo import IMAGE_SIZE, ROWS, STEPS, Outcome

__all__ = ["coverage_page"]

_PACKAGES = ("torch", "onnxruntime", "ai-edge-litert", "ai-edge-quantizer", "coremltools", "timm")
_ISOLATED = "onnxruntime-training-cpu 1.19.2, tflite-runtime 2.14.0"

_PAGE = """# What is covered

Each model was made with two heads (a classification and a regression): the small nets with random weights, the deep
ones trained for 200 steps on stripes of five angles. It was exported for every target with everything trainable and
{rows} examples (images of {size}x{size}), and verified against PyTorch in the target's runtime: inference, and {steps}
training steps with losses, parameters and momentum buffers after each. It is a list of what was tried, not of what
works: any model whose operators have a lowering can be exported, and is verified before it is believed.

Made on {date} with {versions}, {isolated} and Python {python} by

```bash norun="takes an hour or two"
uv run pytest tests/integration/test_coverage.py -m "" -n 0 --coverage-table docs/coverage.md
```

A number is the largest difference of all tensors (and steps), over the largest value of its tensor, where the relative
tolerance of the target bounds it. **out** is out of tolerance and **refused** has no artifact: the reasons stand below.
What is rounded (float16, int8, palettes) is out where a net that has hardly been trained amplifies rounding; whether a
model of yours bears it is told by `nagedge verify` with its held-out data.
Core ML is evaluated from the ML Program, not by Apple's runtime.

## Training steps

In brackets: the steps of {steps} at which the trajectories parted [at a kink](guides/verify.md#kinks).

{training}

## Inference

{inference}

## Models

{models}

*Export*: wall time for all targets together, on one thread of the machine that made this page, which was not idle.

## Reasons

{reasons}
"""


def coverage_page(outcomes: Sequence[Outcome]) -> str:
    """Return the page in Markdown."""
    targets = sorted({t for o in outcomes for t, _ in o.halves} | {t for o in outcomes for t in o.refused})
    trained = [t for t in targets if t.endswith("-train")]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    return _PAGE.format(
        size=IMAGE_SIZE,
        steps=STEPS,
        rows=ROWS,
        date=datetime.now(UTC).date(),
        versions=versions,
        isolated=_ISOLATED,
        python=platform.python_version(),
        training=_matrix(outcomes, trained, "training"),
        inference=_matrix(outcomes, targets, "inference"),
        models=_table(
            ["model", "trained values", "free batch", "export, s"],
            [
                [o.model, f"{o.parameters:,}", "yes" if o.free_batch else "no", f"{o.export_s:.0f}"]
                for o in outcomes
            ],
        ),
        reasons=_reasons(outcomes),
    )


def _matrix(outcomes: Sequence[Outcome], targets: Sequence[str], half: str) -> str:
    rows = [[o.model, *(_cell(o, target, half) for target in targets)] for o in outcomes]
    return _table(["model", *(_heading(target) for target in targets)], rows)


def _heading(target: str) -> str:
    system, _, backend, precision = target.removesuffix("-train").split("-")
    return f"{system}<br>{backend}<br>{precision}"


def _cell(outcome: Outcome, target: str, half: str) -> str:
    if target in outcome.refused:
        return "**refused**"
    found = outcome.halves.get((target, half))
    if found is None:
        return ""
    if found.verdict != "within tolerance":
        return "**out**" if found.verdict == "out of tolerance" else "skipped"
    parted = outcome.realigned.get(target, 0) if half == "training" else 0
    shown = "≤ atol" if found.worst_rel is None else f"{found.worst_rel:.0e}"
    return shown + (f" ({parted})" if parted else "")


def _reasons(outcomes: Sequence[Outcome]) -> str:
    lines = [f"- {o.model}, {target}: {reason}" for o in outcomes for target, reason in o.refused.items()]
    lines += [
        f"- {o.model}, {target}, {half}: {found.verdict}, {found.detail}"
        for o in outcomes
        for (target, half), found in o.halves.items()
        if found.verdict != "within tolerance"
    ]
    return "\n".join(lines) or "Nothing was refused, skipped or out of tolerance."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
