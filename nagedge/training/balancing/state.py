"""The state of a balancer as named tensors and plain values: what the checkpoint stores, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nagedge.step_rules import entries_under

__all__ = ["BalancerState", "module_state", "restore_module"]


@dataclass(frozen=True)
class BalancerState:
    """Tensors by name, and JSON texts by name for all that is no tensor."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)

    def under(self, prefix: str) -> BalancerState:
        """Return the entries whose name begins with ``prefix``, without it."""
        return BalancerState(entries_under(prefix, self.tensors), entries_under(prefix, self.values))

    def prefixed(self, prefix: str) -> BalancerState:
        """Return the entries with ``prefix`` before their names."""
        return BalancerState(
            {prefix + k: v for k, v in self.tensors.items()}, {prefix + k: v for k, v in self.values.items()}
        )

    def __or__(self, other: BalancerState) -> BalancerState:
        return BalancerState({**self.tensors, **other.tensors}, {**self.values, **other.values})


def module_state(module: nn.Module) -> BalancerState:
    """Return what distinguishes a module of TorchJD from a new one.

    TorchJD's ``state_dict`` leaves out buffers that were ``None`` at first, counters and numpy arrays; here every
    attribute that is a tensor, a list of tensors, an array, a number or a tuple of such counts.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, str] = {}
    for path, part in module.named_modules():
        for name, value in _attributes(part).items():
            key = f"{path}/{name}"
            if isinstance(value, Tensor):
                tensors[key] = value.detach().clone()
            elif isinstance(value, list) and value and all(isinstance(item, Tensor) for item in value):
                tensors |= {f"{key}[{i}]": item.detach().clone() for i, item in enumerate(value)}
            else:
                text = _encoded(value)
                if text is not None:
                    values[key] = text
    return BalancerState(tensors, values)


def restore_module(module: nn.Module, state: BalancerState) -> None:
    """Give a module, made with the same options, the state that :func:`module_state` returned."""
    parts = dict(module.named_modules())
    lists: dict[tuple[str, str], dict[int, Tensor]] = {}  # a safetensors file has an order of its own
    for key, tensor in state.tensors.items():
        path, _, name = key.rpartition("/")
        base, bracket, place = name.partition("[")
        if bracket:
            lists.setdefault((path, base), {})[int(place.rstrip("]"))] = tensor.clone()
        elif name in dict(parts[path].named_parameters(recurse=False)):
            with torch.no_grad():
                getattr(parts[path], name).copy_(tensor)
        else:
            setattr(parts[path], name, tensor.clone())
    for (path, name), items in lists.items():
        setattr(parts[path], name, [items[place] for place in sorted(items)])
    for key, text in state.values.items():
        path, _, name = key.rpartition("/")
        setattr(parts[path], name, _decoded(json.loads(text)))


def _attributes(module: nn.Module) -> dict[str, object]:
    own = {k: v for k, v in vars(module).items() if k not in vars(nn.Module()) and k != "training"}
    return {**own, **module._parameters, **module._buffers}  # noqa: SLF001 - torch has no public name for buffers that are None


def _encoded(value: object) -> str | None:
    """Return the JSON text of a value that is part of a state, else ``None``."""
    import numpy as np

    if isinstance(value, np.ndarray):
        return json.dumps({"array": value.tolist(), "dtype": str(value.dtype)})
    if isinstance(value, (torch.dtype, torch.device)):
        return json.dumps({type(value).__name__: str(value).removeprefix("torch.")})
    if isinstance(value, tuple):
        items = [_encoded(item) for item in value]
        return None if None in items else json.dumps({"tuple": [json.loads(item or "") for item in items]})
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None


def _decoded(value: object) -> object:
    import numpy as np

    if not isinstance(value, dict):
        return value
    if "array" in value:
        return np.array(value["array"], dtype=value["dtype"])
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    if "device" in value:
        return torch.device(value["device"])
    return tuple(_decoded(item) for item in value["tuple"])
