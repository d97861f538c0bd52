"""The run files of the examples: they are valid, and the two lines are found."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from nagedge.training.fit import train
from nagedge.training.run import load_run

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"
RUN_FILES = sorted(EXAMPLES.glob("*.toml"))


def fetch_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch", EXAMPLES / "fetch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_run_files_are_valid_and_in_the_page(path: Path) -> None:
    run = load_run(path)
    assert run.output.parent.name == "runs"  # which git ignores
    page = (EXAMPLES.parent / "guides/examples.md").read_text(encoding="utf-8")
    assert f"{path.name}`" in page
    if run.data.path is not None:
        assert run.data.path.relative_to(EXAMPLES / "data")


def test_the_two_lines_are_found(tmp_path: Path) -> None:
    """y = 2 x + 1 and y = 3 x + 2, to 0.1."""
    shutil.copy(EXAMPLES / "lines.toml", tmp_path)
    (tmp_path / "data").mkdir()
    fetch_module().lines(tmp_path / "data")
    model = train(tmp_path / "lines.toml").build_model()
    x = torch.linspace(-0.9, 0.9, 50)[:, None]
    with torch.no_grad():
        outputs = model(x)
    for name, slope, offset in (("first", 2, 1), ("second", 3, 2)):
        found = np.polyfit(x[:, 0].numpy(), outputs[name][:, 0].numpy(), 1)
        assert found == pytest.approx([slope, offset], abs=0.1)


def test_wine_comes_from_scikit_learn(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    assert fetch_module().wine(tmp_path).endswith("178 rows")
    header = (tmp_path / "wine.csv").read_text().splitlines()[0].split(",")
    assert set(load_run(EXAMPLES / "wine.toml").data.columns) <= set(header)
