"""A program ready to run: ops with their functions, constant arguments already converted, and what is freed when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nagedge.errors import BundleError
from nagedge.runtimes.mil_program.binding import Parameter, Rule
from nagedge.runtimes.mil_program.values import Value, ValueType

__all__ = ["Block", "Input", "Literal", "Op", "Source"]


@dataclass(frozen=True)
class Literal:
    """A constant written where it is used."""

    value: Value


Source = str | Literal
"""Where an argument comes from: a name, or a constant."""


@dataclass(frozen=True)
class Input:
    """An argument that only a run knows."""

    name: str
    parameter: Parameter
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        kind: its type.
        outputs: names and declared types.
        rule: its function; None for those that the evaluator itself knows.
        constants: converted arguments that no run changes, by parameter.
        inputs: the other arguments.
        sources: of an op without a rule, where its arguments come from, by parameter.
        blocks: nested ones.
        frees: names that nothing uses after this op.
    """

    kind: str
    outputs: tuple[tuple[str, ValueType], ...]
    rule: Rule | None
    constants: dict[str, Any]
    inputs: tuple[Input, ...]
    sources: dict[str, tuple[Source, ...]]
    blocks: tuple[Block, ...]
    frees: tuple[str, ...]

    def shown(self) -> str:
        """Return how error texts name the op."""
        name = self.outputs[0][0] if self.outputs else "none"
        return f"op {self.kind!r} (output {name!r})"


@dataclass(frozen=True)
class Block:
    """Ops in order, the names they start from and the names of their results."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ops: tuple[Op, ...]
    constants: dict[str, Value] = field(default_factory=dict)

    def check_results(self, known: set[str], where: str) -> None:
        """Refuse outputs that nothing defines.

        Raises:
            BundleError: there is one.
        """
        for name in self.outputs:
            if name not in known:
                raise BundleError(f"{where}: nothing defines its output {name!r}. Export again.")
