"""The MLflow log holds a run, in a folder, read back by MLflow itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nagedge.data.examples import DataSplits
from nagedge.errors import ConfigurationError
from nagedge.training.fit import train
from nagedge.training.mlflow_log import mlflow_log
from nagedge.training.run import Run


def test_the_log_holds_the_run(
    tmp_path: Path, make_run: Callable[..., Run], make_data: Callable[..., DataSplits]
) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="mlflow is not installed")
    write = mlflow_log(tmp_path / "log")
    checkpoint = train(make_run(), out=tmp_path / "c", data=make_data(), progress=write)
    client = tracking.MlflowClient(tracking_uri=(tmp_path / "log").as_uri())
    experiment = client.get_experiment_by_name("nagedge")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    weights = client.get_metric_history(run.info.run_id, "weight/level")
    assert [(entry.step, entry.value) for entry in weights] == [(6, 0.5), (12, 0.5), (18, 0.5)]
    assert run.data.metrics["test_r2/level"] == pytest.approx(checkpoint.state.test["level"]["r2"])
    assert {"loss/kind", "validation_loss/tags", "cosine/kind-level", "accuracy/kind", "lr"} <= set(
        run.data.metrics
    )


def test_without_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(ConfigurationError, match=r"needs mlflow.*pip install 'nagedge\[mlflow\]'"):
        mlflow_log(tmp_path / "log")


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    pytest.importorskip("mlflow.tracking", reason="mlflow is not installed")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"MLflow log cannot be written to '.*file/log'"):
        mlflow_log(tmp_path / "file" / "log")
