"""One Nesterov training step as one graph: forward, losses, gradients and update.

    (inputs, targets, sample weights, lr, momentum, weight decay, parameters, momentum buffers, buffers)
        -> (loss, task losses, new parameters, new momentum buffers, new buffers)

The gradients are taken by :func:`torch.func.grad_and_value` and decomposed into portable ATen operators
(:mod:`nagedge.graphs.decompositions`), so that no runtime's own differentiation is ever needed. Frozen parameters are
constants of the graph and nothing is computed for their gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import grad_and_value

from nagedge.graphs.balancing import Batch, follow_up, objective
from nagedge.graphs.cleanup import clean
from nagedge.graphs.decompositions import decomposition_table
from nagedge.graphs.features import divide
from nagedge.graphs.forward import TRACED_BATCH, FixedBatchError, ForwardGraph, trace
from nagedge.graphs.graph_modules import graph_module
from nagedge.graphs.liveness import DEFAULT_LIMITS, Limits
from nagedge.graphs.restart import RestartTest
from nagedge.graphs.update import nesterov_update
from nagedge.specs import BATCH, TaskSpec, TensorSpec
from nagedge.step_rules import BALANCING_PREFIX, PLAIN, RESTART_PREFIX, StepRules, entries_under
from nagedge.tasks import target_spec
from nagedge.training.nesterov import is_decayed

__all__ = ["StepGraph", "select_outputs", "trace_train_step"]


@dataclass(frozen=True)
class StepGraph:
    """A traced training step.

    Attributes:
        module: called with one tensor an entry of ``inputs``, then the tensors of ``constants``.
        inputs: every run-time input with its name in the artifact, dtype and shape.
        outputs: the artifact's name of every output, in order.
        constants: frozen parameters, buffers and constants, by their name in the model.
        trainable: names of the trained parameters.
        decayed: those of them to which weight decay applies.
        updated_buffers: names of the buffers that are part of the training state.
        batch: ``None`` for a symbolic batch, else its only size.
        traced: as ``module``, with ``gradient.<name>`` of every trained parameter as further outputs.
        deferred: operators that were left whole, for :func:`nagedge.graphs.specialization.specialize`.
        tasks: what the losses were made of, for formats that evaluate too.
        momentum, weight_decay: defaults, for formats that hold them as constants.
        rules: how the losses become one, and when momentum starts again.
        rule_state: what that begins with: the values of its buffers, by name.
        rows: the batch size that memory is planned for.
        limits: how much may be computed again instead of kept, where a backend does that.
    """

    module: fx.GraphModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Tensor]
    trainable: tuple[str, ...]
    decayed: frozenset[str]
    updated_buffers: tuple[str, ...]
    batch: int | None
    traced: fx.GraphModule
    deferred: frozenset[Any] = frozenset()
    tasks: tuple[TaskSpec, ...] = ()
    momentum: float = 0.9
    weight_decay: float = 0.0
    rules: StepRules = PLAIN
    rule_state: Mapping[str, Tensor] = field(default_factory=dict)
    rows: int = TRACED_BATCH
    limits: Limits = DEFAULT_LIMITS

    @property
    def all_outputs(self) -> tuple[str, ...]:
        """The names of the outputs of ``traced``."""
        return (*self.outputs, *(f"gradient.{name}" for name in self.trainable))


def trace_train_step(
    forward: ForwardGraph,
    state: Mapping[str, Tensor],
    trainable: Sequence[str],
    tasks: Sequence[TaskSpec],
    *,
    overrides: Mapping[Any, Callable[..., Any]] | None = None,
    deferred: Collection[Any] = (),
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    rules: StepRules = PLAIN,
) -> StepGraph:
    """Trace the training step of ``forward`` for the parameters named in ``trainable``.

    Args:
        forward: the forward graph (traced with BatchNorm's training statistics under the policy ``train``).
        state: every tensor that the graph reads, by name, float32 where floating.
        trainable: names of the parameters to train.
        tasks: the tasks, in the order of the graph's outputs.
        overrides: a backend's own decompositions.
        deferred: operators to leave whole, because backends decompose them in different ways.
        momentum, weight_decay: defaults to remember; the traced step takes them as inputs.
        rules: how the losses become one, and when momentum starts again.

    Raises:
        ConfigurationError: balancing compares gradients, but the tasks share nothing that is trained.
        FixedBatchError: the forward graph's batch is symbolic, but its gradient's cannot be.
    """
    data = [*forward.inputs, *_target_specs(tasks), TensorSpec("sample_weight", "float32", (BATCH,))]
    scalars = [TensorSpec(name, "float32", ()) for name in ("lr", "momentum", "weight_decay")]
    frozen = [
        name for name in forward.state_names if name not in set(trainable) | set(forward.updated_buffers)
    ]
    decayed = frozenset(name for name in trainable if is_decayed(name, state[name]))
    forward = forward.prepared()
    graph = divide(forward, trainable) if rules.balancing == "pcgrad" else forward
    own_state = rules.state(tasks)
    buffer_names = (*forward.updated_buffers, *own_state)

    def step(*flat: Tensor) -> list[Tensor]:
        values = iter(flat)

        def take(names: Sequence[str]) -> dict[str, Tensor]:
            return {name: next(values) for name in names}

        inputs = list(take([spec.name for spec in forward.inputs]).values())
        targets = take([task.name for task in tasks])
        sample_weight, lr, momentum, weight_decay = (next(values) for _ in range(4))
        params, velocities = take(trainable), take(trainable)
        buffers = take(buffer_names)
        constants = dict(zip(frozen, values, strict=True))
        batch = Batch(inputs, targets, sample_weight)
        own = {name: buffers[name] for name in own_state}
        balancing = entries_under(BALANCING_PREFIX, own)

        def loss(trained: dict[str, Tensor]) -> tuple[Tensor, tuple[Any, ...]]:
            found = objective(rules, graph, tasks, constants | buffers | trained, batch, balancing)
            return found.value, (found.total, found.by_task, found.buffers, found.state)

        followed, (_, (total, by_task, new_buffers, remembered)) = grad_and_value(loss, has_aux=True)(params)
        gradients = [followed[name] for name in trainable]
        restart = RestartTest(rules, momentum, total, entries_under(RESTART_PREFIX, own))
        new_params, new_velocities = nesterov_update(
            trainable, list(params.values()), gradients, list(velocities.values()), decayed=decayed, lr=lr,
            momentum=momentum, weight_decay=weight_decay, restarts=None if rules.restart == "none" else restart,
        )  # fmt: skip
        if rules.balancing == "famo":
            learnt = constants | buffers | dict(zip(trainable, new_params, strict=True))
            remembered |= follow_up(rules, forward, tasks, learnt, batch, balancing | remembered)
        kept = balancing | remembered
        new_buffers |= {f"{BALANCING_PREFIX}{name}": value for name, value in kept.items()}
        new_buffers |= {f"{RESTART_PREFIX}{name}": value for name, value in restart.state().items()}
        return [
            total,
            *(by_task[task.name] for task in tasks),
            *new_params,
            *new_velocities,
            *(new_buffers[name] for name in buffer_names),
            *gradients,
        ]

    def state_spec(role: str, name: str) -> TensorSpec:
        return TensorSpec(
            f"{role}.{name}", str(state[name].dtype).removeprefix("torch."), tuple(state[name].shape)
        )

    specs = [
        *data,
        *scalars,
        *(state_spec("params", name) for name in trainable),
        *(state_spec("momentum", name) for name in trainable),
        *(state_spec("buffers", name) for name in forward.updated_buffers),
        *(TensorSpec(f"buffers.{name}", "float32", (len(first),)) for name, first in own_state.items()),
    ]
    arguments = [_example(spec) for spec in specs] + [state[name] for name in frozen]
    dynamic = [BATCH in spec.shape for spec in specs] + [False] * len(frozen)
    table = decomposition_table(overrides or ())
    for operator in deferred:
        table.pop(operator, None)
    module, symbolic = trace(
        step, arguments, dynamic, batch=forward.batch, decompositions=table, functional=True
    )
    if forward.batch is None and not symbolic:
        raise FixedBatchError("the training step fixes its batch size")
    clean(module, differentiated=True)
    outputs = [
        "loss",
        *(f"loss.{task.name}" for task in tasks),
        *(f"next.params.{name}" for name in trainable),
        *(f"next.momentum.{name}" for name in trainable),
        *(f"next.buffers.{name}" for name in buffer_names),
    ]
    return StepGraph(
        select_outputs(module, range(len(outputs))),
        tuple(specs),
        tuple(outputs),
        {name: state[name] for name in frozen},
        tuple(trainable),
        decayed,
        buffer_names,
        forward.batch,
        module,
        frozenset(deferred),
        tuple(tasks),
        momentum,
        weight_decay,
        rules,
        {name: torch.tensor(first) for name, first in own_state.items()},
    )


def select_outputs(module: fx.GraphModule, indices: Sequence[int]) -> fx.GraphModule:
    """Return a copy of a functional graph that computes only some of its outputs; it keeps every placeholder."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    returned = graph.graph_copy(module.graph, values)
    assert isinstance(returned, (list, tuple))  # a step returns a list
    graph.output([returned[index] for index in indices])
    graph.eliminate_dead_code()
    return graph_module(module, graph)  # it brings the constants that the graph reads


def _target_specs(tasks: Sequence[TaskSpec]) -> list[TensorSpec]:
    specs = []
    for task in tasks:
        spec = target_spec(task)
        specs.append(TensorSpec(f"target.{task.name}", spec.dtype, spec.shape, spec.unit))
    return specs


def _example(spec: TensorSpec) -> Tensor:
    shape = [TRACED_BATCH if size == BATCH else int(size) for size in spec.shape]
    return torch.zeros(shape, dtype=getattr(torch, spec.dtype))
