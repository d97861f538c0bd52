"""A small bundle, really profiled."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nagedge
from nagedge.devices.host import HostDescription
from nagedge.errors import ConfigurationError
from nagedge.profiling import workloads
from nagedge.profiling.measure import Distribution, Samples, summarise
from nagedge.profiling.results import Profile
from nagedge.profiling.workloads import load_workload, notes_on

MakeHost = Callable[..., HostDescription]


def test_a_bundle_is_profiled(bundle: nagedge.Bundle) -> None:
    seen: list[tuple[str, int, int]] = []
    profile = nagedge.profile(bundle, budget_s=0.3, progress=lambda *report: seen.append(report))
    infer, train = profile.workloads
    assert (infer.name, infer.batch, train.name, train.batch) == ("infer", 1, "train", 16)
    assert train.artifact.endswith("train_step.onnx")
    assert (profile.bundle, profile.devices) == ("bundle", ("host",))
    assert {version.name for version in profile.versions} == {"nagedge", "python", "numpy", "onnxruntime"}
    assert infer.operators is not None
    assert train.operators is not None
    for workload in profile.workloads:
        assert workload.operators is not None
        assert workload.memory is not None
        assert workload.latency.steady_calls >= 10
        median = workload.latency.quantile(0.5).value
        assert median is not None
        assert workload.latency.min_ms <= median <= workload.latency.max_ms
        assert workload.operators.steps == 20
        assert sum(row.share for row in workload.operators.by_type) == pytest.approx(1.0)
        assert workload.memory.loaded_bytes > 1 << 20
        assert workload.evidence == "measured-host"
    assert {"MatMul", "Gemm", "FusedMatMul"} & {row.op_type for row in train.operators.by_type}
    assert len(train.operators.by_node) > len(infer.operators.by_node)
    assert Profile.from_json(profile.to_json()) == profile
    done = [completed for _, completed, _ in seen]
    assert done == sorted(done)
    assert seen[-1] == ("profiled", 200, 200)
    assert {"infer: timing", "train: memory"} <= {description for description, _, _ in seen}


def test_what_and_batch_are_the_callers_choice(bundle: nagedge.Bundle) -> None:
    profile = nagedge.profile(bundle, what=("train",), batch=3, threads=2, budget_s=0.05)
    (train,) = profile.workloads
    assert (train.name, train.batch, train.threads) == ("train", 3, 2)
    assert not any("plans" in note for note in train.notes), "the plan is of another batch"


def test_the_planned_memory_stands_beside_the_measured(bundle: nagedge.Bundle) -> None:
    (entry,) = (e for e in bundle.manifest.targets.values() if e.planned_step_bytes is not None)
    assert entry.planned_step_bytes is not None
    profile = nagedge.profile(bundle, what=("train",), batch=entry.planned_rows, budget_s=0.05)
    (train,) = profile.workloads
    assert train.memory is not None
    assert any(
        f"plans {entry.planned_step_bytes / 2**20:.1f} MiB" in note
        and f"{train.memory.step_bytes / 2**20:.1f} MiB were measured" in note
        for note in train.notes
    )


def test_profiling_leaves_the_bundle_as_it_is(bundle: nagedge.Bundle) -> None:
    run = load_workload(str(bundle.path), None, "train", 4, 1)
    before = bundle.params()
    for iteration in range(3):
        run(iteration)
    after = nagedge.load(bundle.path).params()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_memory_that_cannot_be_measured_loses_nothing_else(
    bundle: nagedge.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ConfigurationError("no such thing here.")

    monkeypatch.setattr(workloads, "peak_memory", fail)
    (infer,) = nagedge.profile(bundle, what=["infer"], budget_s=0.05).workloads
    assert infer.memory is None
    assert infer.notes[-1] == "Peak memory was not measured: no such thing here."


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"device": "pixel"},
            "unknown device 'pixel'; expected host, emulated:CORE, adb:SERIAL or ios-simulator",
        ),
        (
            {"what": ["inferr"]},
            r"cannot profile 'inferr'; expected one of infer, train. Did you mean 'infer'\?",
        ),
        ({"what": []}, "nothing to profile was named"),
        ({"threads": 0}, "threads is 0, expected a number >= 1"),
        ({"batch": 0}, "batch is 0, expected a number >= 1"),
        ({"budget_s": 0.0}, "budget_s is 0.0, expected seconds > 0"),
        ({"budget_s": float("nan")}, "budget_s is nan"),
        ({"target": "any"}, "has no target 'any'"),
    ],
)
def test_bad_arguments_are_refused(bundle: nagedge.Bundle, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        nagedge.profile(bundle, **options)


def test_a_fixed_batch_is_taken_and_another_refused(tmp_path: Path) -> None:
    import torch

    fixed = nagedge.export(
        torch.nn.Linear(4, 3),
        tasks=[nagedge.TaskSpec("state", "classification", size=3)],
        example_input=torch.zeros(4, 4),
        targets=["any-any-onnxruntime-fp32-train"],
        out=tmp_path / "fixed",
        batch=4,
    )
    profile = nagedge.profile(fixed, budget_s=0.05)
    assert [workload.batch for workload in profile.workloads] == [4, 4]
    with pytest.raises(ConfigurationError, match="batch is 8, but this bundle takes exactly 4"):
        nagedge.profile(fixed, batch=8)


def steady(durations_ms: np.ndarray) -> Distribution:
    return summarise(Samples((10_000_000, *(int(d * 1e6) for d in durations_ms)), "budget", 1.0, 0, 1.0))


def quiet(n: int = 300) -> np.ndarray:
    return 10.0 + 0.1 * np.random.default_rng(0).normal(size=n)


def test_a_quiet_run_needs_no_note(host: MakeHost) -> None:
    assert notes_on(steady(quiet()), host(), threads=1) == ()


@pytest.mark.parametrize(
    ("durations", "text"),
    [
        (np.linspace(20.0, 10.0, 200), "had not settled"),
        (quiet() + np.linspace(0.0, 1.0, 300), "slower over the steady state"),
        (
            np.where(np.random.default_rng(1).random(300) < 0.4, 15.0, 10.0) + 0.01 * quiet(),
            "two groups, around 10.1 ms",
        ),
    ],
)
def test_the_reader_is_warned_of_the_durations(durations: np.ndarray, text: str, host: MakeHost) -> None:
    assert any(text in note for note in notes_on(steady(durations), host(), threads=1))


@pytest.mark.parametrize(
    ("changes", "threads", "text"),
    [
        ({"load_average": 1.8}, 1, r"load average was 1.8 on 2 usable cores"),
        ({}, 3, "3 threads share 2 usable cores"),
        ({"governor": "powersave"}, 1, "clock governor is 'powersave'"),
    ],
)
def test_the_reader_is_warned_of_the_machine(
    changes: dict[str, object], threads: int, text: str, host: MakeHost
) -> None:
    assert any(text in note for note in notes_on(steady(quiet()), host(**changes), threads=threads))


def test_the_child_that_measures_memory_does_not_load_torch(bundle: nagedge.Bundle) -> None:
    code = (
        "import sys; from nagedge.profiling.workloads import load_workload; "
        f"load_workload({str(bundle.path)!r}, None, 'train', 2, 1)(0); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_the_report_loads_no_plotting() -> None:
    code = "import sys, nagedge.profiling.report; assert not {'matplotlib', 'jinja2', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_bundle_in_an_archive_is_profiled(bundle: nagedge.Bundle, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", bundle.path)
    profile = nagedge.profile(nagedge.load(archive), what=["infer"], budget_s=0.05)
    assert profile.workloads[0].memory is not None


def test_an_unsettled_profile_stays_one_in_json(known_profile: Profile) -> None:
    latency = steady(np.linspace(20.0, 10.0, 200))
    changed = replace(known_profile, workloads=(replace(known_profile.workloads[0], latency=latency),))
    assert not Profile.from_json(changed.to_json()).workloads[0].latency.steady_reached
