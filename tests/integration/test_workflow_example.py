"""The workflow of the guide on profiling: read as GitHub reads it, its commands run against a real bundle."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]

import nagedge
from nagedge.devices.arm64 import Installation

GUIDE = Path(__file__).resolve().parents[2] / "docs/guides/profile.md"
OF_THE_CONTAINER = ("apt-get ", "python3 -m venv ")
"""Commands that change the system: only their syntax is checked."""

MODEL = """
import torch
from torch import nn
import nagedge

def model():
    torch.manual_seed(0)
    tasks = [nagedge.TaskSpec("gesture", "classification", size=3)]
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), tasks, torch.randn(4, 16)
"""


def steps() -> list[dict[str, Any]]:
    (text,) = re.findall(
        r"^```yaml [^\n]*\n(name: cost\n.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL
    )
    workflow = yaml.safe_load(text)
    assert workflow[True] == "pull_request"  # YAML 1.1 reads the key `on` as true, and GitHub does not mind
    assert set(workflow) == {"name", True, "jobs"}
    (job,) = workflow["jobs"].values()
    assert set(job) == {"runs-on", "container", "steps"}
    return list(job["steps"])


def test_every_step_is_an_action_or_a_script_that_a_shell_reads() -> None:
    for step in steps():
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z]+@v\d+", step["uses"])
            assert set(step) <= {"uses", "with"}
        else:
            subprocess.run(["sh", "-n", "-c", step["run"]], check=True)


def test_its_commands_run_and_the_gate_fails_when_a_step_grew(emulator: Installation, tmp_path: Path) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my/package.py").write_text(MODEL)
    program = tmp_path / "nagedge"
    program.write_text(
        f"#!{sys.executable}\nfrom nagedge.cli import main\nmain()\n"  # what /env/bin/nagedge is
    )
    program.chmod(0o755)
    summary = tmp_path / "summary.md"
    paths = os.pathsep.join([entry or str(Path.cwd()) for entry in sys.path])
    variables = {**os.environ, "GITHUB_STEP_SUMMARY": str(summary), "PYTHONPATH": paths}

    def run(script: str) -> subprocess.CompletedProcess[str]:
        script = script.replace("/env/bin/nagedge", str(program))
        return subprocess.run(
            ["sh", "-e", "-c", script],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )

    scripts = [step["run"] for step in steps() if "run" in step]
    *before, gate = [script for script in scripts if not script.startswith(OF_THE_CONTAINER)]
    assert len(before) == 2
    for script in before:
        done = run(script)
        assert done.returncode == 0, done.stderr
    device = re.findall(r"--device (\S+)", gate)[0]
    released = nagedge.profile(nagedge.load(tmp_path / "bundle"), device=device)
    kept, less = released.counts  # inference as it was; a step as if the last release had executed less of it
    assert (kept.name, less.name) == ("infer", "train")
    median = replace(less.median, instructions=int(less.median.instructions * 0.95))
    cost = replace(released, counts=(kept, replace(less, median=median)))
    (tmp_path / "cost.json").write_text(cost.to_json())
    done = run(gate)
    assert done.returncode == 1, done.stderr
    lines = summary.read_text().splitlines()
    assert lines[0] == "### Against the baseline, 1 % allowed"
    assert any(
        line.startswith(f"| grew | train | {device} | any-any-onnxruntime-fp32-train |") for line in lines
    )
    assert any(
        line.startswith(f"| same | infer | {device} | any-any-onnxruntime-fp32-train |") for line in lines
    )
