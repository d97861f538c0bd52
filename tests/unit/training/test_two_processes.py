"""Two processes over gloo give the weights of one with the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nagedge.training.checkpoint import Checkpoint

PROGRAM = """
import sys
import numpy as np
from nagedge.training.fit import train
from nagedge.training.run import parse_run

method, devices, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
run = parse_run({
    "data": {"source": "table", "path": folder + "/t.csv", "columns": ["a", "b", "c"]},
    "model": {"trunk": "mlp", "hidden": [16, 8]},
    "tasks": {
        "kind": {"kind": "classification", "size": 3, "missing": True},
        "level": {"kind": "regression", "weight": 0.5},
        "delay": {"kind": "regression", "missing": True},
    },
    "balancing": {"method": method},
    "optimizer": {"lr": 0.05, "weight_decay": 1e-3, "clip_norm": 1.0},
    "schedule": {"epochs": 3},
    "batch_size": 16,
}, where="test")
strategy = "ddp" if devices > 1 else "auto"
train(run, out=f"{folder}/{method}-{devices}", devices=devices, accelerator="cpu", strategy=strategy)
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


@pytest.mark.parametrize("method", ["sum", "uncertainty"])
def test_the_weights_are_those_of_one_process(method: str, tmp_path: Path) -> None:
    write(tmp_path / "t.csv")
    (tmp_path / "program.py").write_text(PROGRAM)
    for devices in ("1", "2"):
        command = [sys.executable, str(tmp_path / "program.py"), method, devices, str(tmp_path)]
        subprocess.run(command, check=True, timeout=300)
    one, two = (Checkpoint.load(tmp_path / f"{method}-{devices}") for devices in (1, 2))
    assert one.state.step == two.state.step == 21
    for name, value in one.params().items():
        np.testing.assert_allclose(two.params()[name].numpy(), value.numpy(), rtol=0, atol=1e-6, err_msg=name)
    for a, b in zip(one.state.history, two.state.history, strict=True):
        assert b.losses == pytest.approx(a.losses, abs=1e-5)


def test_methods_that_need_all_gradients_refuse_two_processes(tmp_path: Path) -> None:
    write(tmp_path / "t.csv")
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), "pcgrad", "2", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "Train in one process" in done.stderr
