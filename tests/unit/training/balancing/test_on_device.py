"""From a run's balancer to an exported step, and the reference of what such a step computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nagedge.data.examples import DataSplits
from nagedge.export import export
from nagedge.runtimes import open_training
from nagedge.training.balancing.on_device import pcgrad_factors
from nagedge.training.fit import train
from nagedge.training.run import Run


def test_pcgrad_of_two_tasks_is_torchjds() -> None:
    from torchjd.aggregation import PCGrad

    generator = torch.Generator().manual_seed(0)
    conflicts = 0
    for _ in range(20):
        rows = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        conflicts += int(rows[0] @ rows[1] < 0)
        torch.testing.assert_close(pcgrad_factors(rows @ rows.T) @ rows, PCGrad()(rows))
    assert 0 < conflicts < 20


@pytest.mark.parametrize("balancing", ["uncertainty", "imtl_l", "dwa", "famo"])
def test_a_step_goes_on_where_the_run_ended(
    balancing: str, tmp_path: Path, make_run: Callable[..., Run], make_data: Callable[..., DataSplits]
) -> None:
    checkpoint = train(
        make_run(balancing={"method": balancing}), out=tmp_path / "checkpoint", data=make_data()
    )
    bundle = export(
        checkpoint, targets="any-any-onnxruntime-fp32-train", out=tmp_path / "bundle", balancing=balancing
    )
    buffers = open_training(bundle).state().buffers
    ended = checkpoint.balancer().tensors
    theirs = {
        "uncertainty": ("log_variance", "module//log_var"), "imtl_l": ("log_scale", "module//log_scale"),
        "dwa": ("newer", "module//_previous_averages[1]"), "famo": ("logits", "module//_w"),
    }[balancing]  # fmt: skip
    np.testing.assert_array_equal(buffers["balancing.last"], ended["last"].numpy())
    np.testing.assert_array_equal(buffers[f"balancing.{theirs[0]}"], ended[theirs[1]].numpy())
    assert [task.weight for task in bundle.manifest.tasks] == [task.weight for task in checkpoint.tasks]
