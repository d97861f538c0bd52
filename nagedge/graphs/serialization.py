"""The forward graph as JSON: PyTorch's side of a bundle, without Python code and without pickle.

The nodes name ATen operators, which PyTorch runs with its own kernels and differentiates with its own autograd. So a
bundle carries the reference that it is verified against.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from nagedge.errors import BundleError
from nagedge.graphs.decompositions import PORTABLE_OPS, decomposition_table
from nagedge.graphs.decompositions.recurrent_modules import WHOLE_RECURRENT
from nagedge.graphs.forward import ForwardGraph
from nagedge.specs import TensorSpec

__all__ = ["forward_from_json", "forward_to_json"]

_FORMAT, _VERSION = "nagedge-forward", 1

# Arithmetic on sizes, the only functions besides ATen operators that a graph may call.
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "operator.getitem": operator.getitem,
    "operator.add": operator.add,
    "operator.sub": operator.sub,
    "operator.mul": operator.mul,
    "operator.floordiv": operator.floordiv,
    "operator.truediv": operator.truediv,
    "operator.mod": operator.mod,
    "operator.neg": operator.neg,
    "operator.pow": operator.pow,
    "torch.sym_float": torch.sym_float,
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
}
_FUNCTION_NAMES = {function: name for name, function in _FUNCTIONS.items()}
# Whether a tensor can be viewed depends on its strides, which the document does not keep.
_VIEWS = frozenset({torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default})
_MEANINGLESS = frozenset({"device", "pin_memory", "layout", "memory_format"})


def forward_to_json(forward: ForwardGraph) -> str:
    """Return the graph as a JSON document; the tensors it reads are stored elsewhere, by name."""
    nodes = []
    placeholders: list[str] = []
    results: list[Any] = []
    for node in forward.module.graph.nodes:
        if node.op == "placeholder":
            placeholders.append(node.name)
        elif node.op == "output":
            results = [_encode(value) for value in node.args[0]]
        else:
            target = node.target
            name = str(target) if isinstance(target, torch._ops.OpOverload) else _FUNCTION_NAMES[target]
            keywords = {k: _encode(v) for k, v in node.kwargs.items() if k not in _MEANINGLESS}
            nodes.append([node.name, name, [_encode(value) for value in node.args], keywords])
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "state": list(forward.state_names),
        "inputs": [dataclasses.asdict(spec) for spec in forward.inputs],
        "outputs": list(forward.outputs),
        "updated_buffers": list(forward.updated_buffers),
        "batch": forward.batch,
        "placeholders": placeholders,
        "nodes": nodes,
        "results": results,
    }
    return json.dumps(document, allow_nan=False, separators=(",", ":"))


@functools.lru_cache(maxsize=4)  # verification opens the same graph for every repeated step
def forward_from_json(text: str, *, where: str) -> ForwardGraph:
    """Return the graph of a JSON document.

    Raises:
        BundleError: when the document is malformed or calls anything but functional ATen operators.
    """
    try:
        document = json.loads(text)
        _check_version(document["format"], document["version"], where)
        graph = fx.Graph()
        known: dict[str, fx.Node] = {}
        arguments_in_order = [*document["state"], *document["inputs"]]
        for i, (name, _) in enumerate(zip(document["placeholders"], arguments_in_order, strict=True)):
            known[name] = graph.placeholder(
                f"argument_{i}"
            )  # a name of ours: fx writes it into Python source
        for name, target, arguments, keywords in document["nodes"]:
            function = _function(target, where)
            node = graph.call_function(
                function,
                tuple(_decode(value, known) for value in arguments),
                {key: _decode(value, known) for key, value in _keywords(function, keywords, where).items()},
            )
            known[name] = node
        graph.output([_decode(value, known) for value in document["results"]])
        return ForwardGraph(
            fx.GraphModule(nn.Module(), graph),
            tuple(document["state"]),
            tuple(
                TensorSpec(s["name"], s["dtype"], tuple(s["shape"]), s["unit"]) for s in document["inputs"]
            ),
            tuple(document["outputs"]),
            tuple(document["updated_buffers"]),
            {},
            document["batch"],
        )
    except BundleError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, SyntaxError) as error:
        raise BundleError(
            f"{where} is damaged ({type(error).__name__}: {error}). Export again, or take the bundle from a backup."
        ) from None


def _check_version(given_format: object, version: object, where: str) -> None:
    if given_format != _FORMAT or version != _VERSION:
        raise BundleError(
            f"{where}: format {given_format!r} version {version!r}, this program reads {_FORMAT!r} version {_VERSION}. "
            "Use the version that wrote it."
        )


def _function(name: str, where: str) -> Callable[..., Any]:
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    namespace, _, rest = name.partition(".")
    packet_name, _, overload = rest.partition(".")
    packet = (
        getattr(torch.ops.aten, packet_name, None)
        if namespace == "aten" and packet_name.isidentifier()
        else None
    )
    function = getattr(packet, overload, None) if overload.isidentifier() else None
    if not isinstance(function, torch._ops.OpOverload) or not _is_harmless(function):
        raise BundleError(
            f"{where} calls {name!r}, which is not an operator that a forward graph may use. The file was not "
            "written by this program; do not use it."
        )
    return torch.ops.aten.reshape.default if function in _VIEWS else function


def _keywords(function: Callable[..., Any], keywords: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Return ``keywords`` if the operator has arguments of these names, which fx writes into Python source."""
    known = (
        {a.name for a in function._schema.arguments} if isinstance(function, torch._ops.OpOverload) else set()
    )
    for name in keywords:
        if name not in known:
            raise BundleError(
                f"{where} calls {function} with an argument {name!r}, which it does not have. The file was not written "
                "by this program; do not use it."
            )
    return keywords


def _is_harmless(function: torch._ops.OpOverload) -> bool:
    """Whether the operator only computes on its arguments: functional, and one that graphs are made of."""
    if function._schema.is_mutable:
        return False
    known = (
        torch.Tag.core in function.tags
        or function in _decomposed()
        or function is torch.ops.aten.reshape.default
        or function in WHOLE_RECURRENT
    )
    return known or function.overloadpacket.__name__ in PORTABLE_OPS


@functools.cache
def _decomposed() -> frozenset[Any]:
    return frozenset(decomposition_table())


def _encode(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, torch.device):
        return {"device": "cpu"}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"an argument of type {type(value).__name__} has no JSON form")


def _decode(value: Any, known: Mapping[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(item, known) for item in value]
    if isinstance(value, dict):
        ((kind, content),) = value.items()
        if kind == "node":
            return known[content]
        if kind == "dtype":
            dtype = getattr(torch, content)
            if not isinstance(dtype, torch.dtype):
                raise ValueError(f"{content!r} is no dtype")
            return dtype
        if kind == "float":
            return float(content)
        if kind == "device":
            return torch.device("cpu")
        raise ValueError(f"unknown argument kind {kind!r}")
    return value
