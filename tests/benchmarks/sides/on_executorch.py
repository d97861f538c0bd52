"""ExecuTorch's training step on its portable kernels, where the package ``executorch`` is installed.

Its joint graph is exported with the loss inside; the update is its own SGD with Nesterov momentum.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from nagedge.errors import RuntimeUnavailableError
from tests.benchmarks.sides.eager import trained_model
from tests.benchmarks.workloads import Workload


class WithLoss(nn.Module):
    """The model and the sum of its tasks' mean losses."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, kind: Tensor, level: Tensor) -> Tensor:
        outputs = self.model(x)
        loss: Tensor = nn.functional.cross_entropy(outputs["kind"], kind)
        if "level" in outputs:
            loss = loss + nn.functional.mse_loss(outputs["level"].reshape(level.shape), level)
        return loss


def available() -> str:
    try:
        return f"executorch {metadata.version('executorch')}"
    except metadata.PackageNotFoundError:
        raise RuntimeUnavailableError("executorch is not installed: `uv pip install executorch`.") from None


def prepare(workload: Workload, folder: Path) -> Callable[[], None]:
    del folder
    from executorch.exir import to_edge
    from executorch.extension import training
    from torch.export.experimental import _export_forward_backward

    targets = {name: torch.from_numpy(value) for name, value in workload.targets.items()}
    level = targets.get("level", torch.zeros(len(workload.example)))
    batch = (workload.example, targets["kind"], level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        joint = _export_forward_backward(
            torch.export.export(WithLoss(trained_model(workload)), batch, strict=True)
        )
        program = to_edge(joint).to_executorch()
        module = training._load_for_executorch_for_training_from_buffer(program.buffer)
        module.forward_backward("forward", batch)  # its parameters are known only after it
        optimizer = training.get_sgd_optimizer(module.named_parameters(), 1e-4, 0.9, 0.0, 1e-4, True)

    def step(program: object = program) -> None:  # which the module reads, and does not keep
        del program
        module.forward_backward("forward", batch)
        optimizer.step(module.named_gradients())

    return step
