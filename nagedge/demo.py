"""What ``nagedge demo`` puts together: the files of a demonstration and the sections of its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nagedge.errors import ConfigurationError
from nagedge.profiling.sections import (
    BeforeAfter,
    Card,
    Curve,
    Fact,
    FineTuningSection,
    TrainingSection,
    VerificationSection,
)
from nagedge.training_report import training_section

if TYPE_CHECKING:
    from nagedge.finetuning import FinetuneResult
    from nagedge.training.checkpoint import Checkpoint
    from nagedge.verification import Comparison

__all__ = [
    "EPOCHS",
    "LEARNING_RATE",
    "STEPS",
    "TARGET",
    "DemoFiles",
    "demo_files",
    "highlights",
    "report_sections",
]

TARGET = "any-any-onnxruntime-fp32-train"
"""What the demonstration exports for."""

STEPS = 100
"""Length of the verified trajectory."""

EPOCHS = 8
"""Passes over the simulated user's digits."""

LEARNING_RATE = 0.001
"""Of fine-tuning: a fiftieth of what trained the model, whose BatchNorm is folded by now and holds nothing back."""

_LOWER_IS_BETTER = {"mae", "rmse"}


@dataclass(frozen=True)
class DemoFiles:
    """Where everything of a demonstration lies; every path is in ``folder``."""

    folder: Path
    run: Path
    checkpoint: Path
    bundle: Path
    comparisons: Path
    user_examples: Path
    user_evaluation: Path
    tuned: Path
    profile: Path
    report: Path


def demo_files(out: Path | None) -> DemoFiles:
    """Make the folder of a demonstration and return the paths in it.

    Args:
        out: the folder; ``None`` takes the first of ``nagedge-demo``, ``nagedge-demo-2``, ... that is not there.

    Raises:
        ConfigurationError: the folder holds files already.
    """
    if out is None:
        out, number = Path("nagedge-demo"), 1
        while out.exists():
            number += 1
            out = Path(f"nagedge-demo-{number}")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigurationError(f"{out} holds files already, which are kept; give a new folder with --out.")
    out.mkdir(parents=True, exist_ok=True)
    return DemoFiles(
        folder=out,
        run=out / "run.toml",
        checkpoint=out / "checkpoint",
        bundle=out / "bundle",
        comparisons=out / "comparisons.json",
        user_examples=out / "user.npz",
        user_evaluation=out / "user-evaluation.npz",
        tuned=out / "tuned",
        profile=out / "profile.json",
        report=out / "report.html",
    )


def highlights(
    checkpoint: Checkpoint, comparisons: Sequence[Comparison], result: FinetuneResult
) -> tuple[Card, ...]:
    """Return the cards beneath the report's title."""
    outside = sum(not comparison.within_tolerance for comparison in comparisons)
    before, after = result.before["digit"]["accuracy"], result.after["digit"]["accuracy"]
    return (
        Card(
            "digits recognised",
            f"{checkpoint.state.test['digit']['accuracy']:.1%}",
            "test digits, after training",
        ),
        Card(
            f"{STEPS} steps verified",
            "as PyTorch" if not outside else f"{outside} differ",
            f"{len(comparisons)} comparisons",
            verdict="good" if not outside else "bad",
        ),
        Card(
            "the user's digits",
            f"{before:.1%} → {after:.1%}",
            f"after {len(result.losses)} steps on {result.runtime}",
            verdict="good" if after > before else "bad",
        ),
    )


def report_sections(
    checkpoint: Checkpoint, comparisons: Sequence[Comparison], result: FinetuneResult, user: str
) -> tuple[TrainingSection | VerificationSection | FineTuningSection, ...]:
    """Return the report's sections before the profile.

    Args:
        checkpoint: of the finished training.
        comparisons: of the verified trajectory.
        result: of fine-tuning.
        user: describes the simulated user.
    """
    return (
        training_section(checkpoint),
        VerificationSection(comparisons, runtime=result.runtime, lead=f"{STEPS} training steps, run twice."),
        _fine_tuning(checkpoint, result, user),
    )


def _fine_tuning(checkpoint: Checkpoint, result: FinetuneResult, user: str) -> FineTuningSection:
    units = {task.name: task.unit for task in checkpoint.tasks}
    steps = tuple(float(step + 1) for step in range(len(result.losses)))
    return FineTuningSection(
        results=before_and_after(result.before, result.after, units),
        losses=tuple(
            Curve(name, steps, tuple(losses[name] for losses in result.losses)) for name in result.losses[0]
        ),
        facts=(
            Fact("data", user),
            Fact("examples", f"{result.examples} learnt, {result.evaluated} others measured"),
            Fact("runtime", f"{result.runtime}, {len(result.losses)} steps, lr {LEARNING_RATE:g}"),
        ),
    )


def before_and_after(
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
    units: Mapping[str, str],
) -> tuple[BeforeAfter, ...]:
    """Return one entry a task and metric; errors are in the unit of their task and better when lower."""
    return tuple(
        BeforeAfter(
            task,
            metric,
            value,
            after[task][metric],
            higher_is_better=metric not in _LOWER_IS_BETTER,
            unit=units[task] if metric in _LOWER_IS_BETTER else "",
        )
        for task, metrics in before.items()
        for metric, value in metrics.items()
    )
