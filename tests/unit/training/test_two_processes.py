"""Two processes over gloo give the weights of one with the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nagedge
from nagedge.training.checkpoint import Checkpoint
from nagedge.training.fit import train
from nagedge.training.run import parse_run

PROGRAM = """
import json, sys
from nagedge.training.fit import train
from nagedge.training.run import parse_run

run = parse_run(json.load(open(sys.argv[1])), where="test")
train(run, out=sys.argv[2], devices=2, accelerator="cpu", strategy="ddp")
"""


def write(path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["a,b,c,kind,level,delay"]
    for _ in range(160):
        a, b, c = rng.standard_normal(3)
        kind = str(int(np.argmax([a, b, c]))) if rng.random() < 0.7 else ""
        delay = f"{a + c:.4f}" if rng.random() < 0.5 else ""
        lines.append(f"{a:.5f},{b:.5f},{c:.5f},{kind},{a - b:.5f},{delay}")
    path.write_text("\n".join(lines) + "\n")


def test_the_weights_are_those_of_one_process(tmp_path: Path) -> None:
    """With labels missing unevenly, and a balancer that learns from the losses of the whole batch."""
    write(tmp_path / "t.csv")
    document = {
        "data": {"source": "table", "path": str(tmp_path / "t.csv"), "columns": ["a", "b", "c"]},
        "model": {"trunk": "mlp", "hidden": [16, 8]},
        "tasks": {
            "kind": {"kind": "classification", "size": 3, "missing": True},
            "level": {"kind": "regression", "weight": 0.5},
            "delay": {"kind": "regression", "missing": True},
        },
        "balancing": {"method": "uncertainty"},
        "optimizer": {"lr": 0.05, "weight_decay": 1e-3, "clip_norm": 1.0},
        "schedule": {"epochs": 3},
        "batch_size": 16,
    }
    (tmp_path / "run.json").write_text(json.dumps(document))
    (tmp_path / "program.py").write_text(PROGRAM)
    subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "run.json"), str(tmp_path / "two")],
        check=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(nagedge.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )
    one, two = (
        train(parse_run(document, where="test"), out=tmp_path / "one"),
        Checkpoint.load(tmp_path / "two"),
    )
    assert one.state.step == two.state.step == 21
    for name, value in one.params().items():
        np.testing.assert_allclose(two.params()[name].numpy(), value.numpy(), rtol=0, atol=1e-6, err_msg=name)
    for a, b in zip(one.state.history, two.state.history, strict=True):
        assert b.losses == pytest.approx(a.losses, abs=1e-5)
        assert b.weights == pytest.approx(a.weights, abs=1e-5)
