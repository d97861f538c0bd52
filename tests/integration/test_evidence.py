"""The command that measures the evidence, at a size of seconds: every experiment runs and writes its part."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from tests.evidence import __main__ as evidence, training

training.TEXT["data"]["path"] = sys.argv[1]
evidence.main(["--toy", "--processes", "1", "--out", sys.argv[2]])
"""


def test_every_experiment_at_toy_size(tmp_path: Path) -> None:
    domains, moods = ("tweets", "amazon", "movie", "nyt"), ("negative", "neutral", "positive")
    lines = [
        f"the {moods[i % 3]} {domains[i % 4]} number {i},{domains[i % 4]},{moods[i % 3]},{i % 5}"
        for i in range(200)
    ]
    (tmp_path / "made-up.csv").write_text("\n".join(["text,domain,polarity,intensity", *lines]) + "\n")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "made-up.csv"), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out/evidence.md").read_text()
    for text in (
        "| Nesterov | 1 |",
        "| one network, IMTL-G | 1 |",
        "| IMTL-G, features |",
        "| Adam |",
        "| `famo` |",
    ):
        assert text in page, text
    assert "| digits, two heads that draw 784 pixels | shares 1, 1/2, 1/4 |" in page
    for part in ("optimizers", "sharing", "scales", "head", "cost"):
        assert json.loads((tmp_path / f"out/evidence/{part}.json").read_text())["found"]
    for figure in ("optimizers", "head"):
        assert (tmp_path / f"out/evidence/{figure}.svg").stat().st_size > 1000
