"""From a model to its traced graphs: once, for every target."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from nagedge.errors import ConfigurationError, NagEdgeError, UnsupportedOperatorError
from nagedge.graphs.batch_norm import apply_policy
from nagedge.graphs.example import input_specs
from nagedge.graphs.forward import (
    FixedBatchError,
    ForwardGraph,
    check_state,
    trace_forward,
    without_collection,
)
from nagedge.graphs.inference import InferenceGraph, trace_inference
from nagedge.graphs.lora import add_lora
from nagedge.graphs.specialization import specialize
from nagedge.graphs.train_step import StepGraph, trace_train_step
from nagedge.graphs.trainable import head_parameters, lora_rank, select_trainable
from nagedge.sources import ExportSource
from nagedge.specs import TensorSpec
from nagedge.step_rules import PLAIN, StepRules

__all__ = ["TracedModel", "trace_model"]

Table = Mapping[Any, Callable[..., Any]]


@dataclass(frozen=True)
class TracedModel:
    """A model prepared for the device, and its graphs.

    Attributes:
        model: with BatchNorm treated as asked for, and with LoRA's side branches.
        forward: the forward pass in evaluation mode.
        train_forward: the one that the training step differentiates.
        inference: the forward pass for inference runtimes.
        steps: the training step for every backend by name; the reason where it cannot be had.
        step: one of them; None without training.
        state: every tensor that the graphs read, by name.
        notes: what a reader of the bundle should know.
    """

    model: nn.Module
    forward: ForwardGraph
    train_forward: ForwardGraph
    inference: InferenceGraph
    steps: Mapping[str, StepGraph | NagEdgeError]
    state: Mapping[str, Tensor]
    notes: tuple[str, ...]

    @property
    def step(self) -> StepGraph | None:
        """Any of the steps: they differ in operators, not in inputs and outputs."""
        return next((step for step in self.steps.values() if isinstance(step, StepGraph)), None)


@without_collection()
def trace_model(
    source: ExportSource,
    *,
    trainable: str,
    batch_norm: str,
    batch: int | None,
    tables: Mapping[str, Table],
    report: Callable[[str], None],
    rules: StepRules = PLAIN,
    rule_state: Mapping[str, Tensor] | None = None,
) -> TracedModel:
    """Trace ``source`` once; where a symbolic batch cannot be had, once more with the example's batch size.

    Args:
        source: the model with its example.
        trainable, batch_norm, batch: see :func:`nagedge.export.export`.
        tables: backend name -> its decompositions, of every backend that needs a training step.
        report: called with what is being done.
        rules: how the step balances its losses and when it restarts.
        rule_state: what of their state is known already, by the names of :meth:`StepRules.state`.

    Raises:
        UnsupportedOperatorError: the training step cannot be traced.
        ConfigurationError: the model, its example and its tasks do not fit.
    """
    check_state(source.model)
    report("tracing the forward pass")
    prepared = apply_policy(source.model, batch_norm, source.example_input)
    added = _add_side_branches(prepared, source, trainable, batch)
    attempts = [batch] if batch is not None else [None, _rows(source)]
    for attempt in attempts:
        forward = _renamed(
            trace_forward(prepared, source.example_input, source.tasks, batch=attempt), source.input
        )
        train_forward = forward
        if tables and batch_norm == "train":
            statistics = trace_forward(
                prepared, source.example_input, source.tasks, batch=forward.batch, batch_norm_training=True
            )
            train_forward = _renamed(statistics, source.input)
        state = _state(prepared, forward, train_forward)
        _check_rule_names(rules.state(source.tasks), state)
        report("tracing the training step")
        steps: dict[str, StepGraph | NagEdgeError] = {}
        try:
            inference = trace_inference(forward, state)
            if tables:
                chosen = select_trainable(trainable, prepared, train_forward, added)
                steps = _steps(source, train_forward, state, chosen, tables, rules, rule_state or {})
        except FixedBatchError:
            continue
        except NagEdgeError:
            raise
        except Exception as error:
            if attempt is None and train_forward.batch is None:
                continue
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UnsupportedOperatorError(
                f"the training step of {source.name} cannot be traced: {text} Freeze the part of the model that "
                "causes it (--trainable), or replace it by operators of torch.nn in common use."
            ) from error
        break
    notes: tuple[str, ...] = ()
    if batch is None and train_forward.batch is not None:
        note = (
            f"The batch size is fixed to {train_forward.batch}: the model's forward pass depends on it. Pad a smaller "
            "batch with rows of sample_weight 0."
        )
        notes = (note,)
    traced = TracedModel(prepared, forward, train_forward, inference, steps, state, notes)
    _check_names(forward, traced.step)
    return traced if traced.step is None else replace(traced, state={**state, **traced.step.rule_state})


def _add_side_branches(
    prepared: nn.Module, source: ExportSource, trainable: str, batch: int | None
) -> list[str]:
    """Add LoRA's branches to the model, where asked for, and return the names of their parameters."""
    rank = lora_rank(trainable)
    if rank is None:
        return []
    plain = trace_forward(prepared, source.example_input, source.tasks, batch=batch)
    parameters = [name for name, _ in prepared.named_parameters() if name in set(plain.state_names)]
    heads = {name.rpartition(".")[0] for name in head_parameters(plain, parameters)}
    return add_lora(prepared, rank, skip=heads)


def _steps(
    source: ExportSource,
    forward: ForwardGraph,
    state: Mapping[str, Tensor],
    trainable: Sequence[str],
    tables: Mapping[str, Table],
    rules: StepRules,
    rule_state: Mapping[str, Tensor],
) -> dict[str, StepGraph | NagEdgeError]:
    """Trace the step once and expand, for every backend, what it decomposes in its own way."""
    deferred = frozenset(operator for table in tables.values() for operator in table)
    traced = trace_train_step(forward, state, trainable, source.tasks, deferred=deferred, rules=rules)
    whole = replace(
        traced,
        momentum=source.momentum,
        weight_decay=source.weight_decay,
        rows=_rows(source),
        rule_state={**traced.rule_state, **rule_state},
    )
    steps: dict[str, StepGraph | NagEdgeError] = {}
    done: list[tuple[Table, StepGraph | NagEdgeError]] = []
    for backend, table in tables.items():
        known = next((step for other, step in done if other == table), None)
        if known is None:
            try:
                known = specialize(whole, table)
            except NagEdgeError as error:
                known = error
            done.append((table, known))
        steps[backend] = known
    return steps


def _check_rule_names(names: Collection[str], state: Mapping[str, Tensor]) -> None:
    for name in names:
        if name in state:
            raise ConfigurationError(
                f"model tensor {name!r} has the name of what the step's balancing or restart remembers: rename it."
            )


def _check_names(forward: ForwardGraph, step: StepGraph | None) -> None:
    """Refuse names that an artifact would hold twice: those of inputs, outputs and constants."""
    inputs = [spec.name for spec in forward.inputs]
    taken = dict.fromkeys(inputs, "an input")
    for name in forward.outputs:
        if name in taken:
            raise ConfigurationError(f"task {name!r} has the name of an input of the model: rename the task.")
        taken[name] = "a task"
    in_step = {}
    if step is not None:
        in_step = {spec.name: "an input of the training step" for spec in step.inputs}
        in_step |= dict.fromkeys(step.outputs, "an output of the training step")
    for names, known in (
        (forward.state_names, taken),
        (() if step is None else tuple(step.constants), in_step),
    ):
        for name in names:
            if name in known:
                raise ConfigurationError(
                    f"model tensor {name!r} has the name of {known[name]}: rename it, or what has its name."
                )


def _state(model: nn.Module, *forwards: ForwardGraph) -> dict[str, Tensor]:
    full = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    used: dict[str, Tensor] = {}
    for forward in forwards:
        for name in (*forward.state_names, *forward.updated_buffers):
            tensor = forward.constants[name] if name in forward.constants else full[name]
            used[name] = tensor.detach().cpu().contiguous()
    return used


def _renamed(forward: ForwardGraph, spec: TensorSpec | None) -> ForwardGraph:
    """Give the only input the name and unit that the data calls it by."""
    if spec is None or len(forward.inputs) != 1:
        return forward
    own = forward.inputs[0]
    inputs = (TensorSpec(spec.name, own.dtype, own.shape, spec.unit),)
    return ForwardGraph(
        forward.module, forward.state_names, inputs, forward.outputs, forward.updated_buffers, forward.constants,
        forward.batch,
    )  # fmt: skip


def _rows(source: ExportSource) -> int:
    """Return the example's batch size."""
    _, tensors = input_specs(source.model, source.example_input)
    return int(tensors[0].shape[0])
