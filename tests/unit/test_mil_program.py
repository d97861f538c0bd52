"""Saved ML Programs: every op is tested, defaults, free shapes, types at the border, replaced constants, size."""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_harness import Case, check, every, normal, quiet, saved
from mil_package import WEIGHT, edit_model, network, op_of

from nagedge.errors import BundleError, DataError, RuntimeUnavailableError
from nagedge.runtimes.mil_program import load_program
from nagedge.runtimes.mil_program.ops import OPS, STRUCTURAL

FAMILIES = (
    "test_mil_elementwise", "test_mil_reduction", "test_mil_windows", "test_mil_shaping", "test_mil_indexing",
    "test_mil_tensors", "test_mil_image", "test_mil_recurrent", "test_mil_quantization",
)  # fmt: skip


def all_cases() -> list[Case]:
    return [case for family in FAMILIES for case in importlib.import_module(family).CASES]


def test_every_op_is_tested() -> None:
    tested = {case.op for case in all_cases()} | importlib.import_module("test_mil_control").COVERED
    tested |= {op for op, *_ in importlib.import_module("test_mil_quantization").CONSTANTS.values()}
    tested |= {
        "constexpr_lut_to_sparse",
        "constexpr_sparse_blockwise_shift_scale",
        "dequantize",
    }  # programs of their own
    assert tested == {*OPS, *STRUCTURAL}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return network(tmp_path)


def test_the_program_is_sound(package: Path) -> None:
    x = normal(2, 8)
    (got,) = load_program(package).run({"x": x}).values()
    np.testing.assert_allclose(got, np.maximum(x @ WEIGHT.T, 0), rtol=1e-5, atol=1e-6)


# --- what coremltools leaves out, and what is free ----------------------------------------------------------------

DEFAULTS = [case for case in all_cases() if "default" in case.label]


@every(DEFAULTS)
def test_a_missing_parameter_has_its_default(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """coremltools writes defaults out; other authors need not."""
    import mil_harness

    def strip(path: Path, removed: list[str]) -> Path:
        def change(model: Any) -> None:
            op = op_of(model, case.op)
            for name in [
                name for name in op.inputs if name not in case.inputs and name not in case.constants
            ]:
                removed.append(name)
                del op.inputs[name]

        edit_model(path, change)
        return path

    removed: list[str] = []
    write = mil_harness.saved
    monkeypatch.setattr(
        mil_harness, "saved", lambda *args, **options: strip(write(*args, **options), removed)
    )
    check(case, tmp_path)


@pytest.fixture(scope="module")
def flexible(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flexible") / "f.mlpackage"
    with quiet():
        import coremltools as ct
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
        from coremltools.converters.mil.mil import Function, Program, get_new_symbol

        program = Program()
        with Function(
            {"x": mb.placeholder(shape=(get_new_symbol(), 3))}, opset_version=ct.target.iOS16
        ) as function:
            x = function.inputs["x"]
            doubled = mb.concat(values=[x, x], axis=0)
            function.set_outputs(
                [
                    mb.reshape(
                        x=doubled,
                        shape=mb.concat(values=[mb.gather(x=mb.shape(x=x), indices=0), np.int32(-1)], axis=0),
                    )
                ]
            )
        program.add_function("main", function)
        model = ct.convert(
            program, convert_to="mlprogram", skip_model_load=True, pass_pipeline=ct.PassPipeline.EMPTY,
            minimum_deployment_target=ct.target.iOS16, compute_precision=ct.precision.FLOAT32,
            inputs=[ct.TensorType(name="x", shape=(ct.RangeDim(1, 4), 3))],
        )  # fmt: skip
        model.save(str(path))
    return path


@pytest.mark.parametrize("rows", [1, 4])
def test_a_size_may_be_free(rows: int, flexible: Path) -> None:
    x = normal(rows, 3)
    (got,) = load_program(flexible).run({"x": x}).values()
    np.testing.assert_allclose(got, np.concatenate([x, x]).reshape(rows, 6))


@pytest.mark.parametrize("shape", [(5, 3), (2, 4), (0, 3), (2, 3, 1)])
def test_a_size_out_of_its_range_is_refused(shape: tuple[int, ...], flexible: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"input 'x' has shape {list(shape)}, expected")):
        load_program(flexible).run({"x": np.zeros(shape, np.float32)})


def test_only_listed_shapes_are_taken(tmp_path: Path) -> None:
    with quiet():
        import coremltools as ct
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
        from coremltools.converters.mil.mil import Function, Program, get_new_symbol

        program = Program()
        with Function(
            {"x": mb.placeholder(shape=(get_new_symbol(), 3))}, opset_version=ct.target.iOS16
        ) as function:
            function.set_outputs([mb.square(x=function.inputs["x"])])
        program.add_function("main", function)
        ct.convert(
            program, convert_to="mlprogram", skip_model_load=True, minimum_deployment_target=ct.target.iOS16,
            compute_precision=ct.precision.FLOAT32,
            inputs=[ct.TensorType(name="x", shape=ct.EnumeratedShapes([(1, 3), (4, 3)]))],
        ).save(str(tmp_path / "e.mlpackage"))  # fmt: skip
    loaded = load_program(tmp_path / "e.mlpackage")
    (got,) = loaded.run({"x": np.full((4, 3), 2.0)}).values()
    assert got.shape == (4, 3)
    with pytest.raises(DataError, match=re.escape("has shape [2, 3], expected [1, 3] or [4, 3]")):
        loaded.run({"x": np.zeros((2, 3), np.float32)})


# --- the border -----------------------------------------------------------------------------------------------------


def test_inputs_are_converted_where_nothing_changes(tmp_path: Path) -> None:
    def build(x: Any, k: Any) -> Any:
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

        return mb.add(x=x, y=mb.cast(x=k, dtype="fp32"))

    program = load_program(saved(build, {"x": np.zeros(2, np.float32), "k": np.zeros(2, np.int32)}, tmp_path))
    (got,) = program.run({"x": np.float64([0.5, 1]), "k": np.array([True, False])}).values()
    assert got.tolist() == [1.5, 1.0]
    (got,) = program.run({"x": np.int64([1, 2]), "k": np.int64([3, 4])}).values()
    assert got.tolist() == [4, 6]
    for name, value, text in (
        (
            "k",
            np.int64([2**31, 0]),
            "holds numbers from 0 to 2147483648, int32 holds -2147483648 to 2147483647",
        ),
        ("k", np.float32([0.5, 0]), "input 'k' has dtype float32, expected int32"),
        ("x", np.array(["a", "b"]), "input 'x' has dtype <U1, expected fp32"),
        ("x", np.float32([1, 2, 3]), "input 'x' has shape [3], expected [2]"),
    ):
        fed = {"x": np.zeros(2, np.float32), "k": np.zeros(2, np.int32), name: value}
        with pytest.raises(DataError, match=re.escape(text)):
            program.run(fed)
    with pytest.raises(DataError, match="takes 'k', which is missing; got x"):
        program.run({"x": np.zeros(2, np.float32)})
    with pytest.raises(DataError, match="takes no 'z'; it takes x, k"):
        program.run({"x": np.zeros(2, np.float32), "k": np.zeros(2, np.int32), "z": np.zeros(1)})


def test_nothing_given_is_changed(package: Path) -> None:
    x = normal(2, 8)
    before = x.copy()
    first = load_program(package)
    one = first.run({"x": x})
    two = first.run({"x": x})
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(next(iter(one.values())), next(iter(two.values())))


def test_constants_can_be_replaced(package: Path) -> None:
    edit_model(package, lambda m: m.description.metadata.userDefined.__setitem__(
        "nagedge.names", json.dumps({"weight": "layer.weight"})))  # fmt: skip
    x, weight = normal(2, 8), normal(16, 8, seed=5)
    (got,) = load_program(package, replaced={"layer.weight": weight}).run({"x": x}).values()
    np.testing.assert_allclose(got, np.maximum(x @ weight.T, 0), rtol=1e-5, atol=1e-5)
    with pytest.raises(BundleError, match=r"has no plain constant 'layer\.bias' to"):
        load_program(package, replaced={"layer.bias": weight})
    with pytest.raises(BundleError, match=re.escape("gives the shape [8, 16], the program declares [16, 8]")):
        load_program(package, replaced={"layer.weight": weight.T.copy()})


# --- at large --------------------------------------------------------------------------------------------------------


def test_thousands_of_ops_take_seconds_and_are_freed(tmp_path: Path) -> None:
    """Four thousand ops on a megabyte each: all of them at once would take four gigabytes."""
    import resource

    def build(x: Any) -> Any:
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

        for _ in range(2000):
            x = mb.mul(x=mb.add(x=x, y=np.float32(1)), y=np.float32(0.5))
        return x

    path = saved(build, {"x": np.zeros((512, 512), np.float32)}, tmp_path)
    program = load_program(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    (got,) = program.run({"x": np.zeros((512, 512), np.float32)}).values()
    seconds = time.process_time() - start
    np.testing.assert_allclose(got, 1.0)
    assert seconds < 20
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 400e6


def test_without_coremltools_it_says_what_to_install(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coremltools.proto", None)
    with pytest.raises(RuntimeUnavailableError, match=re.escape("pip install 'nagedge[coreml]'")):
        load_program(package)
