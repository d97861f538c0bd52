"""The run file of the chosen model."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nagedge.errors import ConfigurationError
from nagedge.fitting.candidates import Candidate
from nagedge.fitting.run_file import fitted_name, to_toml, write_fitted
from nagedge.models.config import ModelConfig
from nagedge.training.run import load_run

RUN = """
output = "runs/first"
[data]
source = "table"
path = "rows.csv"
columns = ["a b", "c\\"d"]
[data.targets]
kind = "klass"
[model]
trunk = "mlp"
hidden = [8]
[tasks.kind]
kind = "classification"
size = 3
[balancing]
method = "constant"
preference = { kind = 0.5 }
"""

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.one_of(
        texts,
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_subnormal=False),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts, values, max_size=4))
def test_what_is_written_is_read_again(document: dict[str, object]) -> None:
    assert tomllib.loads(to_toml(document)) == document


def test_only_model_size_and_output_change(tmp_path: Path) -> None:
    original = tmp_path / "run.toml"
    original.write_text(RUN, encoding="utf-8")
    candidate = Candidate(ModelConfig(trunk="mlp", hidden=[4]))
    out = write_fitted(original, candidate, fitted_name(original), note="smaller")
    assert out == tmp_path / "run.fitted.toml"
    before, after = load_run(original), load_run(out)
    assert after.model == ModelConfig(trunk="mlp", hidden=[4])
    assert after.output == tmp_path / "runs/first-fitted"
    assert before.model_copy(update={"model": after.model, "output": after.output}) == after


def test_elsewhere_its_paths_still_lead_to_the_data(tmp_path: Path) -> None:
    original = tmp_path / "run.toml"
    original.write_text(RUN, encoding="utf-8")
    (tmp_path / "other").mkdir()
    out = write_fitted(original, Candidate(ModelConfig(trunk="mlp")), tmp_path / "other/new.toml")
    assert load_run(out).data.path == tmp_path / "rows.csv"
    assert load_run(out).output == tmp_path / "runs/first-fitted"


def test_the_original_is_not_replaced(tmp_path: Path) -> None:
    original = tmp_path / "run.toml"
    original.write_text(RUN, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is the run file itself"):
        write_fitted(original, Candidate(ModelConfig()), original)
    assert original.read_text(encoding="utf-8") == RUN
