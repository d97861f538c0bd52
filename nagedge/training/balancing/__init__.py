"""How several losses become one step: sums, TorchJD's methods, and three of our own."""

from __future__ import annotations

from nagedge.errors import ConfigurationError, nearest_name
from nagedge.training.balancing.accumulation import AccumulationBalancer
from nagedge.training.balancing.balancer import Balanced, Balancer, Context
from nagedge.training.balancing.config import BalancingConfig
from nagedge.training.balancing.from_gradients import GradientBalancer
from nagedge.training.balancing.from_losses import LossBalancer, SumBalancer
from nagedge.training.balancing.methods import METHODS
from nagedge.training.balancing.state import BalancerState

__all__ = ["Balanced", "Balancer", "BalancerState", "BalancingConfig", "Context", "make_balancer"]


def make_balancer(config: BalancingConfig, context: Context, state: BalancerState) -> Balancer:
    """Return the balancer of a ``[balancing]`` table, in the given state.

    Raises:
        ConfigurationError: the table does not fit the tasks, the model or the machine.
    """
    names = [task.name for task in context.tasks]
    for name in config.preference:
        if name not in names:
            raise ConfigurationError(
                f"balancing.preference names {name!r}, which is no task of the run; the tasks are {', '.join(names)}."
                + nearest_name(name, names)
            )
    if config.method == "sum":
        return SumBalancer(context)
    family = METHODS[config.method].family
    if family == "losses":
        return LossBalancer(config, context, state)
    return (GradientBalancer if family == "gradients" else AccumulationBalancer)(config, context, state)
