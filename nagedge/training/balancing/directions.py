"""From the gradients of the tasks to one direction: TorchJD's aggregators, GradNorm and DB-MTL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from nagedge.errors import ConfigurationError
from nagedge.specs import TaskSpec
from nagedge.training.balancing.config import BalancingConfig
from nagedge.training.balancing.library import make_aggregator, pose_again
from nagedge.training.balancing.methods import METHODS
from nagedge.training.balancing.state import BalancerState, module_state, restore_module

if TYPE_CHECKING:
    from torchjd.aggregation import Aggregator

__all__ = ["DbMtl", "Direction", "GradNorm", "LibraryDirection", "make_direction"]


class Direction(Protocol):
    """One method."""

    def combine(self, rows: Tensor, losses: Tensor, present: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the direction ``[n]`` and the weights ``[m]`` that combine the rows to it.

        Args:
            rows: ``[m, n]``, the gradients of the tasks in ``present``. Without logarithms: see ``DbMtl``.
            losses: ``[m]``, their losses, weighted.
            present: m indices of tasks, rising.
        """

    def state(self) -> BalancerState:
        """Return what a new one needs to go on."""


def make_direction(config: BalancingConfig, tasks: Sequence[TaskSpec], state: BalancerState) -> Direction:
    """Return the method of a ``[balancing]`` table.

    Raises:
        ConfigurationError: as :func:`nagedge.training.balancing.library.make_aggregator`.
    """
    if config.method == "gradnorm":
        return GradNorm(len(tasks), config.option("alpha"), config.option("lr"), state)
    if config.method == "db_mtl":
        return DbMtl(len(tasks), config.option("beta"), config.option("beta_power"), state)
    return LibraryDirection(config, tasks, state)


class LibraryDirection:
    """An aggregator of TorchJD; one for each set of present tasks, as their states are of fixed size."""

    def __init__(self, config: BalancingConfig, tasks: Sequence[TaskSpec], state: BalancerState) -> None:
        self._config, self._tasks = config, tasks
        self._made: dict[tuple[int, ...], Aggregator] = {}
        self._of(tuple(range(len(tasks))))  # wrong options are refused before the first step
        sets = {name.partition("/")[0] for name in (*state.tensors, *state.values)}
        for key in sets:
            part = self._of(tuple(int(index) for index in key.split("-")))
            restore_module(part, state.under(f"{key}/"))
            pose_again(part)

    def combine(self, rows: Tensor, losses: Tensor, present: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See :class:`Direction`; weights of methods that have none are those of the nearest combination."""
        del losses
        aggregator = self._of(tuple(present))
        try:
            return self._combined(aggregator, rows)
        except ValueError as error:
            names = ", ".join(self._tasks[index].name for index in present)
            raise ConfigurationError(
                f"balancing method {self._config.method!r} cannot combine the {len(present)} tasks with labels in this"
                f" batch ({names}): {error} Choose a method without such a limit."
            ) from None

    def _combined(self, aggregator: Aggregator, rows: Tensor) -> tuple[Tensor, Tensor]:
        from torchjd.aggregation import WeightedAggregator

        if isinstance(aggregator, WeightedAggregator):
            weights: Tensor = aggregator.weighting(rows).to(rows.dtype)
            return weights @ rows, weights
        direction = aggregator(rows)
        gramian = (rows @ rows.T).double()
        return direction, (torch.linalg.pinv(gramian) @ (rows @ direction).double()).to(rows.dtype)

    def state(self) -> BalancerState:
        """See :class:`Direction`."""
        found = BalancerState()
        if not METHODS[self._config.method].stateful:
            return found
        for present, aggregator in self._made.items():
            found |= module_state(aggregator).prefixed("-".join(map(str, present)) + "/")
        return found

    def _of(self, present: tuple[int, ...]) -> Aggregator:
        if present not in self._made:
            self._made[present] = make_aggregator(self._config, [self._tasks[index] for index in present])
        return self._made[present]


class GradNorm:
    """Weights that make the tasks train at one rate (Chen et al. 2018, equations 1 and 2).

        G_i = w_i |g_i|,  r_i = (L_i / L_i(0)) / mean_j (L_j / L_j(0)),  goal_i = mean_j G_j * r_i ** alpha
        w_i <- w_i - lr * sign(G_i - goal_i) * |g_i| / mean_j |g_j|,   then sum_i w_i = number of tasks

    The division by the mean norm, which the paper lacks, makes ``lr`` independent of the size of the gradients.

    Args:
        tasks: how many. alpha: strength of the pull towards slow tasks. lr: of the weights, > 0.
        state: of the one whose work this goes on with.
    """

    SMALLEST = 0.01

    def __init__(self, tasks: int, alpha: float, lr: float, state: BalancerState) -> None:
        self._alpha, self._lr = alpha, lr
        self._weights = state.tensors.get("weights", torch.ones(tasks))
        self._first = state.tensors.get("first", torch.full((tasks,), float("nan")))

    def combine(self, rows: Tensor, losses: Tensor, present: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See :class:`Direction`; the weights of this step are those from before it."""
        index = torch.tensor(present)
        weights = self._weights.to(rows)[index]
        first = self._first.to(rows)[index]
        first = torch.where(first.isnan(), losses.clamp_min(1e-12), first)
        norms = rows.norm(dim=1)
        rate = losses / first
        sizes = weights * norms
        goal = sizes.mean() * (rate / rate.mean().clamp_min(1e-12)).clamp_min(0) ** self._alpha
        moved = weights - self._lr * torch.sign(sizes - goal) * norms / norms.mean().clamp_min(1e-30)
        moved = moved.clamp_min(self.SMALLEST)
        moved = moved * (weights.sum() / moved.sum())
        self._first = self._first.index_copy(0, index, first.to(self._first))
        self._weights = self._weights.index_copy(0, index, moved.to(self._weights))
        return weights @ rows, weights

    def state(self) -> BalancerState:
        """See :class:`Direction`."""
        return BalancerState({"weights": self._weights.clone(), "first": self._first.clone()})


class DbMtl:
    """Dual balancing (Lin et al. 2023): gradients of the logarithms of the losses, brought to one size.

        g_i = grad log L_i = (grad L_i) / L_i
        m_i <- b m_i + (1 - b) g_i,  b = beta / step ** beta_power
        direction = max_j |m_j| * sum_i m_i / |m_i|

    With ``beta = 0`` (the default) there is no average over steps; the features of different batches do not allow one.

    Args:
        tasks: how many. beta, beta_power: of the average.
        state: of the one whose work this goes on with.
    """

    def __init__(self, tasks: int, beta: float, beta_power: float, state: BalancerState) -> None:
        del tasks
        self._beta, self._power = beta, beta_power
        self._means = {int(name): value for name, value in state.tensors.items()}
        self._steps = int(state.values.get("steps", "0"))

    def combine(self, rows: Tensor, losses: Tensor, present: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See :class:`Direction`."""
        inverse = 1 / losses.clamp_min(1e-8)
        means = rows * inverse[:, None]
        self._steps += 1
        if self._beta:
            beta = self._beta / self._steps**self._power
            for place, task in enumerate(present):
                if task in self._means:
                    means[place] = beta * self._means[task].to(rows) + (1 - beta) * means[place]
                self._means[task] = means[place].clone()
        norms = means.norm(dim=1)
        factors = torch.where(norms > 0, norms.max() / norms.clamp_min(1e-30), torch.zeros_like(norms))
        return factors @ means, factors * inverse

    def state(self) -> BalancerState:
        """See :class:`Direction`."""
        tensors = {str(task): value.clone() for task, value in self._means.items()}
        return BalancerState(tensors, {"steps": str(self._steps)})
