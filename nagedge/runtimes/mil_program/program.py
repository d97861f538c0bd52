"""A saved ML Program, loaded and evaluated op by op."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nagedge.errors import BundleError, DataError, NagEdgeError, first_line
from nagedge.runtimes.mil_program.build import Builder
from nagedge.runtimes.mil_program.compute import call, declared
from nagedge.runtimes.mil_program.features import Feature, features_of
from nagedge.runtimes.mil_program.package import open_package
from nagedge.runtimes.mil_program.protobuf import read_model
from nagedge.runtimes.mil_program.structure import Block, Literal, Op, Source
from nagedge.runtimes.mil_program.values import Constants, StateType, TensorType, Value, value_type
from nagedge.runtimes.ml_program_features import NAMES_KEY

__all__ = ["Program", "State", "load_program"]

State = dict[str, Tensor]
"""The states of a program between runs, by name."""

Environment = dict[str, Value]

_MOST_ITERATIONS = 1_000_000
_OPSET = re.compile(r"CoreML(\d+)")


@dataclass(frozen=True)
class Program:
    """One function of a program.

    Attributes:
        path: of the package.
        inputs, outputs: the model's features, by the names that the program has for them.
        states: what lives from run to run, by name.
        metadata: texts that the author attached.
        names: what the bundle calls a feature or constant of the program, by the program's name; of those only that the
            author named.
    """

    path: Path
    inputs: dict[str, Feature]
    outputs: dict[str, Feature]
    states: dict[str, TensorType]
    metadata: dict[str, str]
    names: dict[str, str]
    _block: Block
    _opset: int

    def initial_state(self) -> State:
        """Return the states before the first run: zeros.

        Raises:
            BundleError: a state has no fixed shape.
        """
        for name, kind in self.states.items():
            if kind.shape is None or None in kind.shape:
                raise BundleError(
                    f"program {str(self.path)!r}: the state {name!r} has no fixed shape. Export again."
                )
        return {
            name: torch.zeros([int(size or 0) for size in kind.shape or ()], dtype=kind.dtype.carrier)
            for name, kind in self.states.items()
        }

    def run(self, inputs: Mapping[str, npt.NDArray[Any]], state: State | None = None) -> dict[str, Any]:
        """Return the outputs: arrays, or what else the program gives.

        Args:
            inputs: by the names of :attr:`inputs`, converted to their types where no value changes.
            state: of a program with states: read and written; None starts from zeros and forgets.

        Raises:
            DataError: an input is missing, or has another type or shape.
            BundleError: an op cannot be computed, or gives what the program does not declare.
        """
        values: Environment = {}
        for name, feature in self.inputs.items():
            if name not in inputs:
                raise DataError(
                    f"program {str(self.path)!r} takes {name!r}, which is missing; got {', '.join(inputs) or 'none'}."
                )
            values[name] = feature.converted(inputs[name])
        for name in inputs:
            if name not in self.inputs:
                raise DataError(
                    f"program {str(self.path)!r} takes no {name!r}; it takes {', '.join(self.inputs) or 'nothing'}."
                )
        run = _Run(self.path, self._opset, self.initial_state() if state is None else state)
        with torch.no_grad():
            results = run.block(self._block, values)
        return dict(zip(self._block.outputs, [_plain(value) for value in results], strict=True))


def load_program(
    path: Path, function: str | None = None, *, replaced: Mapping[str, npt.NDArray[Any]] | None = None
) -> Program:
    """Load the program at ``path``, an ``.mlpackage`` folder.

    Args:
        path: the folder.
        function: which of the program's functions; None takes its default.
        replaced: values of constants, by their names in the bundle (:attr:`Program.names`).

    Raises:
        BundleError: the package is damaged, or a constant of ``replaced`` is not there or has another shape.
        UnsupportedOperatorError: it has an op that is not known here.
        RuntimeUnavailableError: coremltools is not installed.
    """
    package = open_package(path)
    model = read_model(package.model_file(), path)
    program, description = model.mlProgram, model.description
    name = function or description.defaultFunctionName or "main"
    if name not in program.functions:
        raise BundleError(
            f"program {str(path)!r} has no function {name!r}; it has {', '.join(sorted(program.functions)) or 'none'}."
        )
    message = program.functions[name]
    if message.opset not in message.block_specializations:
        raise BundleError(
            f"program {str(path)!r}: function {name!r} has no block for {message.opset!r}. Export again."
        )
    opset = _opset(message.opset, path)
    where = f"program {str(path)!r}: function {name!r}"
    inputs, states = {}, {}
    for entry in message.inputs:
        kind = value_type(entry.type, f"{where}: input {entry.name!r}")
        if isinstance(kind, StateType):
            states[entry.name] = kind.wrapped
        elif isinstance(kind, TensorType):
            inputs[entry.name] = kind
        else:
            raise BundleError(f"{where}: input {entry.name!r} is no tensor, and nothing else is known here.")
    metadata = dict(description.metadata.userDefined)
    names = _names(metadata, path)
    inside = {name: feature for feature, name in names.items()}
    values = {
        inside.get(key, key): torch.from_numpy(np.array(array)) for key, array in (replaced or {}).items()
    }
    builder = Builder(path, Constants(package), opset, values)
    known: dict[str, Literal | None] = dict.fromkeys([*inputs, *states])
    block = builder.block(message.block_specializations[message.opset], known, where)
    for key in replaced or {}:
        if inside.get(key, key) not in builder.used_replacements:
            raise BundleError(
                f"program {str(path)!r} has no plain constant {key!r} to replace: it is compressed, part of another "
                "one, or not there. Export again with the new parameters."
            )
    described = next((f for f in description.functions if f.name == name), description)
    return Program(
        path, features_of(described.input, inputs, where), features_of(described.output, None, where), states,
        metadata, names, block, opset,
    )  # fmt: skip


def _opset(text: str, path: Path) -> int:
    """Return the iOS version of an operator set: CoreML5 came with iOS 15, CoreML9 with iOS 26."""
    found = _OPSET.fullmatch(text)
    if found is None or int(found[1]) < 5:
        raise BundleError(f"program {str(path)!r} has the operator set {text!r}, expected CoreML5 or later.")
    number = int(found[1])
    return number + 10 if number <= 8 else number + 17


class _Run:
    """One evaluation."""

    def __init__(self, path: Path, opset: int, state: State) -> None:
        self._path, self._opset, self._state = path, opset, state

    def block(self, block: Block, values: Environment) -> list[Value]:
        """Return the results of a block whose ops may use ``values``, which is changed."""
        values.update(block.constants)
        for op in block.ops:
            where = f"program {str(self._path)!r}: {op.shown()}"
            try:
                results = self._op(op, values, where)
            except NagEdgeError:
                raise
            except Exception as error:  # whatever torch raises for arguments that do not fit
                raise BundleError(
                    f"{where} cannot be computed: {first_line(error)}. Export again."
                ) from error
            for (name, _), value in zip(op.outputs, results, strict=True):
                values[name] = value
            for name in op.frees:
                del values[name]
        return [self._value(name, values) for name in block.outputs]

    def _value(self, source: Source, values: Environment) -> Value:
        if isinstance(source, Literal):
            return source.value
        if source in values:
            return values[source]
        raise ValueError(f"{source!r} is a state, expected a value")

    def _op(self, op: Op, values: Environment, where: str) -> tuple[Value, ...]:
        if op.rule is None:
            return self._structural(op, values, where)
        arguments = dict(op.constants)
        for entry in op.inputs:
            given = [entry.parameter.convert(self._value(source, values)) for source in entry.sources]
            arguments[entry.name] = given if entry.parameter.is_many else given[0]
        return call(op, arguments, self._opset, where)

    def _structural(self, op: Op, values: Environment, where: str) -> tuple[Value, ...]:
        if op.kind == "cond":
            chosen = op.blocks[0] if bool(self._one(op, "pred", values)) else op.blocks[1]
            return tuple(
                declared(value, kind, where)
                for value, (_, kind) in zip(self.block(chosen, dict(values)), op.outputs, strict=True)
            )
        if op.kind == "while_loop":
            return self._loop(op, values, where)
        (name,) = op.sources["input"]
        assert isinstance(name, str)
        if op.kind == "read_state":
            return (declared(self._state[name].clone(), op.outputs[0][1], where),)
        data = self._one(op, "data", values)
        if data.shape != self._state[name].shape or data.dtype != self._state[name].dtype:
            raise ValueError(
                f"{list(data.shape)} {data.dtype} is written to the state {name!r}, which is another"
            )
        self._state[name] = data.clone()
        return ()

    def _loop(self, op: Op, values: Environment, where: str) -> tuple[Value, ...]:
        condition, body = op.blocks
        carried = [self._value(source, values) for source in op.sources["loop_vars"]]
        for _ in range(_MOST_ITERATIONS):
            (again,) = self.block(condition, {**values, **dict(zip(condition.inputs, carried, strict=True))})
            if not bool(again):
                return tuple(
                    declared(value, kind, where) for value, (_, kind) in zip(carried, op.outputs, strict=True)
                )
            carried = self.block(body, {**values, **dict(zip(body.inputs, carried, strict=True))})
        raise BundleError(f"{where} does not end within {_MOST_ITERATIONS} rounds.")

    def _one(self, op: Op, parameter: str, values: Environment) -> Tensor:
        (source,) = op.sources[parameter]
        value = self._value(source, values)
        if not isinstance(value, Tensor):
            raise TypeError(f"{parameter!r} is no tensor")
        return value


def _plain(value: Value) -> Any:
    """Return a value as numpy has it."""
    if not isinstance(value, Tensor):
        return value
    return (value.float() if value.dtype == torch.bfloat16 else value).contiguous().numpy()


def _names(metadata: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return what the bundle calls the features and constants of a program."""
    try:
        names = json.loads(metadata.get(NAMES_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        names = error
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise BundleError(f"program {str(path)!r}: its metadata {NAMES_KEY!r} is damaged. Export again.")
    return names
