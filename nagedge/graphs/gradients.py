"""The part of a training step that ends at the gradients, for runtimes that bring their own optimizer.

It is cut out of the traced step: nothing is traced again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from nagedge.graphs.train_step import StepGraph, select_outputs
from nagedge.specs import TensorSpec

__all__ = ["GradientGraph", "gradient_graph"]

_UPDATE_INPUTS = frozenset({"lr", "momentum", "weight_decay"})


@dataclass(frozen=True)
class GradientGraph:
    """Forward pass, losses and gradients.

    Attributes:
        module: called with one tensor an entry of ``inputs``, then the tensors of ``constants``.
        inputs: the model's inputs, ``target.<task>``, ``sample_weight``, ``params.<name>``, ``buffers.<name>``.
        outputs: ``loss``, ``loss.<task>``, ``next.buffers.<name>``, ``gradient.<name>``.
        constants: frozen parameters, buffers and constants, by their name in the model.
        trainable: names of the trained parameters.
        decayed: those of them to which weight decay applies.
        updated_buffers: names of the buffers that are part of the training state.
        batch: ``None`` for a symbolic batch, else its only size.
    """

    module: fx.GraphModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Tensor]
    trainable: tuple[str, ...]
    decayed: frozenset[str]
    updated_buffers: tuple[str, ...]
    batch: int | None


def gradient_graph(step: StepGraph) -> GradientGraph:
    """Return the gradients of ``step`` without its update."""
    wanted = [name for name in step.all_outputs if not name.startswith(("next.params.", "next.momentum."))]
    kept = [s for s in step.inputs if s.name not in _UPDATE_INPUTS and not s.name.startswith("momentum.")]
    dropped = [i for i, spec in enumerate(step.inputs) if spec not in kept]
    module = select_outputs(step.traced, [step.all_outputs.index(name) for name in wanted])
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    for index in dropped:
        module.graph.erase_node(placeholders[index])
    module.recompile()
    return GradientGraph(
        module, tuple(kept), tuple(wanted), step.constants, step.trainable, step.decayed, step.updated_buffers,
        step.batch,
    )  # fmt: skip
