"""Lower a small function of ATen operators to an ML Program, save it, and evaluate the saved files beside torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lowering_harness import Lowering, check_rule, compare, drawn, traced
from torch import Tensor

from nagedge.backends.mil_lowering import Options, lower_to_mil, package
from nagedge.runtimes.mil_program import Program, load_program

__all__ = ["FREE", "check", "packaged", "run_once", "write_package"]

FREE = Options(18)


def packaged(item: Lowering, options: Options = FREE) -> dict[str, bytes]:
    """Return the files of a case's package."""
    return package(lower_to_mil(*traced(item), options), opset=options.opset, metadata={})


def write_package(files: dict[str, bytes], folder: Path) -> Path:
    """Write a package's files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def check(item: Lowering, folder: Path, options: Options = FREE) -> None:
    """Run a case at two batch sizes, neither the traced one (or at the fixed one), and compare with torch."""
    module, *border = traced(item)
    check_rule(item, module)
    files = package(lower_to_mil(module, *border, options), opset=options.opset, metadata={})
    program = load_program(write_package(files, folder / "case.mlpackage"))
    for batch in (3, 5) if options.batch is None else (options.batch,):
        inputs, expected = drawn(item, batch)
        got = program.run({f"x{i}": x.numpy() for i, x in enumerate(inputs)})
        assert list(got) == [f"y{i}" for i in range(len(expected))]
        for value, wanted in zip(got.values(), expected, strict=True):
            _compare(item, value, wanted, f"batch {batch}")


def _compare(item: Lowering, value: np.ndarray, wanted: np.ndarray, where: str) -> None:
    """Compare as Core ML can: it has int32 and float32, and no tensor without axes."""
    assert value.shape == (wanted.shape or (1,)), where
    stored = np.float32 if wanted.dtype.kind == "f" else np.int32
    compare(item, value.reshape(wanted.shape), wanted.astype(stored), where)


def run_once(program: Program, *inputs: Tensor) -> list[np.ndarray]:
    """Return the results of one run."""
    return list(program.run({f"x{i}": x.numpy() for i, x in enumerate(inputs)}).values())
