"""One self-contained HTML page from a profile and from other sections: no request, no script, printable.

``nagedge profile --html`` shows a profile; ``nagedge demo`` puts training, verification and fine-tuning before it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from nagedge.files import write_file
from nagedge.profiling.count_parts import change_part, count_parts, summary_cards, trace_part
from nagedge.profiling.gate import Change
from nagedge.profiling.parts import Page, Part
from nagedge.profiling.profile_parts import environment_part, workload_part
from nagedge.profiling.results import Profile
from nagedge.profiling.section_parts import section_part
from nagedge.profiling.sections import Card, Section
from nagedge.profiling.svg import numbered

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["render_report", "write_report"]


def write_report(
    path: Path,
    profile: Profile | None = None,
    *,
    before: Profile | None = None,
    changes: Sequence[Change] = (),
    limit: float = 0.01,
    title: str = "",
    subtitle: str = "",
    highlights: Sequence[Card] = (),
    sections: Sequence[Section] = (),
) -> Path:
    """Write the report; see :func:`render_report`. The file appears in full or not at all.

    Returns:
        The path.
    """
    page = render_report(
        profile, before=before, changes=changes, limit=limit, title=title, subtitle=subtitle, highlights=highlights,
        sections=sections,
    )  # fmt: skip
    return write_file(Path(path), page)


def render_report(
    profile: Profile | None = None,
    *,
    before: Profile | None = None,
    changes: Sequence[Change] = (),
    limit: float = 0.01,
    title: str = "",
    subtitle: str = "",
    highlights: Sequence[Card] = (),
    sections: Sequence[Section] = (),
) -> str:
    """Return the report as one HTML page. Equal arguments give equal text.

    Args:
        profile: adds one section a workload and the environment, after the others.
        before: a baseline. changes: what the comparison with it found. limit: growth that was allowed.
        title, subtitle: of the page; taken from the profile when empty.
        highlights: the page's most important figures, beneath the title.
        sections: in the order of reading.
    """
    parts = [section_part(section) for section in sections]
    if profile is not None:
        if before is not None:
            parts.append(change_part(changes, before, limit))
        parts += count_parts(profile)
        several = len({workload.target for workload in profile.workloads}) > 1
        parts += [workload_part(workload, one_of_several=several) for workload in profile.workloads]
        trace = trace_part(profile)
        parts += [] if trace is None else [trace]
        parts.append(environment_part(profile))
        highlights = highlights or summary_cards(profile)
        title = title or f"Profile of {profile.bundle}"
        subtitle = (
            subtitle
            or f"{', '.join(profile.devices)}; profiled from {profile.host.cpu_model} on {profile.created}."
        )
    page = Page(
        title=title or "NagEdge report",
        subtitle=subtitle,
        highlights=tuple(highlights),
        parts=_numbered(parts),
        footer=_footer(profile),
    )
    return _template().render(page=page)


def _numbered(parts: Sequence[Part]) -> tuple[Part, ...]:
    count = itertools.count(1)
    return tuple(
        replace(
            part,
            charts=tuple(numbered(chart, next(count)) for chart in part.charts),
            small_charts=tuple(numbered(chart, next(count)) for chart in part.small_charts),
        )
        for part in parts
    )


def _footer(profile: Profile | None) -> str:
    if profile is None:
        return "Made by NagEdge."
    return (
        f"Made by NagEdge on {profile.created}. Latencies and memory are of the machine named above (evidence: "
        "measured-host) unless they say otherwise; another machine or a phone has others. Counts are no time."
    )


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    source = (
        resources.files("nagedge.profiling").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    )
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)
