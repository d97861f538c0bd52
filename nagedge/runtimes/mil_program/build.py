"""From the protobuf message of a function to blocks of ops, everything checked that can be before a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from nagedge.errors import BundleError, NagEdgeError, UnsupportedOperatorError
from nagedge.runtimes.mil_program.binding import Parameter, Rule, rule
from nagedge.runtimes.mil_program.compute import call, declared
from nagedge.runtimes.mil_program.ops import OPS, STRUCTURAL
from nagedge.runtimes.mil_program.structure import Block, Input, Literal, Op, Source
from nagedge.runtimes.mil_program.values import Constants, Value, value_type

__all__ = ["Builder"]

_RULES: dict[str, Rule] = {}


def _rule(kind: str) -> Rule:
    if kind not in _RULES:
        _RULES[kind] = rule(OPS[kind])
    return _RULES[kind]


class Builder:
    """Builds the blocks of one function.

    Args:
        path: of the program, for error texts.
        constants: reads its constants.
        opset: the iOS version that its operator set came with, such as 18.
        replaced: constants to use instead of the program's own, by the name that the program gives them.
    """

    def __init__(self, path: Path, constants: Constants, opset: int, replaced: dict[str, Value]) -> None:
        self._path, self._constants, self._opset = path, constants, opset
        self._replaced = replaced
        self.used_replacements: set[str] = set()
        self._converted: dict[tuple[str, Any], Any] = {}

    def block(self, message: Any, known: dict[str, Literal | None], where: str) -> Block:
        """Return a block.

        Args:
            message: the ``Block`` message.
            known: names that it may use; those of constants with their values.
            where: names the block in error texts.

        Raises:
            BundleError: the block is damaged.
            UnsupportedOperatorError: an op is not known here.
        """
        scope = dict(known)
        inputs = tuple(entry.name for entry in message.inputs)
        scope.update(dict.fromkeys(inputs))
        constants: dict[str, Value] = {}
        ops: list[Op] = []
        for operation in message.operations:
            op = self._op(operation, scope, where)
            for name, _ in op.outputs:
                if name in scope:
                    raise BundleError(f"{where}: {op.shown()} defines the name again. Export again.")
                scope[name] = None
            values = self._folded(op, operation)
            if values is None:
                ops.append(op)
                continue
            for (name, _), value in zip(op.outputs, values, strict=True):
                constants[name] = value
                scope[name] = Literal(value)
        block = Block(inputs, tuple(message.outputs), _with_frees(ops, set(message.outputs)), constants)
        block.check_results(set(scope), where)
        return block

    def _op(self, message: Any, scope: dict[str, Literal | None], where: str) -> Op:
        kind = message.type
        outputs = tuple((o.name, value_type(o.type, f"{where}: {o.name!r}")) for o in message.outputs)
        op = Op(kind, outputs, None, {}, (), {}, (), ())
        if kind not in OPS and kind not in STRUCTURAL:
            raise UnsupportedOperatorError(
                f"the evaluator of ML Programs does not know {op.shown()} of program {str(self._path)!r}: it cannot "
                "be checked here. Replace the operator, or run the program with Core ML on macOS."
            )
        sources = self._sources(message, scope, f"{where}: {op.shown()}")
        blocks = tuple(self.block(nested, scope, f"{where}: {op.shown()}") for nested in message.blocks)
        if kind in STRUCTURAL:
            return dataclasses.replace(op, sources=sources, blocks=blocks)
        known_rule = _rule(kind)
        constants, inputs = self._arguments(known_rule, sources, scope, f"{where}: {op.shown()}")
        return dataclasses.replace(op, rule=known_rule, constants=constants, inputs=inputs, blocks=blocks)

    def _sources(
        self, message: Any, scope: dict[str, Literal | None], where: str
    ) -> dict[str, tuple[Source, ...]]:
        sources: dict[str, tuple[Source, ...]] = {}
        for parameter, argument in message.inputs.items():
            found: list[Source] = []
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "value":
                    found.append(Literal(self._constants.read(binding.value, f"{where}: {parameter!r}")))
                    continue
                if binding.name not in scope:
                    raise BundleError(
                        f"{where} takes {binding.name!r} as {parameter!r}, which nothing before it defines. "
                        "Export again."
                    )
                found.append(binding.name)
            sources[parameter] = tuple(found)
        if message.type.startswith("constexpr_"):  # up to iOS 17 their arguments are attributes
            for name, value in message.attributes.items():
                if name != "name":
                    sources[name] = (Literal(self._constants.read(value, f"{where}: {name!r}")),)
        return sources

    def _arguments(
        self,
        known: Rule,
        sources: dict[str, tuple[Source, ...]],
        scope: dict[str, Literal | None],
        where: str,
    ) -> tuple[dict[str, Any], tuple[Input, ...]]:
        constants: dict[str, Any] = {}
        inputs: list[Input] = []
        for name, found in sources.items():
            parameter = known.parameters.get(name)
            if parameter is None:
                raise BundleError(
                    f"{where} has the parameter {name!r}; expected {', '.join(known.parameters)}. Update NagEdge."
                )
            if not parameter.is_many and len(found) != 1:
                raise BundleError(
                    f"{where} takes {len(found)} values as {name!r}, expected one. Export again."
                )
            values = [self._constant(source, scope) for source in found]
            if any(value is None for value in values):
                inputs.append(Input(name, parameter, found))
                continue
            try:
                converted = [
                    self._convert(source, parameter, value)
                    for source, value in zip(found, values, strict=True)
                ]
            except (TypeError, ValueError) as error:
                raise BundleError(f"{where}: {name!r} is wrong: {error}. Export again.") from None
            constants[name] = converted if parameter.is_many else converted[0]
        for name, parameter in known.parameters.items():
            if parameter.is_required and name not in sources:
                raise BundleError(f"{where} lacks the parameter {name!r}. Export again.")
        return constants, tuple(inputs)

    @staticmethod
    def _constant(source: Source, scope: dict[str, Literal | None]) -> Literal | None:
        return source if isinstance(source, Literal) else scope[source]

    def _convert(self, source: Source, parameter: Parameter, value: Literal | None) -> Any:
        assert value is not None  # the caller looked
        if isinstance(source, Literal):
            return parameter.convert(source.value)
        key = (source, parameter.convert)
        if key not in self._converted:
            self._converted[key] = parameter.convert(value.value)
        return self._converted[key]

    def _folded(self, op: Op, message: Any) -> tuple[Value, ...] | None:
        """Return the values of a constant, or None for what a run computes."""
        where = f"program {str(self._path)!r}: {op.shown()}"
        if op.kind == "const":
            if len(op.outputs) != 1 or "val" not in message.attributes:
                raise BundleError(f"{where} is no constant: the program is damaged. Export again.")
            name, kind = op.outputs[0]
            value = self._constants.read(message.attributes["val"], where)
            if name in self._replaced:
                self.used_replacements.add(name)
                value = self._replaced[name]
            return (declared(value, kind, where),)
        if not op.kind.startswith("constexpr_") or op.inputs:
            return None
        try:
            return call(op, op.constants, self._opset, where)
        except NagEdgeError:
            raise
        except Exception as error:
            raise BundleError(f"{where} cannot be computed: {error}. Export again.") from None


def _with_frees(ops: list[Op], kept: set[str]) -> tuple[Op, ...]:
    """Return ops that say which of the block's own values nothing uses after them."""
    own = {name for op in ops for name, _ in op.outputs} - kept
    freed: set[str] = set()
    result = []
    for op in reversed(ops):
        last = tuple(sorted((_used(op) | {name for name, _ in op.outputs}) & own - freed))
        freed.update(last)
        result.append(dataclasses.replace(op, frees=last))
    return tuple(reversed(result))


def _used(op: Op) -> set[str]:
    """Return the names that an op or its blocks use."""
    every = [*op.sources.values(), *(entry.sources for entry in op.inputs)]
    names = {source for sources in every for source in sources if isinstance(source, str)}
    for block in op.blocks:
        names.update(block.outputs)
        for nested in block.ops:
            names |= _used(nested)
    return names
