"""Runs whose tasks share a trunk otherwise than by its last features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nagedge.data.examples import DataSplits
from nagedge.errors import ConfigurationError
from nagedge.training.events import EpochFinished
from nagedge.training.fit import train
from nagedge.training.run import Run

MakeRun = Callable[..., Run]
MakeData = Callable[..., DataSplits]

MODELS: dict[str, dict[str, Any]] = {
    "stages": {"trunk": "mlp", "hidden": [8, 6], "stages": {"level": 1}, "dropout": 0.1},
    "cross_stitch": {"trunk": "mlp", "hidden": [8, 6], "sharing": "cross_stitch"},
    "mmoe": {"trunk": "mlp", "hidden": [8, 6], "sharing": "mmoe", "experts": 3},
}


@pytest.mark.parametrize(
    ("way", "method"),
    [
        ("stages", "imtl_g"),
        ("cross_stitch", "sum"),
        ("cross_stitch", "imtl_g"),
        ("mmoe", "sum"),
        ("mmoe", "accumulation"),
    ],
)
def test_they_learn_and_their_checkpoints_are_the_same_model(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData, way: str, method: str
) -> None:
    scope = {"scope": "trunk"} if method == "imtl_g" else {}
    run = make_run(model=MODELS[way], balancing={"method": method, **scope}, schedule={"epochs": 30})
    seen: list[EpochFinished] = []
    checkpoint = train(
        run,
        out=tmp_path,
        data=make_data(),
        progress=lambda event: seen.append(event) if isinstance(event, EpochFinished) else None,
    )
    assert seen[-1].validation_losses["kind"] < 0.8 * seen[0].validation_losses["kind"]
    assert len(seen[-1].cosines) == 3
    params = checkpoint.params()
    model = checkpoint.build_model()
    assert type(model).__name__ != "MultiTaskModel"
    assert all(torch.equal(value, params[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("way", MODELS)
def test_the_scope_features_has_no_meaning_there_and_is_refused(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData, way: str
) -> None:
    run = make_run(model=MODELS[way], balancing={"method": "imtl_g"})
    with pytest.raises(ConfigurationError) as error:
        train(run, out=tmp_path, data=make_data())
    text = str(error.value)
    assert text.startswith("balancing scope 'features' needs a model that returns features, but ")
    assert "Set balancing.scope to 'trunk'" in text
