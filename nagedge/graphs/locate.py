"""Where in a model an operator comes from, for error texts."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nagedge.errors import ConfigurationError
from nagedge.graphs.example import run_example

__all__ = ["module_of"]


def module_of(model: nn.Module, example_input: object, operator: str) -> str | None:
    """Return the path of the innermost module that runs ``operator`` (``"aten.grid_sampler_2d"``), or None.

    The gradient of an operator is looked for under the operator's own name.
    """
    wanted = operator.removeprefix("aten.").removesuffix("_backward")
    path: list[str] = []
    found: list[str] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if func.overloadpacket.__name__ == wanted and path and not found:
                found.append(path[-1])
            return func(*args, **(kwargs or {}))

    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: path.append(name)))
            handles.append(module.register_forward_hook(lambda *_: path.pop() and None))
    try:
        with Watch():  # type: ignore[no-untyped-call]
            run_example(model, example_input)
    except ConfigurationError:  # the search serves an error text; the error itself is already known
        return None
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
