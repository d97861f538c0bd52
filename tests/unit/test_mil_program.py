"""The reader of saved ML Programs: defaults, free shapes, types at the border, and files that are damaged or hostile."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mil_harness import Case, check, every, normal, quiet, saved, whole

from nagedge.errors import BundleError, DataError, RuntimeUnavailableError, UnsupportedOperatorError
from nagedge.runtimes.mil_program import load_program
from nagedge.runtimes.mil_program.blobs import BlobFile
from nagedge.runtimes.mil_program.dtypes import BY_NAME, fit
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
    tested |= {"constexpr_lut_to_sparse", "constexpr_sparse_blockwise_shift_scale", "dequantize"}  # programs of their own
    assert tested == {*OPS, *STRUCTURAL}


# --- a program to damage -----------------------------------------------------------------------------------------

WEIGHT = normal(16, 8, seed=1)


def network(x: Any) -> Any:
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

    weight = mb.const(val=WEIGHT, name="weight")
    return mb.relu(x=mb.linear(x=x, weight=weight, name="product"), name="result")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(network, {"x": normal(2, 8)}, tmp_path_factory.mktemp("original"))


@pytest.fixture
def package(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "p.mlpackage"))


def weights_of(package: Path) -> Path:
    return package / "Data/com.apple.CoreML/weights/weight.bin"


def model_of(package: Path) -> Path:
    return package / "Data/com.apple.CoreML/model.mlmodel"


def edit_model(package: Path, change: Callable[[Any], None]) -> None:
    with quiet():
        from coremltools.proto import Model_pb2
    model = Model_pb2.Model()
    model.ParseFromString(model_of(package).read_bytes())
    change(model)
    model_of(package).write_bytes(model.SerializeToString())


def block_of(model: Any) -> Any:
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def op_of(model: Any, kind: str) -> Any:
    return next(op for op in block_of(model).operations if op.type == kind)


def test_the_program_is_sound(package: Path) -> None:
    x = normal(2, 8)
    (got,) = load_program(package).run({"x": x}).values()
    np.testing.assert_allclose(got, np.maximum(x @ WEIGHT.T, 0), rtol=1e-5, atol=1e-6)


def edit_manifest(package: Path, change: Callable[[Any], Any]) -> None:
    path = package / "Manifest.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(change(document) or document))


def entry_of(document: Any, name: str) -> Any:
    return next(e for e in document["itemInfoEntries"].values() if e["path"].endswith(name))


def without(document: Any, name: str) -> Any:
    entries = document["itemInfoEntries"]
    return {**document, "itemInfoEntries": {k: e for k, e in entries.items() if not e["path"].endswith(name)}}


def overwrite(path: Path, at: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(bytes(content))


def link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def rename_binding(model: Any, parameter: str, name: str) -> None:
    op_of(model, "linear").inputs[parameter].arguments[0].name = name


def set_shape(model: Any, kind: str, *sizes: int) -> None:
    for dimension, size in zip(op_of(model, kind).outputs[0].type.tensorType.dimensions, sizes, strict=True):
        dimension.constant.size = size


def weight_value(model: Any) -> Any:
    return next(op for op in block_of(model).operations if op.outputs[0].name == "weight").attributes["val"]


RECORD = 64  # of the weight, the first blob of the file

DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    # the folder
    "no manifest": (lambda p: (p / "Manifest.json").unlink(), "is no Core ML package: expected a folder with Manifest.json"),
    "manifest cut": (lambda p: (p / "Manifest.json").write_text("{"), "Manifest.json is damaged"),
    "manifest no text": (lambda p: (p / "Manifest.json").write_bytes(b"\xff\xfe\x00"), "Manifest.json is damaged"),
    "manifest nested": (lambda p: (p / "Manifest.json").write_text("[" * 100000), "Manifest.json is damaged"),
    "manifest a list": (lambda p: (p / "Manifest.json").write_text("[]"), "lacks 'itemInfoEntries' or 'rootModelIdentifier'"),
    "manifest huge": (lambda p: (p / "Manifest.json").write_text(" " * 2**21), "2097152 bytes, too large to be one"),
    "no root": (lambda p: edit_manifest(p, lambda d: without(d, "model.mlmodel")), "no entry for its root model"),
    "no weights entry": (lambda p: edit_manifest(p, lambda d: without(d, "weights")), "Manifest.json has no entry for it"),
    "path up": (lambda p: edit_manifest(p, lambda d: entry_of(d, "weights").update(path="../../etc")), "'../../etc', which may lead out"),
    "path absolute": (lambda p: edit_manifest(p, lambda d: entry_of(d, "weights").update(path="/etc")), "'/etc', which may lead out"),
    "path drive": (lambda p: edit_manifest(p, lambda d: entry_of(d, "weights").update(path="C:\\x")), "may lead out of the package"),
    "path no text": (lambda p: edit_manifest(p, lambda d: entry_of(d, "weights").update(path=3)), "the path 3, which may lead out"),
    "no model": (lambda p: model_of(p).unlink(), "lacks the model's specification"),
    "no weights": (lambda p: weights_of(p).unlink(), "lacks the weight file '@model_path/weights/weight.bin'"),
    "weights a link": (lambda p: link(weights_of(p)), "'com.apple.CoreML/weights/weight.bin' is a link"),
    # the specification
    "model garbage": (lambda p: model_of(p).write_bytes(b"\x99garbage" * 50), "is no Core ML specification"),
    "model cut": (lambda p: model_of(p).write_bytes(model_of(p).read_bytes()[:-7]), "is no Core ML specification"),
    "model empty": (lambda p: model_of(p).write_bytes(b""), "holds a model of the kind 'unknown', expected an ML Program"),
    "another kind": (lambda p: edit_model(p, lambda m: m.neuralNetwork.SetInParent()), "of the kind 'neuralNetwork'"),
    "no function": (lambda p: edit_model(p, lambda m: m.mlProgram.functions.pop("main")), "has no function 'main'; it has none"),
    "no block": (lambda p: edit_model(p, lambda m: setattr(m.mlProgram.functions["main"], "opset", "CoreML8")), "has no block for 'CoreML8'"),
    "inputs differ": (lambda p: edit_model(p, lambda m: m.description.input.add(name="y")), "function 'main' takes x, the model describes x, y"),
    "undefined": (lambda p: edit_model(p, lambda m: rename_binding(m, "x", "ghost")), "takes 'ghost' as 'x', which nothing before it defines"),
    "no output": (lambda p: edit_model(p, lambda m: block_of(m).outputs.__setitem__(0, "ghost")), "nothing defines its output 'ghost'"),
    "defined twice": (lambda p: edit_model(p, lambda m: setattr(op_of(m, "linear").outputs[0], "name", "x")), "op 'linear' (output 'x') defines the name again"),
    "missing parameter": (lambda p: edit_model(p, lambda m: op_of(m, "linear").inputs.pop("x")), "lacks the parameter 'x'"),
    "unknown parameter": (lambda p: edit_model(p, lambda m: op_of(m, "linear").inputs["z"].arguments.add(name="x")), "has the parameter 'z'; expected x, weight, bias"),
    "two for one": (lambda p: edit_model(p, lambda m: op_of(m, "linear").inputs["x"].arguments.add(name="x")), "takes 2 values as 'x', expected one"),
    "unknown dtype": (lambda p: edit_model(p, lambda m: setattr(op_of(m, "linear").outputs[0].type.tensorType, "dataType", 99)), "has the unknown element type 99"),
    "rank differs": (lambda p: edit_model(p, lambda m: setattr(op_of(m, "linear").outputs[0].type.tensorType, "rank", 5)), "has rank 5 but 2 sizes"),
    "no type": (lambda p: edit_model(p, lambda m: op_of(m, "linear").outputs[0].ClearField("type")), "has no type: the program is damaged"),
    "no value": (lambda p: edit_model(p, lambda m: weight_value(m).ClearField("blobFileValue")), "has no value: the program is damaged"),
    "no attribute": (lambda p: edit_model(p, lambda m: op_of(m, "const").attributes.pop("val")), "is no constant: the program is damaged"),
    "weight elsewhere": (lambda p: edit_model(p, lambda m: setattr(weight_value(m).blobFileValue, "fileName", "@model_path/../../../secret")), "which may lead out of the package"),
    "weight absolute": (lambda p: edit_model(p, lambda m: setattr(weight_value(m).blobFileValue, "fileName", "/etc/passwd")), "'/etc/passwd', which may lead out"),
    "weight transposed": (lambda p: edit_model(p, lambda m: weight_value(m).type.tensorType.dimensions[0].constant.__setattr__("size", 17)), "the program's shape [17, 8] takes 544"),
    "weight endless": (lambda p: edit_model(p, lambda m: weight_value(m).type.tensorType.dimensions[0].constant.__setattr__("size", 2**62)), "the program's shape [4611686018427387904, 8]"),
    "weight unknown size": (lambda p: edit_model(p, lambda m: weight_value(m).type.tensorType.dimensions[0].unknown.SetInParent()), "is a constant whose shape is not known"),
    "weight other type": (lambda p: edit_model(p, lambda m: setattr(weight_value(m).type.tensorType, "dataType", 10)), "holds fp32 at byte 64, the program expects fp16"),
    "offset outside": (lambda p: edit_model(p, lambda m: setattr(weight_value(m).blobFileValue, "offset", 2**40)), "is asked for a record at byte 1099511627776"),
    "offset odd": (lambda p: edit_model(p, lambda m: setattr(weight_value(m).blobFileValue, "offset", 65)), "is asked for a record at byte 65"),
    "offset on data": (lambda p: edit_model(p, lambda m: setattr(weight_value(m).blobFileValue, "offset", 128)), "has no record at byte 128"),
    "offset on header": (lambda p: edit_model(p, lambda m: setattr(weight_value(m).blobFileValue, "offset", 0)), "is asked for a record at byte 0"),
    "names damaged": (lambda p: edit_model(p, lambda m: m.description.metadata.userDefined.__setitem__("nagedge.names", "{")), "its metadata 'nagedge.names' is damaged"),
    "names a list": (lambda p: edit_model(p, lambda m: m.description.metadata.userDefined.__setitem__("nagedge.names", "[1]")), "its metadata 'nagedge.names' is damaged"),
    # the weight file
    "weights cut": (lambda p: weights_of(p).write_bytes(weights_of(p).read_bytes()[:300]), "is truncated: the data of the record at byte 64 takes 512 bytes from byte 128 on, the file has 300"),
    "weights empty": (lambda p: weights_of(p).write_bytes(b""), "has 0 bytes, its header alone takes 64"),
    "weights header": (lambda p: weights_of(p).write_bytes(weights_of(p).read_bytes()[:64]), "is asked for a record at byte 64, but has 64 bytes"),
    "version": (lambda p: overwrite(weights_of(p), 4, struct.pack("<I", 1)), "has version 1, expected 2"),
    "sentinel": (lambda p: overwrite(weights_of(p), RECORD, b"\0\0\0\0"), "has no record at byte 64 (found 0x0 as its mark)"),
    "blob type": (lambda p: overwrite(weights_of(p), RECORD + 4, struct.pack("<I", 77)), "has data of the unknown type 77 at byte 64"),
    "blob size": (lambda p: overwrite(weights_of(p), RECORD + 8, struct.pack("<Q", 2**63)), "takes 9223372036854775808 bytes from byte 128 on"),
    "blob short": (lambda p: overwrite(weights_of(p), RECORD + 8, struct.pack("<Q", 256)), "holds 256 bytes of fp32 at byte 64, the program's shape [16, 8] takes 512"),
    "blob offset": (lambda p: overwrite(weights_of(p), RECORD + 16, struct.pack("<Q", 2**64 - 64)), "from byte 18446744073709551552 on"),
    "blob unaligned": (lambda p: overwrite(weights_of(p), RECORD + 16, struct.pack("<Q", 129)), "from byte 129 on"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_package_is_one_clear_error(damage: str, package: Path) -> None:
    change, text = DAMAGE[damage]
    change(package)
    with pytest.raises(BundleError, match=re.escape(text)) as caught:
        load_program(package)
    assert str(package) in str(caught.value) or package.name in str(caught.value)


@pytest.mark.parametrize("seed", range(25))
def test_random_damage_never_raises_anything_else(seed: int, package: Path) -> None:
    """Bytes changed anywhere: the program is refused, or runs (the byte did not matter, or was a value)."""
    rng = np.random.default_rng(seed)
    for path in (model_of(package), weights_of(package)):
        content = bytearray(path.read_bytes())
        for position in rng.integers(0, len(content), 3):
            content[position] = int(rng.integers(0, 256))
        path.write_bytes(bytes(content))
    try:
        load_program(package).run({"x": normal(2, 8)})
    except (BundleError, DataError, UnsupportedOperatorError) as error:
        assert "\n" not in str(error)


RUN_TIME: dict[str, tuple[Callable[[Any], None], str]] = {
    "wrong shape": (lambda m: set_shape(m, "relu", 2, 17), "op 'relu' (output 'result') gives the shape [2, 16], the program declares [2, 17]"),
    "wrong kind": (lambda m: setattr(op_of(m, "relu").outputs[0].type.tensorType, "dataType", 23), "op 'relu' (output 'result') gives floating values, the program declares int32"),
    "does not fit": (lambda m: rename_binding(m, "weight", "x"), "op 'linear' (output 'product') cannot be computed: The size of tensor a (2) must match"),
    "too few results": (lambda m: op_of(m, "relu").outputs.add(name="more").type.tensorType.__setattr__("dataType", 11), "gives 1 results, the program declares 2"),
}  # fmt: skip


@pytest.mark.parametrize("change", RUN_TIME)
def test_a_result_that_is_not_as_declared_is_an_error(change: str, package: Path) -> None:
    edit, text = RUN_TIME[change]
    edit_model(package, edit)
    with pytest.raises(BundleError, match=re.escape(text)):
        load_program(package).run({"x": normal(2, 8)})


def test_an_unknown_op_is_named(package: Path) -> None:
    edit_model(package, lambda m: setattr(op_of(m, "relu"), "type", "random_normal"))
    expected = f"does not know op 'random_normal' (output 'result') of program {str(package)!r}"
    with pytest.raises(UnsupportedOperatorError, match=re.escape(expected)):
        load_program(package)


# --- what coremltools leaves out, and what is free ----------------------------------------------------------------

DEFAULTS = [case for case in all_cases() if "default" in case.label]


@every(DEFAULTS)
def test_a_missing_parameter_has_its_default(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """coremltools writes defaults out; other authors need not."""
    import mil_harness

    def strip(path: Path, removed: list[str]) -> Path:
        def change(model: Any) -> None:
            op = op_of(model, case.op)
            for name in [name for name in op.inputs if name not in case.inputs and name not in case.constants]:
                removed.append(name)
                del op.inputs[name]

        edit_model(path, change)
        return path

    removed: list[str] = []
    write = mil_harness.saved
    monkeypatch.setattr(mil_harness, "saved", lambda *args, **options: strip(write(*args, **options), removed))
    check(case, tmp_path)




@pytest.fixture(scope="module")
def flexible(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flexible") / "f.mlpackage"
    with quiet():
        import coremltools as ct
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
        from coremltools.converters.mil.mil import Function, Program, get_new_symbol

        program = Program()
        with Function({"x": mb.placeholder(shape=(get_new_symbol(), 3))}, opset_version=ct.target.iOS16) as function:
            x = function.inputs["x"]
            doubled = mb.concat(values=[x, x], axis=0)
            function.set_outputs([mb.reshape(x=doubled, shape=mb.concat(values=[mb.gather(x=mb.shape(x=x), indices=0),
                                                                                np.int32(-1)], axis=0))])
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
        with Function({"x": mb.placeholder(shape=(get_new_symbol(), 3))}, opset_version=ct.target.iOS16) as function:
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
        ("k", np.int64([2**31, 0]), "holds numbers from 0 to 2147483648, int32 holds -2147483648 to 2147483647"),
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
    with pytest.raises(BundleError, match="has no plain constant 'layer.bias' to replace"):
        load_program(package, replaced={"layer.bias": weight})
    with pytest.raises(BundleError, match=re.escape("gives the shape [8, 16], the program declares [16, 8]")):
        load_program(package, replaced={"layer.weight": weight.T.copy()})


# --- the weight file, by its own writer ------------------------------------------------------------------------------

BLOBS: dict[str, tuple[str, np.ndarray]] = {
    "fp32": ("write_float_data", normal(3, 5)),
    "int8": ("write_int8_data", whole(-128, 128, 3, 5).astype(np.int8)),
    "uint8": ("write_uint8_data", whole(0, 256, 3, 5).astype(np.uint8)),
    "int16": ("write_int16_data", whole(-(2**15), 2**15, 3, 5).astype(np.int16)),
    "uint16": ("write_uint16_data", whole(0, 2**16, 3, 5).astype(np.uint16)),
    "int32": ("write_int32_data", whole(-(2**31), 2**31 - 1, 3, 5)),
    "uint32": ("write_uint32_data", np.random.default_rng(0).integers(0, 2**32, (3, 5), dtype=np.uint32)),
    "fp16": ("write_fp16_data", normal(3, 5).astype(np.float16)),
    "int4": ("write_int4_data", whole(-8, 8, 3, 5).astype(np.int8)),
    **{
        f"uint{bits}": (f"write_uint{bits}_data", whole(0, 1 << bits, 3, 5).astype(np.uint8))
        for bits in (1, 2, 3, 4, 6)
    },
}


def test_every_type_of_apples_writer_is_read(tmp_path: Path) -> None:
    with quiet():
        from coremltools.libmilstoragepython import _BlobStorageWriter
    path = tmp_path / "weight.bin"
    writer = _BlobStorageWriter(str(path))
    offsets = {}
    for name, (method, array) in BLOBS.items():
        flat = array.reshape(-1)
        offsets[name] = getattr(writer, method)(flat.view(np.uint16) if name == "fp16" else flat)
    del writer
    file = BlobFile(path)
    for name, (_, array) in BLOBS.items():
        got = file.read(offsets[name], BY_NAME[name], (3, 5))
        assert got.dtype == BY_NAME[name].carrier
        np.testing.assert_array_equal(got.numpy().astype(np.float64), array.astype(np.float64), err_msg=name)


@pytest.mark.parametrize(
    ("name", "values", "wanted"),
    [
        ("uint16", [-1, 65536, 7], [65535, 0, 7]), ("int4", [8, -9, -8], [-8, 7, -8]), ("uint4", [16, -1, 3], [0, 15, 3]),
        ("int8", [128, -129], [-128, 127]), ("uint32", [-1, 2**32], [2**32 - 1, 0]),
    ],
)  # fmt: skip
def test_integers_wrap_into_their_range(name: str, values: list[int], wanted: list[int]) -> None:
    assert fit(torch.tensor(values), BY_NAME[name]).tolist() == wanted


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
