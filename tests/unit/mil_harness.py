"""Programs of one op each, written with coremltools, saved, and evaluated from the saved file beside torch.

Where coremltools infers values itself (numpy, when all arguments are constants), these are a second reference.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nagedge.runtimes.mil_program import load_program

__all__ = ["Case", "check", "check_half", "check_inferred", "every", "normal", "saved", "whole"]

logging.getLogger("coremltools").disabled = True

Arrays = Mapping[str, Any]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Return normal numbers that fp16 holds exactly."""
    drawn = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return drawn.astype(np.float16).astype(np.float32)


def whole(low: int, high: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(low, high, shape).astype(np.int32)


@dataclass(frozen=True)
class Case:
    """One op with arguments.

    Attributes:
        op: its type.
        label: what is awkward about it.
        inputs: arguments that a run gives, by parameter: arrays, or lists of them.
        expected: what torch makes of the inputs (tensors, in their order): one result or a tuple.
        constants: other arguments.
        opset: the iOS version of the operator set.
        rtol, atol: of floats; everything else must be equal.
        half: whether the op is checked in fp16 too.
        inferred: whether coremltools' own values are comparable; where they are not, a comment says why.
    """

    op: str
    label: str
    inputs: Arrays
    expected: Callable[..., Any]
    constants: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 16
    rtol: float = 1e-6
    atol: float = 1e-6
    half: bool = True
    inferred: bool = True

    def __str__(self) -> str:
        return f"{self.op}-{self.label}-iOS{self.opset}" if self.label else f"{self.op}-iOS{self.opset}"


def every(cases: Sequence[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=str)


@functools.cache
def _import_coremltools() -> None:
    """Import it once, and keep what came with it out of the garbage collections that every conversion asks for."""
    import coremltools  # noqa: F401

    gc.freeze()


@contextlib.contextmanager
def quiet() -> Any:
    """Keep back what coremltools prints."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        _import_coremltools()
        yield


def saved(
    build: Callable[..., Any],
    inputs: Arrays,
    folder: Path,
    *,
    opset: int = 16,
    states: Arrays | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Save the program that ``build`` makes of named variables, and return its folder.

    Args:
        build: takes the variables by name, returns one variable or several.
        inputs: arrays of the shapes and types of the variables.
        folder: to write to.
        opset: iOS version of the operator set.
        states: like ``inputs``, of variables that live from run to run.
        metadata: texts to attach.
    """
    with quiet():
        import coremltools as ct
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 # as everybody calls it
        from coremltools.converters.mil.mil import Function, Program, types

        def type_of(array: Any) -> Any:
            return types.numpy_type_to_builtin_type(np.asarray(array).dtype)

        placeholders = {
            name: mb.placeholder(shape=np.asarray(array).shape, dtype=type_of(array))
            for name, array in (inputs or {"unused": np.zeros(1, np.float32)}).items()
        }
        for name, array in (states or {}).items():
            placeholders[name] = mb.state_tensor_placeholder(shape=array.shape, dtype=type_of(array))
        program, target = Program(), getattr(ct.target, f"iOS{opset}")
        with Function(placeholders, opset_version=target) as function:
            given = {name: var for name, var in function.inputs.items() if name != "unused"}
            built = build(**given)
            function.set_outputs(list(built) if isinstance(built, (list, tuple)) else [built])
        program.add_function("main", function)
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=target,
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        for key, text in (metadata or {}).items():
            model.user_defined_metadata[key] = text
        path = folder / "program.mlpackage"
        model.save(str(path))
    return path


def check(case: Case, folder: Path) -> None:
    """Evaluate a case and compare it with torch."""
    _compare(_evaluated(case, folder), _expected(case), case.rtol, case.atol)


def check_half(case: Case, folder: Path) -> None:
    """Evaluate a case in fp16: its results are those in fp32, rounded once."""
    got = _evaluated(case, folder, half=True)
    expected = [e.to(torch.float16) if e.is_floating_point() else e for e in _expected(case, half=True)]
    for value, wanted in zip(got, expected, strict=True):
        assert value.dtype == np.float16 or not wanted.is_floating_point()
    _compare(got, expected, 1e-3, 1e-6 if case.atol == 1e-6 else case.atol)


def check_inferred(case: Case) -> bool:
    """Compare coremltools' own values of a case with torch; return whether there are any."""
    with quiet():
        import coremltools as ct
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
        from coremltools.converters.mil.mil import Function

        with Function(
            {"unused": mb.placeholder(shape=(1,))}, opset_version=getattr(ct.target, f"iOS{case.opset}")
        ):
            arguments = {
                name: [np.array(v) for v in value] if isinstance(value, list) else _constant(value)
                for name, value in case.inputs.items()
            }
            built = getattr(mb, case.op)(**arguments, **case.constants)
    values = [var.val for var in (built if isinstance(built, (list, tuple)) else [built])]
    if any(value is None for value in values):
        return False
    _compare([np.asarray(value) for value in values], _expected(case), 1e-4, 1e-5)
    return True


def _constant(value: Any) -> Any:
    """Return a fresh constant: some of coremltools' inferences write into their arguments."""
    array = np.array(value)
    return array[()] if array.ndim == 0 else array


def _evaluated(case: Case, folder: Path, *, half: bool = False) -> list[np.ndarray]:
    from_list = {
        f"given_{name}_{i}": part
        for name, value in case.inputs.items()
        for i, part in enumerate(value if isinstance(value, list) else [value])
    }
    if half:
        from_list = {name: _halved(value) for name, value in from_list.items()}

    def build(**variables: Any) -> Any:
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

        arguments: dict[str, Any] = {}
        for name, value in case.inputs.items():
            if isinstance(value, list):
                arguments[name] = [variables[f"given_{name}_{i}"] for i in range(len(value))]
            else:
                arguments[name] = variables[f"given_{name}_0"]
        constants = {name: _halved(value) if half else value for name, value in case.constants.items()}
        return getattr(mb, case.op)(**arguments, **constants)

    program = load_program(saved(build, from_list, folder, opset=case.opset))
    return list(program.run(from_list or {"unused": np.zeros(1, np.float32)}).values())


def _halved(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.astype(np.float16) if value.dtype == np.float32 else value
    return np.float16(value) if isinstance(value, float) else value


def _expected(case: Case, *, half: bool = False) -> list[torch.Tensor]:
    def tensor(value: Any) -> torch.Tensor:
        exact = torch.from_numpy(np.array(value))
        return exact.half().float() if half and exact.is_floating_point() else exact

    tensors = [
        [tensor(part) for part in value] if isinstance(value, list) else tensor(value)
        for value in case.inputs.values()
    ]
    result = case.expected(*tensors)
    return [torch.as_tensor(r) for r in (result if isinstance(result, (tuple, list)) else (result,))]


def _compare(got: Sequence[np.ndarray], expected: Sequence[torch.Tensor], rtol: float, atol: float) -> None:
    assert len(got) == len(expected)
    for value, wanted in zip(got, expected, strict=True):
        array = wanted.numpy()
        # Core ML's border has no scalars
        actual = value.reshape(()) if array.ndim == 0 and value.shape == (1,) else value
        assert actual.shape == array.shape
        np.testing.assert_allclose(
            actual.astype(np.float64), array.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True
        )
