"""Low-rank adaptation: a frozen layer with a small trainable side branch (Hu et al. 2021, arXiv:2106.09685).

The branch is computed on the activations, ``W x + B (A x)``, never as a computed weight ``W + B A``: so the frozen
weight stays a constant of the exported graph, which runtimes pack and re-block.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from nagedge.errors import ConfigurationError

__all__ = ["LoRAConv", "LoRALinear", "add_lora"]


class _Branched(nn.Module):
    """A layer with a branch, which has the layer's attributes: some models read ``fc.weight`` or ``conv.stride``.

    What such a model computes from the weight itself bypasses the branch.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)


class LoRALinear(_Branched):
    """``y = base(x) + up(down(x))`` with a frozen linear ``base``, rank-``rank`` branch, ``up`` starting at zero."""

    def __init__(self, base: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        _start(self.down.weight, self.up.weight, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output plus the branch's."""
        result: Tensor = self.base(x) + self.up(self.down(x))
        return result


class LoRAConv(_Branched):
    """``y = base(x) + up(down(x))``: ``down`` has the base's geometry and ``rank`` channels, ``up`` is 1x1."""

    def __init__(self, base: nn.Conv1d | nn.Conv2d, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        geometry: dict[str, Any] = {"stride": base.stride, "padding": base.padding, "dilation": base.dilation}
        if type(base) in (nn.Conv1d, nn.Conv2d):  # a subclass (timm's Conv2dSame) pads in its own way
            geometry["padding_mode"] = base.padding_mode
        kernel: Any = base.kernel_size
        self.down = type(base)(base.in_channels, rank, kernel, bias=False, **geometry)
        one_by_one = nn.Conv1d if isinstance(base, nn.Conv1d) else nn.Conv2d
        self.up = one_by_one(rank, base.out_channels, 1, bias=False)
        _start(self.down.weight, self.up.weight, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output plus the branch's."""
        result: Tensor = self.base(x) + self.up(self.down(x))
        return result


def add_lora(model: nn.Module, rank: int, *, skip: Collection[str] = (), seed: int = 0) -> list[str]:
    """Wrap the linear layers and dense convolutions of ``model`` that are not in ``skip``, in place.

    Where other layers can carry a branch, one with no more inputs or outputs than the rank is left frozen: its branch
    would be no bottleneck. Such is the first convolution, over the channels of an image, whose gradients cost most.

    Args:
        model: changed in place.
        rank: of the branches, >= 1.
        skip: names of modules to leave alone (the heads, which are trained whole).
        seed: of the branches' initial values.

    Returns:
        The names of the new trainable parameters.

    Raises:
        ConfigurationError: when no layer can carry a branch.
    """
    carriers = {
        name: module for name, module in model.named_modules() if name not in skip and _carries(module)
    }
    wide = {name: module for name, module in carriers.items() if _width(module) > rank}
    generator = torch.Generator().manual_seed(seed)
    names = []
    for name, module in (wide or carriers).items():
        within = min(rank, _width(module))
        wrapped = (
            LoRALinear(module, within, generator)
            if isinstance(module, nn.Linear)
            else LoRAConv(module, within, generator)
        )
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, wrapped)
        names += [f"{name}.down.weight", f"{name}.up.weight"]
    if not names:
        raise ConfigurationError(
            "trainable 'lora' found no linear layer or dense convolution outside the heads: choose 'all' or 'heads'."
        )
    return names


def _carries(module: nn.Module) -> TypeGuard[nn.Linear | nn.Conv1d | nn.Conv2d]:
    # The projections of nn.MultiheadAttention are read as weights, never called: a branch would be ignored.
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return False
    dense = isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups == 1
    return dense or isinstance(module, nn.Linear)


def _width(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> int:
    return min(layer.weight.shape[0], layer.weight.shape[1])


def _start(down: Tensor, up: Tensor, generator: torch.Generator) -> None:
    """Kaiming-uniform down, zero up: the branch starts as zero (Hu et al. 2021, section 4.1)."""
    bound = 1.0 / math.sqrt(down[0].numel())
    with torch.no_grad():
        down.uniform_(-bound, bound, generator=generator)
        up.zero_()
