"""The error for an operator that a backend cannot lower: one text, whatever the format."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nagedge.errors import UnsupportedOperatorError
from nagedge.targets import Target

__all__ = ["also", "refusal"]


def refusal(
    operator: str,
    text: str,
    target: Target,
    module_of: Callable[[str], str | None],
    *,
    remedy: str = "choose an onnxruntime target",
) -> UnsupportedOperatorError:
    """Return the error that names an operator, the module that uses it and the target.

    Args:
        operator: such as ``"aten.add"``.
        text: why, as the sentence goes on; without a full stop.
        target: what was asked for.
        module_of: the path of the model's module that uses an operator.
        remedy: what helps when the operator cannot be replaced.
    """
    path = module_of(operator)
    where = f" (module {path!r})" if path else ""
    return UnsupportedOperatorError(
        f"backend {target.backend!r} cannot lower {operator!r}{where} for target {target.name!r}{text}. Replace it by "
        f"operators of torch.nn in common use, or {remedy}."
    )


def also(more: Sequence[str]) -> str:
    """Return how the sentence goes on for further operators."""
    return f", nor {', '.join(more)}" if more else ""
