"""What a report can say, as data: charts, tables, cards and the sections that demo, profile and verify put together.

Nothing here knows HTML. Texts may hold anything: they are escaped when they are rendered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = [
    "BeforeAfter",
    "Card",
    "ComparisonLike",
    "Curve",
    "Fact",
    "FineTuningSection",
    "Section",
    "TableSection",
    "TrainingSection",
    "Verdict",
    "VerificationSection",
]

Verdict = Literal["", "good", "bad"]
"""What a figure means to the reader, where it means one."""


@dataclass(frozen=True)
class Card:
    """One figure in large type.

    Args:
        label: what it is. value: with its unit, ready to print. detail: a short line beneath.
        verdict: ``"good"`` or ``"bad"`` colours the card and adds the word, for readers who see no colour.
    """

    label: str
    value: str
    detail: str = ""
    verdict: Verdict = ""


@dataclass(frozen=True)
class Fact:
    """A row of a two-column table: a name and a value."""

    name: str
    value: str


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Args:
        label: for the legend. x, y: of equal length, finite.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse lengths that differ."""
        if len(self.x) != len(self.y):
            raise ValueError(f"curve {self.label!r}: {len(self.x)} x values and {len(self.y)} y values")


@dataclass(frozen=True)
class TrainingSection:
    """How the model was trained.

    Args:
        losses: one curve a task and split, drawn in one chart; ``"digit (training)"`` and ``"digit (validation)"``
            share a colour, the later one is dashed.
        metrics: curves of metrics; each is drawn in a small chart of its own, since units differ.
        cards: final figures. facts: data, model and optimizer in a table.
        x_label: what the x values count.
    """

    losses: tuple[Curve, ...] = ()
    metrics: tuple[Curve, ...] = ()
    cards: tuple[Card, ...] = ()
    facts: tuple[Fact, ...] = ()
    x_label: str = "epoch"
    title: str = "Training"
    lead: str = ""


class ComparisonLike(Protocol):
    """What :class:`nagedge.Comparison` says about one tensor at one step."""

    @property
    def tensor(self) -> str:
        """The tensor's name."""
        ...

    @property
    def step(self) -> int:
        """The step it was compared after."""
        ...

    @property
    def max_abs(self) -> float:
        """The largest absolute difference."""
        ...

    @property
    def max_rel(self) -> float:
        """The largest relative difference."""
        ...

    @property
    def rtol(self) -> float:
        """The relative tolerance."""
        ...

    @property
    def atol(self) -> float:
        """The absolute tolerance."""
        ...

    @property
    def within_tolerance(self) -> bool:
        """Whether the tensor agrees."""
        ...

    @property
    def excess(self) -> float:
        """The difference over what is allowed; above 1 is out of tolerance, may be infinite."""
        ...

    @property
    def target(self) -> str:
        """The target's name."""
        ...


@dataclass(frozen=True)
class VerificationSection:
    """Whether the exported step computes what PyTorch computes.

    Args:
        comparisons: every tensor at every step; step 0 is inference.
        reference, runtime: what was compared with what.
        worst: how many tensors to list.
    """

    comparisons: Sequence[ComparisonLike]
    runtime: str
    reference: str = "PyTorch"
    worst: int = 10
    title: str = "Verification"
    lead: str = ""


@dataclass(frozen=True)
class BeforeAfter:
    """A metric of one task on the user's held-out data, before and after fine-tuning.

    Args:
        task, metric: names. before, after: values in ``unit``.
        higher_is_better: whether a rise is an improvement.
    """

    task: str
    metric: str
    before: float
    after: float
    higher_is_better: bool
    unit: str = ""

    @property
    def improved(self) -> bool:
        """Whether ``after`` is strictly better."""
        return self.after > self.before if self.higher_is_better else self.after < self.before


@dataclass(frozen=True)
class FineTuningSection:
    """What fine-tuning on a device's own data brought.

    Args:
        results: at least one for each task; all are drawn, each task's first one is also a card.
        losses: curves by step.
        facts: data, runtime and settings in a table.
    """

    results: tuple[BeforeAfter, ...]
    losses: tuple[Curve, ...] = ()
    facts: tuple[Fact, ...] = ()
    x_label: str = "step"
    title: str = "Fine-tuning"
    lead: str = ""


@dataclass(frozen=True)
class TableSection:
    """A plain table, and cards above it.

    Args:
        header: column names, may be empty. rows: cells of text, one tuple a row.
    """

    title: str
    rows: tuple[tuple[str, ...], ...] = ()
    header: tuple[str, ...] = ()
    cards: tuple[Card, ...] = ()
    lead: str = ""


Section = TrainingSection | VerificationSection | FineTuningSection | TableSection
"""What :func:`nagedge.profiling.report.write_report` takes besides the profile."""
