"""Which parameters the exported step trains: ``all``, ``heads``, ``bias``, ``norm``, ``lora:RANK`` or a regex."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from nagedge.errors import ConfigurationError
from nagedge.graphs.forward import ForwardGraph

__all__ = ["head_parameters", "lora_rank", "select_trainable"]

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)


def lora_rank(trainable: str) -> int | None:
    """Return the rank of ``"lora:RANK"``, or None for another choice.

    Raises:
        ConfigurationError: when the rank is not a positive integer.
    """
    if trainable != "lora" and not trainable.startswith("lora:"):
        return None
    text = trainable.partition(":")[2]
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(
            f"trainable {trainable!r}: expected 'lora:RANK' with a rank >= 1, e.g. 'lora:4'."
        )
    return int(text)


def head_parameters(forward: ForwardGraph, parameters: Sequence[str]) -> list[str]:
    """Return the parameters of the heads: those on which exactly one of several tasks depends.

    With one task, or when no parameter belongs to a single task (one layer gives all outputs), the head is the last
    layer with parameters before the outputs: the parameters read last, up to the last ``weight``.
    """
    graph = forward.module.graph
    nodes = list(graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    by_node = dict(zip(placeholders, forward.state_names, strict=False))
    wanted = set(parameters)
    output = nodes[-1].args[0][: len(forward.outputs)]
    reached: dict[str, set[int]] = {}
    for index, root in enumerate(output):
        stack, seen = [root], set()
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if by_node.get(node) in wanted:
                reached.setdefault(by_node[node], set()).add(index)
            stack += node.all_input_nodes
    if len(output) > 1:
        exclusive = [name for name in parameters if len(reached.get(name, ())) == 1]
        if exclusive:
            return exclusive
    used = [name for name in parameters if name in reached]
    position = {node: i for i, node in enumerate(nodes)}
    first_use = {
        by_node[p]: min(position[u] for u in p.users) for p in placeholders if by_node.get(p) in reached
    }
    if not used:
        return []
    last = max(used, key=lambda name: first_use[name])
    module = last.rpartition(".")[0]
    return [name for name in used if name.rpartition(".")[0] == module]


def select_trainable(
    trainable: str, model: nn.Module, forward: ForwardGraph, added: Sequence[str] = ()
) -> list[str]:
    """Return the names of the parameters that ``trainable`` chooses, in the model's order.

    Args:
        trainable: ``"all"``, ``"heads"``, ``"bias"``, ``"norm"``, ``"lora:RANK"`` or a regular expression that is
            searched for in the parameter names.
        model: the prepared model.
        forward: its forward graph; parameters that it does not read cannot be trained.
        added: parameters that LoRA added.

    Raises:
        ConfigurationError: when nothing is chosen, or the regular expression is malformed.
    """
    read = set(forward.state_names)
    parameters = [name for name, p in model.named_parameters() if name in read and p.is_floating_point()]
    if trainable == "all":
        chosen = parameters
    elif lora_rank(trainable) is not None:
        if not set(added) & set(parameters):
            raise ConfigurationError(
                f"trainable {trainable!r}: the model reads the weights of its layers without calling them, so that no "
                "branch takes part. Choose 'all', 'heads' or a regular expression."
            )
        heads = set(head_parameters(forward, [name for name in parameters if name not in set(added)]))
        chosen = [name for name in parameters if name in set(added) | heads]
    elif trainable == "heads":
        chosen = head_parameters(forward, parameters)
    elif trainable == "bias":
        chosen = [name for name in parameters if re.search(r"(^|\.|_)bias(_|$)", name)]
    elif trainable == "norm":
        inside = {
            f"{name}.{child}" if name else child
            for name, module in model.named_modules()
            if isinstance(module, _NORMS)
            for child, _ in module.named_parameters(recurse=False)
        }
        chosen = [name for name in parameters if name in inside]
    else:
        try:
            pattern = re.compile(trainable)
        except re.error as error:
            raise ConfigurationError(
                f"trainable {trainable!r} is neither all, heads, bias, norm, lora:RANK nor a regular expression: "
                f"{error}."
            ) from error
        chosen = [name for name in parameters if pattern.search(name)]
    if not chosen:
        hint = (
            " Folded BatchNorms have no parameters left: use --batch-norm freeze."
            if trainable == "norm"
            else f" The model's parameters are {', '.join(parameters[:4])}{', …' if len(parameters) > 4 else ''}."
        )
        raise ConfigurationError(f"trainable {trainable!r} matches no parameter that the model reads.{hint}")
    return chosen
