"""The balancing of an exported step on the host: from a run's balancer to a step's state, and TorchJD as its reference.

:mod:`nagedge.graphs.balancing` writes the methods as portable operations; verification holds those against what
TorchJD's own classes compute here from the same state.
"""

# ruff: noqa: SLF001 - TorchJD has no public names for most of its state

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nagedge.specs import TaskSpec
from nagedge.step_rules import BALANCING, StepRules
from nagedge.training.balancing.config import BalancingConfig
from nagedge.training.balancing.library import make_scalarizer
from nagedge.training.balancing.methods import METHODS
from nagedge.training.balancing.state import BalancerState

__all__ = ["ReferenceBalancing", "pcgrad_factors", "rules_after_run", "state_after_run"]

_LEARNT = {"uncertainty": ("log_variance", "log_var"), "imtl_l": ("log_scale", "log_scale")}
"""Method -> its state in a step, and TorchJD's name for it."""
_ADAM = {"first_moment": "exp_avg", "second_moment": "exp_avg_sq"}


def rules_after_run(balancing: str, restart: str, config: BalancingConfig) -> StepRules:
    """Return the rules of a step that goes on after a run: with the run's options, if it had the same method."""
    known = BALANCING.get(balancing, {}) if config.method == balancing else {}
    options = {name: config.option(name) for name in known if name in METHODS[balancing].options}
    return StepRules(balancing, options, restart)


def state_after_run(rules: StepRules, config: BalancingConfig, state: BalancerState) -> dict[str, Tensor]:
    """Return the entries of :meth:`StepRules.balancing_state` that a run of the same method ended with.

    A step's "epoch" is a window of its own length, so of DWA only the two last mean losses are taken over.
    """
    if config.method != rules.balancing or "last" not in state.tensors:
        return {}
    found = {"last": state.tensors["last"]}
    module = state.under("module//").tensors
    if rules.balancing in _LEARNT:
        name, theirs = _LEARNT[rules.balancing]
        found[name] = module[theirs]
    elif rules.balancing == "dwa" and "_previous_averages[1]" in module:
        found |= {"older": module["_previous_averages[0]"], "newer": module["_previous_averages[1]"]}
    elif rules.balancing == "famo":
        found["logits"] = module["_w"]
        adam = state.under("adam/").tensors
        if adam:
            found |= {name: adam[theirs] for name, theirs in _ADAM.items()}
            found["count"] = adam["step"].reshape(1)
    return {name: value.detach().clone().to(torch.float32) for name, value in found.items()}


def pcgrad_factors(products: Tensor) -> Tensor:
    """Return PCGrad's factor of every gradient, ``[tasks]``, conflicts taken in the order of the tasks.

    TorchJD takes them in random order, which for two tasks is the same.

    Args:
        products: inner products of the gradients, ``[tasks, tasks]``.
    """
    count = len(products)
    factors = torch.zeros_like(products[0])
    for task in range(count):
        own = torch.eye(count, dtype=products.dtype)[task]
        for other in range(count):
            product = products[other] @ own
            if other != task and product < 0 and products[other, other] > 0:
                own[other] -= product / products[other, other]
        factors += own
    return factors


class ReferenceBalancing:
    """A method on losses, computed by TorchJD's class.

    Args:
        rules: the method. tasks: in the order of every vector ``[tasks]``.
        state: by the names of :meth:`StepRules.balancing_state`.
    """

    def __init__(self, rules: StepRules, tasks: Sequence[TaskSpec], state: Mapping[str, Tensor]) -> None:
        options = {name: value for name, value in rules.options.items() if name != "window"}
        self._rules = rules
        self._scalarizer: Any = make_scalarizer(
            BalancingConfig(method=rules.balancing, options=dict(options)), tasks
        )
        self._last = state["last"].clone()
        self._load(state)

    def factors(self, losses: Tensor, flags: Tensor) -> Tensor:
        """Return the factor of every loss, ``[tasks]``; what is learnt takes its step.

        Args:
            losses: ``[tasks]``, with their tasks' weights, detached. flags: ``[tasks]``, 1 for a task with labels.
        """
        self._last = torch.where(flags > 0, losses, self._last)
        values = self._last.clone().requires_grad_()
        learnt = list(self._scalarizer.parameters()) if self._rules.balancing in _LEARNT else []
        slopes = torch.autograd.grad(self._scalarizer(values), [values, *learnt])
        with torch.no_grad():
            for param, slope in zip(learnt, slopes[1:], strict=True):
                param.sub_(self._rules.option("lr") * flags * slope)
        if self._rules.balancing == "dwa" and self._scalarizer._n_batches >= self._rules.option("window"):
            self._scalarizer.step()
        return slopes[0] * flags

    def follow_up(self, losses: Tensor, flags: Tensor) -> None:
        """Tell FAMO the losses of the same batch after the update."""
        self._scalarizer.update(torch.where(flags > 0, losses, self._last))

    def state(self) -> dict[str, Tensor]:
        """Return what the next step goes on with."""
        own, zeros = self._scalarizer, torch.zeros_like(self._last)
        found = {"last": self._last}
        if self._rules.balancing in _LEARNT:
            name, theirs = _LEARNT[self._rules.balancing]
            found[name] = getattr(own, theirs)
        elif self._rules.balancing == "dwa":
            averages = [zeros, zeros, *own._previous_averages]
            found |= {
                "older": averages[-2],
                "newer": averages[-1],
                "sum": zeros if own._loss_sum is None else own._loss_sum,
            }
            found["count"] = torch.tensor([float(own._n_batches)])
        else:
            adam = own._optimizer.state[own._w]
            found["logits"] = own._w
            found |= {name: adam[theirs] for name, theirs in _ADAM.items()} | {
                "count": adam["step"].reshape(1)
            }
        return {name: value.detach().clone() for name, value in found.items()}

    def _load(self, state: Mapping[str, Tensor]) -> None:
        own = self._scalarizer
        if self._rules.balancing in _LEARNT:
            name, theirs = _LEARNT[self._rules.balancing]
            getattr(own, theirs).data.copy_(state[name])
        elif self._rules.balancing == "dwa":
            count = int(state["count"])
            own._n_batches, own._loss_sum = count, state["sum"].clone() if count else None
            known = [state[name].clone() for name in ("older", "newer") if bool(state[name].any())]
            own._previous_averages = known
        else:
            own._w.data.copy_(state["logits"])
            option = self._rules.option
            adam = torch.optim.Adam([own._w], lr=option("lr"), weight_decay=option("weight_decay"))
            moments = {theirs: state[name].clone() for name, theirs in _ADAM.items()}
            adam.state[own._w] = moments | {"step": state["count"].reshape(()).clone()}
            own._optimizer = adam
