"""The order of a training step's nodes in its file, from which ONNX Runtime takes the order of its execution.

ONNX Runtime (1.31, ``Graph::ReverseDFSFrom`` in core/graph/graph.cc) walks back from the nodes whose results
nobody reads, from the last one in the file to the first, and of a node's inputs executes the one first that was made by
the node with the highest place in the file. So:

- nodes are sorted by the length of the longest path that leads to them: what is deep is computed first, what is derived
  from little (a mask, a padded activation, a weight's matrix) when it is needed;
- the loss passes through a ``Reshape`` that also reads the sizes of all milestones and stands last: the milestones are
  computed in their order before anything else is.

``Size`` reads no value, so this costs a few microseconds. ONNX Runtime 1.31 folds it to no constant.
MobileNetV4-conv-small's step with LoRA holds 15.4 MiB so, as it was traced 24.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper
from torch import fx

from nagedge.backends.onnx_lowering.builder import GraphBuilder, inner_nodes, reads
from nagedge.backends.traced import rank_of

__all__ = ["RULES", "by_depth", "ending_in"]


def _after(builder: GraphBuilder, node: fx.Node) -> str:
    """Lower :func:`nagedge.graphs.rematerialisation.after`: a ``Reshape`` to the shape it has; it copies nothing.

    Its shape is computed from the size of the milestone, which ONNX Runtime neither folds nor sees through. So it does
    not know the shape of what follows: that is as well, because in its default settings it keeps buffers of a known
    shape for later tensors of the same shape, and MobileNetV4's step holds 21 MiB instead of 15 where all are known.
    """
    value, milestone = node.args
    shape = builder.no_change_after(builder.tensor(milestone), rank_of(value))
    return builder.add("Reshape", [builder.tensor(value), shape])


RULES = {"after": _after}


def by_depth(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return topologically sorted nodes by the longest path to them; those of one depth in their order."""
    depths: dict[str, int] = {}
    own = []
    for node in nodes:
        depth = 1 + max((depths.get(name, 0) for name in reads(node)), default=0)
        depths |= dict.fromkeys(node.output, depth)
        own.append(depth)
    return [nodes[place] for place in sorted(range(len(nodes)), key=own.__getitem__)]


def ending_in(builder: GraphBuilder, output: str, milestones: Sequence[str]) -> list[onnx.NodeProto]:
    """Return nodes to append: they make ``output`` wait for ``milestones``, one after the other.

    Args:
        builder: its nodes are changed: what made ``output``, of no dimensions, makes a tensor of another name.
        output: of the graph.
        milestones: names of tensors in the order in which they are to be computed.
    """
    computed = builder.fresh(output)
    for outer in builder.nodes:
        for node in (outer, *inner_nodes(outer)):
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == output:
                        names[place] = computed
    sizes = [builder.fresh("Size") for _ in milestones]
    nodes = [
        helper.make_node("Size", [milestone], [size], name=size)
        for milestone, size in zip(milestones, sizes, strict=True)
    ]
    nodes.reverse()  # the last in the file is the first to be computed
    nothing = builder.constant(np.zeros(0, np.int64))
    largest, shape, last = builder.fresh("Max"), builder.fresh("Mul"), builder.fresh("Reshape")
    return [
        *nodes,
        helper.make_node("Max", sizes, [largest], name=largest),
        helper.make_node("Mul", [largest, nothing], [shape], name=shape),  # no values: the shape of a scalar
        helper.make_node("Reshape", [computed, shape], [output], name=last),
    ]
