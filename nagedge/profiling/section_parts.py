"""From the sections of training, verification and fine-tuning to what the page shows of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nagedge.profiling.parts import Part, Table
from nagedge.profiling.plots import (
    before_after_chart,
    curves_chart,
    errors_chart,
)
from nagedge.profiling.sections import (
    BeforeAfter,
    Card,
    ComparisonLike,
    Curve,
    FineTuningSection,
    Section,
    TrainingSection,
    Verdict,
    VerificationSection,
)

__all__ = ["section_part"]

_GROUPS = {
    "infer": "outputs",
    "loss": "losses",
    "params": "parameters",
    "momentum": "momentum",
    "buffers": "buffers",
}
"""The first part of a tensor's name -> the group it is shown in."""


def section_part(section: Section) -> Part:
    """Lay out a section."""
    if isinstance(section, TrainingSection):
        return _training(section)
    if isinstance(section, VerificationSection):
        return _verification(section)
    if isinstance(section, FineTuningSection):
        return _fine_tuning(section)
    tables = (Table(rows=section.rows, header=section.header),) if section.rows else ()
    return Part(title=section.title, lead=section.lead, cards=section.cards, tables=tables)


def _training(section: TrainingSection) -> Part:
    charts = [curves_chart("Loss", section.losses, x_label=section.x_label)] if section.losses else []
    metrics = [
        curves_chart(curve.label, [curve], x_label=section.x_label, small=True) for curve in section.metrics
    ]
    facts = tuple((fact.name, fact.value) for fact in section.facts)
    return Part(
        title=section.title,
        lead=section.lead,
        cards=section.cards,
        charts=tuple(charts),
        small_charts=tuple(metrics),
        tables=(Table(rows=facts, beside=True),) if facts else (),
    )


def _verification(section: VerificationSection) -> Part:
    comparisons = list(section.comparisons)
    if not comparisons:
        return Part(title=section.title, lead=section.lead, notes=("Nothing was compared.",))
    failures = [item for item in comparisons if not item.within_tolerance]
    tensors = {item.tensor for item in comparisons}
    steps = {item.step for item in comparisons if item.step}
    targets = {item.target for item in comparisons}
    first_failures: dict[tuple[str, str], ComparisonLike] = {}
    # What goes wrong first is the cause of what follows; what agrees is listed by how little it does.
    for item in sorted(comparisons, key=_severity):
        first_failures.setdefault((item.target, item.tensor), item)
    listed = list(first_failures.values())[: section.worst]
    rows = tuple(
        (
            f"{item.tensor} ({item.target})" if len(targets) > 1 else item.tensor,
            _when(item),
            f"{item.max_abs:.2e}",
            f"{item.max_rel:.2e}",
            _of_allowed(item.excess),
            "yes" if item.within_tolerance else "NO",
        )
        for item in listed
    )
    worst = listed[0]
    where = f"step {worst.step}" if worst.step else _when(worst)
    verdict: Verdict = "bad" if failures else "good"
    cards = (
        Card(
            "Within tolerance",
            f"{len(comparisons) - len(failures):,} of {len(comparisons):,}",
            f"{len(tensors):,} tensors, {len(steps):,} steps",
            verdict,
        ),
        Card(
            "First out of tolerance" if failures else "Nearest to its tolerance",
            _of_allowed(worst.excess),
            f"of what is allowed: {worst.tensor}, {where}",
        ),
        Card("Compared", section.runtime, f"against {section.reference}"),
    )
    header = ("Tensor", "Step", "Max. absolute", "Max. relative", "Of what is allowed", "Within")
    curves = _excess_by_step(comparisons)
    return Part(
        title=section.title,
        lead=section.lead,
        cards=cards,
        charts=(errors_chart(curves, reference=section.reference),) if curves else (),
        tables=(
            Table(rows=rows, header=header, title="The most telling tensors first", numeric=(1, 2, 3, 4)),
            _groups_table(comparisons),
        ),
    )


def _of_allowed(excess: float) -> str:
    """A difference as a part of what is allowed, or as a multiple: ``"0.63 %"``, ``"5 times"``."""
    if math.isinf(excess):
        return "not finite"
    return f"{excess * 100:.2g} %" if excess < 1 else f"{excess:.3g} times"


def _groups_table(comparisons: Sequence[ComparisonLike]) -> Table:
    """The largest difference in each group of tensors, and what is allowed there."""
    rows = []
    for prefix, name in _GROUPS.items():
        found = [item for item in comparisons if item.tensor.split(".", 1)[0] == prefix]
        if found:
            worst = max(found, key=lambda item: item.excess)
            rows.append(
                (
                    name,
                    f"{len({item.tensor for item in found}):,}",
                    f"{max(item.max_abs for item in found):.1e}",
                    f"{worst.atol:.0e} + {worst.rtol:.0e} m",
                    _of_allowed(worst.excess),
                )
            )
    return Table(
        rows=tuple(rows),
        header=("Group", "Tensors", "Largest", "Allowed", "Of it"),
        title="Largest differences",
        numeric=(1, 2, 3, 4),
        note="m is the largest absolute value of the tensor itself: each is measured by its own scale.",
        beside=True,
    )


def _severity(item: ComparisonLike) -> tuple[bool, bool, int, float]:
    """The order of :func:`nagedge.verify`: failures by step, those of the one long step last; then by difference."""
    if item.within_tolerance:
        return (True, False, 0, -item.excess)
    return (False, _is_long_step(item), item.step, -item.excess)


def _is_long_step(item: ComparisonLike) -> bool:
    return item.tensor.startswith("update.")


def _when(item: ComparisonLike) -> str:
    if item.step:
        return str(item.step)
    return "long step" if _is_long_step(item) else "inference"


def _excess_by_step(comparisons: Sequence[ComparisonLike]) -> list[Curve]:
    """The largest excess of each group of tensors at each training step."""
    groups: dict[str, dict[int, float]] = {name: {} for name in _GROUPS.values()}
    for item in comparisons:
        name = _GROUPS.get(item.tensor.split(".", 1)[0])
        if name is not None and item.step:
            groups[name][item.step] = max(groups[name].get(item.step, 0.0), item.excess)
    return [
        Curve(
            name, tuple(float(step) for step in sorted(found)), tuple(found[step] for step in sorted(found))
        )
        for name, found in groups.items()
        if found
    ]


def _fine_tuning(section: FineTuningSection) -> Part:
    firsts: dict[str, BeforeAfter] = {}
    for result in section.results:
        firsts.setdefault(result.task, result)
    cards = tuple(
        Card(
            f"{result.task}: {result.metric}",
            f"{result.after:.4g} {result.unit}".strip(),
            f"before: {result.before:.4g} {result.unit}".strip(),
            "good" if result.improved else "bad",
        )
        for result in firsts.values()
    )
    charts = [before_after_chart(section.results)] if section.results else []
    if section.losses:
        charts.append(curves_chart("Loss while fine-tuning", section.losses, x_label=section.x_label))
    facts = tuple((fact.name, fact.value) for fact in section.facts)
    return Part(
        title=section.title,
        lead=section.lead,
        cards=cards,
        charts=tuple(charts),
        tables=(Table(rows=facts, beside=True),) if facts else (),
    )
