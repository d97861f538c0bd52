"""The page: complete, escaped, without a request, the same bytes for the same data."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from nagedge.profiling import plots, report
from nagedge.profiling.measure import Samples, summarise
from nagedge.profiling.plots import curves_chart, distribution_chart
from nagedge.profiling.report import render_report, write_report
from nagedge.profiling.results import Profile
from nagedge.profiling.section_parts import section_part
from nagedge.profiling.sections import (
    BeforeAfter,
    Card,
    Curve,
    Fact,
    FineTuningSection,
    Section,
    TableSection,
    TrainingSection,
    VerificationSection,
)
from nagedge.profiling.units import milliseconds, size

HOSTILE = '<script>alert("$x_1^2$")</script>&amp;'


@dataclass(frozen=True)
class Compared:
    tensor: str
    step: int
    excess: float
    max_abs: float = 1e-6
    max_rel: float = 1e-7
    rtol: float = 1e-4
    atol: float = 1e-5
    target: str = "any"

    @property
    def within_tolerance(self) -> bool:
        return self.excess <= 1


class Page(HTMLParser):
    """Collects what must hold of a page: balanced tags, unique ids, references, text."""

    VOID = frozenset({"meta", "br", "link", "img", "path", "use", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "src", "xlink:href", "action", "data"} and value:
                self.references.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def sections(name: str = "digit") -> tuple[Section, ...]:
    curve = Curve(f"{name} (training)", (1.0, 2.0, 3.0), (2.0, 1.0, 0.5))
    compared = [Compared(t, s, 0.01 * s) for t in ("loss", f"params.{name}", "infer.x") for s in range(4)]
    return (
        TrainingSection(losses=(curve, curve), metrics=(curve,), cards=(Card(name, name, name),), lead=name),
        VerificationSection(compared, runtime=name, lead=name),
        FineTuningSection(
            (BeforeAfter(name, name, 0.5, 0.75, higher_is_better=True, unit=name),),
            losses=(curve,),
            facts=(Fact(name, name),),
        ),
        TableSection(name, rows=((name, name),), header=(name, name)),
    )


def test_the_page_is_whole_and_asks_for_nothing(known_profile: Profile) -> None:
    text = render_report(known_profile, sections=sections())
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    held = [reference for reference in page.references if reference.startswith("data:")]
    assert len(held) == 1  # the trace
    for reference in held:
        text = text.replace(reference, "")
    assert {one.removeprefix("#") for one in page.references if one not in held} <= set(page.ids)
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "form"})
    assert re.findall(r"(?:https?:)?//[a-z]", text) == []
    assert "default-src 'none'" in text
    used = set(re.findall(r"url\(#([^)]+)\)", text))
    assert used <= set(page.ids)


def test_each_chart_has_words_for_those_who_do_not_see_it(known_profile: Profile) -> None:
    text = render_report(known_profile, sections=sections())
    assert text.count("<svg") == text.count("<figure") == text.count('<p class="hidden">') == 13
    assert "Histogram of 500 steady-state calls: p50 10.2 ms" in text
    assert "the first took 90 ms, then 30 warm-up calls, then 500 calls" in text


def test_the_same_data_give_the_same_bytes(known_profile: Profile) -> None:
    assert render_report(known_profile, sections=sections()) == render_report(
        known_profile, sections=sections()
    )


def test_names_of_the_user_are_text(known_profile: Profile) -> None:
    profile = replace(known_profile, bundle=HOSTILE, workloads=())
    text = render_report(
        profile, title=HOSTILE, highlights=(Card(HOSTILE, HOSTILE),), sections=sections(HOSTILE)
    )
    page = Page(text)
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) > 15
    labels = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "&lt;script&gt;" in labels
    assert "$x_1^2$" in labels  # not read as mathematics


def test_a_profile_says_what_was_measured_and_how(known_profile: Profile) -> None:
    text = Page(render_report(known_profile)).text
    for expected in (
        "Profile of digits",
        "Inference latency",
        "Training step latency",
        "targets/any/train.onnx (any-any-onnxruntime-fp32-train) on onnxruntime 1.2.3, batch 16, one thread.",
        "Evidence: measured-host.",
        "A note to the reader.",
        "30 calls, 600 ms in all",
        "MSER-5",
        "circular block bootstrap",
        "120 calls; it needs 368",
        "Example CPU",
        "4 logical, 2 usable",
        "All 12 nodes",
    ):
        assert expected in text


def test_memory_over_time_is_drawn_above_the_bare_process(known_profile: Profile) -> None:
    page = render_report(known_profile)
    assert page.count("<h3>Memory over time</h3>") == 2
    words = "40 MiB once loaded, at most 43 MiB in 2 steps, 40 MiB at the end"
    assert f"Resident memory above the bare process: {words}." in page
    assert "Above the bare process (50 MiB). Shaded: loading, 10 ms. Each step is drawn equally wide" in page
    workload = known_profile.workloads[0]
    assert workload.memory is not None
    without = replace(
        known_profile, workloads=(replace(workload, memory=replace(workload.memory, timeline=None)),)
    )
    assert "Memory over time" not in render_report(without)


def test_memory_that_is_a_lower_bound_is_shown_as_one(known_profile: Profile) -> None:
    infer = known_profile.workload("infer")
    assert infer.memory is not None
    bound = replace(infer, memory=replace(infer.memory, lower_bound=True))
    missing = replace(infer, memory=None, operators=None)
    assert "≥ 3 MiB" in render_report(replace(known_profile, workloads=(bound,)))
    text = render_report(replace(known_profile, workloads=(missing,)))
    assert "Peak memory" not in text
    assert "Time by operator" not in text


def test_verification_names_the_first_tensor_out_of_tolerance() -> None:
    compared = [Compared("params.a", step, 0.1) for step in (1, 2, 3)]
    compared += [
        Compared("momentum.b", 2, 5.0),
        Compared("params.a", 4, 50.0),
        Compared("loss", 5, float("inf")),
    ]
    part = section_part(VerificationSection(compared, runtime="x"))
    assert [(row[0], row[1], row[5]) for row in part.tables[0].rows] == [
        ("momentum.b", "2", "NO"),
        ("params.a", "4", "NO"),
        ("loss", "5", "NO"),
    ]
    assert (part.cards[0].value, part.cards[0].verdict) == ("3 of 6", "bad")
    assert "momentum.b, step 2" in part.cards[1].detail
    assert "nor are values that are not finite" in part.charts[0].caption


def test_verification_of_exact_agreement_or_of_inference_only() -> None:
    exact = section_part(VerificationSection([Compared("loss", s, 0.0) for s in (1, 2)], runtime="x"))
    assert exact.cards[0].verdict == "good"
    assert len(exact.charts) == 1
    inference = section_part(VerificationSection([Compared("infer.a", 0, 0.2)], runtime="x"))
    assert inference.charts == ()
    assert inference.tables[0].rows[0][1] == "inference"
    assert section_part(VerificationSection([], runtime="x")).notes == ("Nothing was compared.",)


def test_each_group_of_tensors_shows_its_largest_difference() -> None:
    compared = [Compared("params.a", 1, 0.5), Compared("params.b", 2, 0.0063), Compared("infer.x", 0, 7.0)]
    part = section_part(VerificationSection([*compared, Compared("loss", 1, float("inf"))], runtime="x"))
    groups = part.tables[1]
    assert groups.beside
    assert [(row[0], row[1], row[4]) for row in groups.rows] == [
        ("outputs", "1", "7 times"),
        ("losses", "1", "not finite"),
        ("parameters", "2", "50 %"),
    ]
    assert {row[3] for row in groups.rows} == {"1e-05 + 1e-04 m"}


def test_training_and_validation_share_a_colour_and_a_place_in_the_legend() -> None:
    curves = [Curve(f"digit ({part})", (1.0, 2.0), (2.0, 1.0)) for part in ("training", "validation")]
    (chart,) = section_part(TrainingSection(losses=tuple(curves))).charts
    assert chart.caption == "Solid: training. Dashed: validation."
    assert re.findall(r">(digit[^<]*)<", chart.svg) == ["digit"]
    assert "--series-1" in chart.svg
    assert "--series-2" not in chart.svg


def test_curves_far_apart_share_a_logarithmic_axis_with_plain_numbers() -> None:
    curves = (Curve("a", (1.0, 2.0), (2.0, 1.0)), Curve("b", (1.0, 2.0), (0.02, 0.01)))
    (chart,) = section_part(TrainingSection(losses=curves)).charts
    labels = re.findall(r"<text[^>]*>([^<]*)<", chart.svg)
    assert {"0.01", "0.1", "1"} <= set(labels)


def test_targets_are_told_apart_where_there_are_several() -> None:
    compared = [Compared("loss", 1, 0.1, target="a"), Compared("loss", 1, 0.2, target="b")]
    part = section_part(VerificationSection(compared, runtime="x"))
    assert [row[0] for row in part.tables[0].rows] == ["loss (b)", "loss (a)"]


@pytest.mark.parametrize(("before", "after", "higher", "verdict"), [
    (0.5, 0.6, True, "good"), (0.5, 0.6, False, "bad"), (0.6, 0.5, False, "good"), (0.5, 0.5, True, "bad"),
])  # fmt: skip
def test_better_depends_on_the_metric(before: float, after: float, higher: bool, verdict: str) -> None:
    result = BeforeAfter("t", "m", before, after, higher_is_better=higher)
    assert section_part(FineTuningSection((result,))).cards[0].verdict == verdict


def test_negative_metrics_are_drawn() -> None:
    result = BeforeAfter("slant", "r2", -0.4, 0.9, higher_is_better=True)
    part = section_part(FineTuningSection((result,)))
    assert "from -0.4 to 0.9" in part.charts[0].alternative


def test_a_curve_needs_equal_lengths() -> None:
    with pytest.raises(ValueError, match="curve 'loss': 1 x values and 2 y values"):
        Curve("loss", (1.0,), (1.0, 2.0))


def test_the_file_appears_whole_or_not_at_all(
    known_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_report(tmp_path / "new" / "report.html", known_profile)
    kept = path.read_text(encoding="utf-8")
    assert kept == render_report(known_profile)

    def fail(*arguments: object, **options: object) -> str:
        raise RuntimeError("drawing failed")

    monkeypatch.setattr(report, "workload_part", fail)
    with pytest.raises(RuntimeError, match="drawing failed"):
        write_report(path, known_profile)
    assert path.read_text(encoding="utf-8") == kept
    assert list(path.parent.iterdir()) == [path]


def test_figures_are_printed_with_their_unit() -> None:
    assert [milliseconds(v) for v in (0.01234, 0.1234, 12.34, 999.4, 1500.0)] == [
        "12.3 µs",
        "0.123 ms",
        "12.3 ms",
        "999 ms",
        "1.5 s",
    ]
    assert [size(v) for v in (0, 512, 1536, 3 << 20, 5 << 30)] == [
        "0 B",
        "512 B",
        "1.5 KiB",
        "3 MiB",
        "5 GiB",
    ]


def test_a_quantile_among_the_outliers_is_told_and_not_drawn(known_profile: Profile) -> None:
    durations = np.concatenate([10.0 + 0.1 * np.random.default_rng(0).normal(size=490), np.full(20, 500.0)])
    mixed = np.random.default_rng(1).permutation(durations)
    latency = summarise(Samples((1, *(int(d * 1e6) for d in mixed)), "budget", 1.0, 0, 1.0))
    chart = distribution_chart(latency)
    assert "Beyond the axis: p99." in chart.caption
    assert "20 outliers above" in chart.caption
    assert ">p90<" in chart.svg
    assert ">p99<" not in chart.svg
    assert "p99 500 ms" in chart.alternative


def test_long_curves_are_smoothed_without_changing_their_ends_level() -> None:
    curve = Curve("loss", tuple(float(i) for i in range(200)), (1.0,) * 200)
    chart = curves_chart("Loss", [curve], x_label="step")
    assert "moving average over 10 values" in chart.caption
    assert curves_chart("Loss", [Curve("loss", (1.0, 2.0), (1.0, 2.0))], x_label="step").caption == ""
    assert plots._moving_average([2.0] * 100, 7) == pytest.approx([2.0] * 100)
    assert plots._moving_average([0.0, 0.0, 3.0, 0.0, 0.0], 3) == pytest.approx([0.0, 1.0, 1.0, 1.0, 0.0])
