"""Counts in the page, in tables and in JSON: with their evidence, and never as a time."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest

import nagedge
from nagedge.devices.arm64 import Installation
from nagedge.devices.counting import Counted, Instructions
from nagedge.errors import BundleError, ConfigurationError
from nagedge.profiling import counts, run
from nagedge.profiling.artifacts import Artifact, artifacts_of
from nagedge.profiling.count_parts import count_parts
from nagedge.profiling.gate import compare_profiles
from nagedge.profiling.parity import compare_outputs, host_outputs, run_on_host
from nagedge.profiling.report import render_report
from nagedge.profiling.results import Profile, WorkloadProfile, profile_schema
from nagedge.profiling.tables import change_sheet, profile_sheets, to_markdown


def test_a_counted_profile_survives_its_json_and_fits_its_schema(counted_profile: Profile) -> None:
    assert Profile.from_json(counted_profile.to_json()) == counted_profile
    document = json.loads(counted_profile.to_json())
    jsonschema.Draft202012Validator(profile_schema()).validate(document)
    assert {one["evidence"] for one in document["counts"]} == {"emulated-count"}
    assert {one["evidence"] for one in document["modelled"]} == {"modelled"}
    assert not [
        key for one in document["counts"] for key in one if key.endswith("_ms")
    ]  # no time among counts


def test_each_class_of_evidence_is_a_table_of_its_own(counted_profile: Profile) -> None:
    sheets = profile_sheets(counted_profile)
    assert [re.search(r"evidence: ([\w-]+)", sheet.title) is not None for sheet in sheets] == [True] * 4 + [
        False
    ]
    assert [len(sheet.rows) for sheet in sheets] == [2, 4, 1, 3, 1]
    columns = (*sheets[1].columns, *sheets[2].columns)
    assert not [column for column in columns if "ms" in column.split("_")]


def test_the_page_shows_counts_ranges_changes_and_failures(counted_profile: Profile) -> None:
    changes = compare_profiles(counted_profile, counted_profile, limit=0.01)
    text = render_report(counted_profile, before=counted_profile, changes=changes)
    for title in (
        "Against the baseline",
        "Emulated cores",
        "Modelled latency",
        "Not profiled",
        "Trace",
        "Instruction mix",
    ):
        assert title in text
    for title in ("int8 against fp32 by core", "A training step against inference"):
        assert f"<h3>{title}</h3>" in text
    assert "litert int8 on cortex-a53 1.90" in text  # 190,000 / 100,000
    assert "does not compute what this machine computes: loss" in text
    assert "the emulator was killed" in text
    counts, *_ = count_parts(counted_profile)
    assert not re.search(
        r"\d ?ms\b", " ".join(cell for table in counts.tables for row in table.rows for cell in row)
    )


def test_the_trace_holds_the_timed_calls(counted_profile: Profile) -> None:
    found = re.search(
        r'download="trace.json" href="data:application/json;base64,([^"]+)"', render_report(counted_profile)
    )
    assert found
    events = json.loads(base64.b64decode(found[1]))["traceEvents"]
    calls = [event for event in events if event["ph"] == "X" and event["tid"] == 1]
    latency = counted_profile.workloads[1].latency
    assert [event["dur"] / 1e3 for event in calls] == pytest.approx(latency.samples_ms[:500], abs=1e-5)
    assert [event["name"] for event in calls[:2]] == ["first call", "warm-up"]
    assert calls[1]["ts"] == pytest.approx(calls[0]["dur"], abs=1e-2)


def test_markdown_says_the_same_and_escapes(counted_profile: Profile) -> None:
    changes = compare_profiles(counted_profile, counted_profile, limit=0.01)
    text = to_markdown([change_sheet(changes, 0.01), *profile_sheets(counted_profile)])
    assert "### Against the baseline, 1 % allowed" in text
    assert "| same | infer | emulated:cortex-a53 | android-arm64-litert-fp32 | instructions |" in text
    assert "100,000" in text
    widths = [
        {line.count("|") for line in part.splitlines() if line.startswith("|")}
        for part in text.split("###")[1:]
    ]
    assert all(len(width) == 1 for width in widths)
    hostile = profile_sheets(
        Profile.from_json(counted_profile.to_json().replace("was killed", "a|b <script>"))
    )
    assert "a\\|b &lt;script&gt;" in to_markdown(hostile)


def test_outputs_are_compared_with_the_tolerance_of_the_target() -> None:
    expected = {"a": np.array([1.0, 2.0]), "b": np.zeros(3)}
    near = {"a": np.array([1.0, 2.0 + 1e-4]), "b": np.zeros(3)}
    parity = compare_outputs(near, expected, rtol=1e-4, atol=0.0)
    assert (parity.worst, parity.tensors, parity.within_tolerance) == ("a", 2, True)
    assert parity.excess == pytest.approx(0.5)
    assert not compare_outputs(near, expected, rtol=1e-5, atol=0.0).within_tolerance
    for broken in ({"a": near["a"]}, {**near, "b": np.array([np.nan, 0, 0])}, {**near, "b": np.zeros(2)}):
        lacking = compare_outputs(broken, expected, rtol=1.0, atol=1.0)
        assert (lacking.worst, lacking.within_tolerance, lacking.excess) == ("b", False, None)


def test_the_runner_repeats_what_the_session_computes(bundle: nagedge.Bundle) -> None:
    from nagedge.profiling.artifacts import feeds

    for artifact in artifacts_of(bundle, None, ("infer", "train"), 2):
        inputs = feeds(bundle, artifact.what, 2, lr=0.1)
        run = run_on_host(artifact, inputs, threads=1, calls=3)
        assert len(run.durations_ns) == 3
        assert run.runtime.startswith("onnxruntime ")
        parity = compare_outputs(run.outputs, host_outputs(artifact, inputs), rtol=0.0, atol=0.0)
        assert (parity.within_tolerance, parity.tensors) == (True, len(run.outputs))


@pytest.mark.parametrize(("instructions", "expected"), [(4_999_999, [5, 25]), (5_000_000, [5])])
def test_short_calls_are_counted_more_often_and_progress_never_falls(
    instructions: int,
    expected: list[int],
    bundle: nagedge.Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    shares: list[float] = []

    def count(*given: object, regions: int, progress: Callable[[float], None], **options: object) -> Counted:
        asked.append(regions)
        progress(0.2)
        progress(0.9)
        all_of_one_class = Instructions(instructions, instructions, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        return Counted(
            "litert 2.3", "an invocation", regions, all_of_one_class, 1, 1, all_of_one_class, 1, None, {}
        )

    monkeypatch.setattr(counts, "count_calls", count)
    (artifact,) = artifacts_of(bundle, None, ("infer",), 1)
    found = counts.count_artifact(
        bundle, artifact, Installation(tmp_path), "cortex-a53", progress=shares.append
    )
    assert asked == expected
    assert found.regions == expected[-1]
    assert shares == [0.2, 0.9, 0.9, 0.9][: 2 * len(expected)]


def test_an_artifact_that_two_targets_share_is_profiled_once(bundle: nagedge.Bundle) -> None:
    name, entry = next(iter(bundle.manifest.targets.items()))
    both = bundle.manifest.model_copy(update={"targets": {name: entry, "again": entry}})
    shared = nagedge.Bundle(bundle.path, both)
    assert [artifact.target for artifact in artifacts_of(shared, None, ("infer",), None)] == [name]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"regions": 4}, "regions is 4, expected a number >= 5"),
        ({"device": []}, "no device was named"),
        ({"device": ["host", "emulated:m1"]}, "unknown core 'm1'"),
        ({"models": ["pixel"]}, "unknown device profile 'pixel'"),
    ],
)
def test_bad_arguments_are_refused(bundle: nagedge.Bundle, options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        nagedge.profile(bundle, **options)  # type: ignore[arg-type]


def test_ticks_of_a_whole_machine_are_no_time(counted_profile: Profile) -> None:
    page = render_report(counted_profile)
    assert ">Whole machine</h2>" in page
    assert "A tick is no time." in page
    (sheet,) = [one for one in profile_sheets(counted_profile) if one.title.startswith("Ticks")]
    assert sheet.title == "Ticks of a whole machine (evidence: emulated-count)"
    assert sheet.rows[0][:2] == ("train", "cortex-a72")
    assert 2_000_100 in sheet.rows[0]
    assert Profile.from_json(counted_profile.to_json()) == counted_profile


@pytest.mark.parametrize("backend", ["onnxruntime", "litert"])
def test_an_artifact_that_a_runtime_refuses_here_is_named(
    bundle: nagedge.Bundle, tmp_path: Path, backend: str
) -> None:
    (artifact, *_) = artifacts_of(bundle, None, ("infer",), 2)
    damaged = tmp_path / ("damaged.onnx" if backend == "onnxruntime" else "damaged.tflite")
    damaged.write_bytes(b"\x20\x00\x00\x00TFL3" + bytes(64))
    refused = replace(artifact, file=damaged, name=damaged.name, backend=backend)
    with pytest.raises(
        BundleError, match=rf"^{backend} (refuses|ended with code -?\d+ while it ran) '{damaged.name}'"
    ):
        run_on_host(refused, {}, threads=1, calls=1)


def test_a_runtime_that_refuses_one_artifact_keeps_the_others(
    bundle: nagedge.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = run.measure_artifact

    def refusing(bundle: nagedge.Bundle, artifact: Artifact, **options: object) -> WorkloadProfile:
        if artifact.what == "infer":
            raise BundleError("onnxruntime refuses 'infer.onnx': no. Export again.")
        return measured(bundle, artifact, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "measure_artifact", refusing)
    found = nagedge.profile(bundle, budget_s=0.05)
    assert [one.name for one in found.workloads] == ["train"]
    assert [(one.name, one.device) for one in found.failures] == [("infer", "host")]
    assert "Not profiled" in render_report(found)
