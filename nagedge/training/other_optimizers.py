"""SAM and schedule-free SGD, by the libraries that have them; both are optional.

Schedule-free (Defazio et al. 2024) trains at points y between two sequences, z of plain steps and their average x,
which is the model: wherever it is measured or stored it is taken to x, and BatchNorm's statistics, which belong to y,
are estimated anew. SAM (Foret et al. 2021) takes the gradient where the loss is highest nearby: two passes a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nagedge.errors import ConfigurationError
from nagedge.training.balancing import BalancingConfig
from nagedge.training.balancing.balancer import Context, all_losses
from nagedge.training.balancing.methods import METHODS
from nagedge.training.batches import Batch, DeviceExamples
from nagedge.training.optimizer_config import OptimizerConfig

__all__ = ["Sharpness", "at_average", "averaging_state", "restore_averaging", "schedule_free"]

STATISTICS_EXAMPLES = 2048
"""BatchNorm's statistics are estimated on so many training examples."""
_NUMBERS = ("k", "weight_sum", "lr_max")


def schedule_free(config: OptimizerConfig, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return schedule-free SGD.

    Raises:
        ConfigurationError: the library is not installed.
    """
    try:
        from schedulefree import SGDScheduleFree
    except ImportError:
        raise ConfigurationError(
            "optimizer.method 'schedule_free' needs schedulefree (Apache-2.0), which is not installed:"
            " pip install 'nagedge[schedule-free]'."
        ) from None
    optimizer: torch.optim.Optimizer = SGDScheduleFree(groups, lr=config.lr, momentum=config.momentum)
    return optimizer


def averaging_state(
    optimizer: torch.optim.Optimizer, params: Mapping[str, nn.Parameter]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return z by parameter name, and the numbers of each group."""
    tensors = {
        name: optimizer.state[param]["z"] for name, param in params.items() if "z" in optimizer.state[param]
    }
    numbers = {
        f"{key}.{place}": float(group[key])
        for place, group in enumerate(optimizer.param_groups)
        for key in _NUMBERS
    }
    return tensors, numbers


def restore_averaging(
    optimizer: torch.optim.Optimizer,
    params: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, float],
) -> None:
    """Give a new optimizer, whose parameters are at x, the state that :func:`averaging_state` returned."""
    for name, value in tensors.items():
        optimizer.state[params[name]]["z"] = value.to(params[name].device)
    for place, group in enumerate(optimizer.param_groups):
        for key in _NUMBERS:
            number = numbers.get(f"{key}.{place}", float(group[key]))
            group[key] = int(number) if key == "k" else number


@contextmanager
def at_average(
    optimizer: Any, module: nn.Module, examples: DeviceExamples, batch_size: int
) -> Iterator[None]:
    """Take the model to x, with BatchNorm's statistics estimated there, and back to y."""
    optimizer.eval()
    estimate_statistics(module, examples, batch_size)
    try:
        yield
    finally:
        optimizer.train()


def estimate_statistics(module: nn.Module, examples: DeviceExamples, batch_size: int) -> None:
    """Set the statistics of every BatchNorm to their means over batches of the first training examples."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001
    if not norms:
        return
    others = [part for part in module.modules() if isinstance(part, nn.modules.dropout._DropoutNd)]  # noqa: SLF001
    momenta, was_training = [norm.momentum for norm in norms], module.training
    module.train()
    for part in others:
        part.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    with torch.no_grad():
        for x in torch.split(examples.x[:STATISTICS_EXAMPLES], batch_size):
            if len(x) > 1:
                module(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.train(was_training)


class Sharpness:
    """SAM's first half: to where the loss is highest nearby, the gradient there, and back.

    Args:
        config: the ``[optimizer]`` table. balancing: its table. context: of the balancer.
        groups: the optimizer's, with its parameters.

    Raises:
        ConfigurationError: the library is not installed, several processes, or a balancing method on gradients.
    """

    def __init__(
        self,
        config: OptimizerConfig,
        balancing: BalancingConfig,
        context: Context,
        groups: Sequence[dict[str, Any]],
    ) -> None:
        try:
            from pytorch_optimizer import SAM
        except ImportError:
            raise ConfigurationError(
                "optimizer.sam needs pytorch_optimizer (Apache-2.0), which is not installed:"
                " pip install 'nagedge[sam]'."
            ) from None
        if METHODS[balancing.method].family != "losses" or balancing.method == "famo":
            raise ConfigurationError(
                f"optimizer.sam takes two gradients of one loss, which balancing method {balancing.method!r} does not"
                " have. Set balancing.method to 'sum' or another method on losses, or remove sam."
            )
        if context.fabric.world_size > 1:
            raise ConfigurationError(
                f"optimizer.sam trains in one process, but there are {context.fabric.world_size}. Remove sam, or train"
                " in one."
            )
        self._context = context
        parts = [{"params": group["params"]} for group in groups]
        self._sam = SAM(parts, torch.optim.SGD, rho=config.sam, lr=config.lr)

    def look_around(self, batch: Batch, weights: Tensor) -> None:
        """Replace the gradients in the parameters by those at the highest loss nearby.

        Args:
            batch: that gave the gradients. weights: ``[tasks]``, the factor that each loss had.
        """
        context = self._context
        before = {name: param.detach().clone() for name, param in context.params.items()}
        buffers = {name: buffer.clone() for name, buffer in context.module.named_buffers()}
        self._sam.first_step(zero_grad=True)
        losses = torch.stack(all_losses(context, context.model(batch.x), batch))
        context.fabric.backward((weights * losses).sum())
        with torch.no_grad():
            for name, param in context.params.items():
                param.copy_(before[name])
            for name, buffer in context.module.named_buffers():
                buffer.copy_(buffers[name])
