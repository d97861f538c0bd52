"""Packages that are damaged or hostile: each is one clear error, before anything in them is believed."""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_harness import normal, saved
from mil_package import block_of, edit_manifest, edit_model, model_of, network, op_of, weights_of

from nagedge.errors import BundleError, DataError, NagEdgeError, UnsupportedOperatorError
from nagedge.runtimes.mil_program import load_program

Change = Callable[[Path], Any]
RECORD = 64  # of the weight, the first blob of the file


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network(tmp_path_factory.mktemp("original"))


@pytest.fixture
def package(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "p.mlpackage"))


def without(name: str) -> Change:
    """Drop an item from the manifest."""

    def change(document: Any) -> Any:
        entries = document["itemInfoEntries"]
        return {
            **document,
            "itemInfoEntries": {k: e for k, e in entries.items() if not e["path"].endswith(name)},
        }

    return lambda package: edit_manifest(package, change)


def moved(path: object) -> Change:
    """Give the item of the weights another path."""

    def change(document: Any) -> None:
        next(e for e in document["itemInfoEntries"].values() if e["path"].endswith("weights"))["path"] = path

    return lambda package: edit_manifest(package, change)


def manifest(content: str | bytes) -> Change:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda package: (package / "Manifest.json").write_bytes(data)


def link(package: Path) -> None:
    elsewhere = weights_of(package).with_name("elsewhere")
    weights_of(package).rename(elsewhere)
    weights_of(package).symlink_to(elsewhere)


def model(change: Callable[[Any], Any]) -> Change:
    return lambda package: edit_model(package, change)


def linear(change: Callable[[Any], Any]) -> Change:
    return model(lambda m: change(op_of(m, "linear")))


def result(**fields: Any) -> Change:
    """Declare the result of the linear op otherwise."""

    def change(op: Any) -> None:
        for name, value in fields.items():
            setattr(op.outputs[0].type.tensorType, name, value)

    return linear(change)


def weight(change: Callable[[Any], Any]) -> Change:
    """Change the value of the constant ``weight``."""
    return model(lambda m: change(
        next(op for op in block_of(m).operations if op.outputs[0].name == "weight").attributes["val"]
    ))  # fmt: skip


def stored(**fields: Any) -> Change:
    """Look for the weight elsewhere."""
    return weight(lambda value: [setattr(value.blobFileValue, name, field) for name, field in fields.items()])


def first_size(size: int) -> Change:
    return weight(lambda value: setattr(value.type.tensorType.dimensions[0].constant, "size", size))


def bytes_at(position: int, layout: str, value: int) -> Change:
    """Overwrite a number of the weight file."""

    def change(package: Path) -> None:
        content = bytearray(weights_of(package).read_bytes())
        struct.pack_into(layout, content, position, value)
        weights_of(package).write_bytes(bytes(content))

    return change


def cut(path: Callable[[Path], Path], size: int) -> Change:
    return lambda package: path(package).write_bytes(path(package).read_bytes()[:size])


def metadata(text: str) -> Change:
    return model(lambda m: m.description.metadata.userDefined.__setitem__("nagedge.names", text))


DAMAGE: dict[str, tuple[Change, str]] = {
    "no manifest": (
        lambda p: (p / "Manifest.json").unlink(),
        "is no Core ML package: expected a folder with Manifest",
    ),
    "manifest cut": (manifest("{"), "Manifest.json is damaged"),
    "manifest no text": (manifest(b"\xff\xfe\x00"), "Manifest.json is damaged"),
    "manifest nested": (manifest("[" * 100000), "Manifest.json is damaged"),
    "manifest a list": (manifest("[]"), "lacks 'itemInfoEntries' or 'rootModelIdentifier'"),
    "manifest huge": (manifest(" " * 2**21), "2097152 bytes, too large to be one"),
    "no root": (without("model.mlmodel"), "no entry for its root model"),
    "no weights entry": (without("weights"), "Manifest.json has no entry for it"),
    "path up": (moved("../../etc"), "the path '../../etc', which may lead out of the package"),
    "path absolute": (moved("/etc"), "the path '/etc', which may lead out of the package"),
    "path drive": (moved("C:\\x"), "which may lead out of the package"),
    "path empty": (moved(""), "the path '', which may lead out of the package"),
    "path no text": (moved(3), "the path 3, which may lead out of the package"),
    "no model": (lambda p: model_of(p).unlink(), "lacks the model's specification"),
    "no weights": (
        lambda p: weights_of(p).unlink(),
        "lacks the weight file '@model_path/weights/weight.bin'",
    ),
    "weights a link": (link, "'com.apple.CoreML/weights/weight.bin' is a link"),
    "model garbage": (lambda p: model_of(p).write_bytes(b"\x99garbage" * 50), "is no Core ML specification"),
    "model cut": (cut(model_of, -7), "is no Core ML specification"),
    "model empty": (cut(model_of, 0), "of the kind 'unknown', expected an ML Program"),
    "another kind": (model(lambda m: m.neuralNetwork.SetInParent()), "of the kind 'neuralNetwork'"),
    "no function": (
        model(lambda m: m.mlProgram.functions.pop("main")),
        "has no function 'main'; it has none",
    ),
    "no block": (
        model(lambda m: setattr(m.mlProgram.functions["main"], "opset", "CoreML8")),
        "no block for 'CoreML8'",
    ),
    "inputs differ": (
        model(lambda m: m.description.input.add(name="y")),
        "takes x, the model describes x, y",
    ),
    "undefined": (
        linear(lambda op: setattr(op.inputs["x"].arguments[0], "name", "ghost")),
        "takes 'ghost' as 'x', which nothing before it defines",
    ),
    "no output": (model(lambda m: block_of(m).outputs.append("ghost")), "nothing defines its output 'ghost'"),
    "defined twice": (
        linear(lambda op: setattr(op.outputs[0], "name", "x")),
        "(output 'x') defines the name again",
    ),
    "missing parameter": (linear(lambda op: op.inputs.pop("x")), "lacks the parameter 'x'"),
    "unknown parameter": (
        linear(lambda op: op.inputs["z"].arguments.add(name="x")),
        "has the parameter 'z'; expected x, weight, bias",
    ),
    "two for one": (
        linear(lambda op: op.inputs["x"].arguments.add(name="x")),
        "takes 2 values as 'x', expected one",
    ),
    "unknown type": (result(dataType=99), "has the unknown element type 99"),
    "rank differs": (result(rank=5), "has rank 5 but 2 sizes"),
    "no type": (linear(lambda op: op.outputs[0].ClearField("type")), "has no type: the program is damaged"),
    "no value": (
        weight(lambda value: value.ClearField("blobFileValue")),
        "has no value: the program is damaged",
    ),
    "no constant": (
        model(lambda m: op_of(m, "const").attributes.pop("val")),
        "is no constant: the program is damaged",
    ),
    "weight elsewhere": (stored(fileName="@model_path/../../../secret"), "which may lead out of the package"),
    "weight absolute": (stored(fileName="/etc/passwd"), "'/etc/passwd', which may lead out of the package"),
    "weight larger": (first_size(17), "the program's shape [17, 8] takes 544"),
    "weight endless": (
        first_size(2**62),
        "has the shape [4611686018427387904, 8]: more than the 1073741824 elements",
    ),
    "weight unsized": (
        weight(lambda value: value.type.tensorType.dimensions[0].unknown.SetInParent()),
        "is a constant whose shape is not known",
    ),
    "weight of fp16": (
        weight(lambda value: setattr(value.type.tensorType, "dataType", 10)),
        "holds fp32 at byte 64, the program expects fp16",
    ),
    "offset outside": (stored(offset=2**40), "is asked for a record at byte 1099511627776"),
    "offset odd": (stored(offset=65), "is asked for a record at byte 65"),
    "offset on data": (stored(offset=128), "has no record at byte 128"),
    "offset on header": (stored(offset=0), "is asked for a record at byte 0"),
    "names damaged": (metadata("{"), "its metadata 'nagedge.names' is damaged"),
    "names a list": (metadata("[1]"), "its metadata 'nagedge.names' is damaged"),
    "weights cut": (
        cut(weights_of, 300),
        "is truncated: the data of the record at byte 64 takes 512 bytes from byte 128",
    ),
    "weights empty": (cut(weights_of, 0), "has 0 bytes, its header alone takes 64"),
    "weights header": (cut(weights_of, 64), "is asked for a record at byte 64, but has 64 bytes"),
    "version": (bytes_at(4, "<I", 1), "has version 1, expected 2"),
    "sentinel": (bytes_at(RECORD, "<I", 0), "has no record at byte 64 (found 0x0 as its mark)"),
    "blob type": (bytes_at(RECORD + 4, "<I", 77), "has data of the unknown type 77 at byte 64"),
    "blob size": (bytes_at(RECORD + 8, "<Q", 2**63), "takes 9223372036854775808 bytes from byte 128 on"),
    "blob short": (bytes_at(RECORD + 8, "<Q", 256), "holds 256 bytes of fp32 at byte 64"),
    "blob offset": (bytes_at(RECORD + 16, "<Q", 2**64 - 64), "from byte 18446744073709551552 on"),
    "blob unaligned": (bytes_at(RECORD + 16, "<Q", 129), "from byte 129 on"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_package_is_one_clear_error(damage: str, package: Path) -> None:
    change, text = DAMAGE[damage]
    change(package)
    with pytest.raises(BundleError, match=re.escape(text)) as caught:
        load_program(package)
    assert str(package) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(25))
def test_random_damage_never_raises_anything_else(seed: int, package: Path) -> None:
    """Bytes changed anywhere: the program is refused, or runs (the byte did not matter, or was a value)."""
    rng = np.random.default_rng(seed)
    for path in (model_of(package), weights_of(package)):
        content = bytearray(path.read_bytes())
        for position in rng.integers(0, len(content), 3):
            content[position] = int(rng.integers(0, 256))
        path.write_bytes(bytes(content))
    refused: NagEdgeError | None = None
    try:
        load_program(package).run({"x": normal(2, 8)})
    except (BundleError, DataError, UnsupportedOperatorError) as error:
        refused = error
    assert refused is None or "\n" not in str(refused)


def relu(change: Callable[[Any], Any]) -> Change:
    return model(lambda m: change(op_of(m, "relu")))


RUN_TIME: dict[str, tuple[Change, str]] = {
    "wrong shape": (
        relu(lambda op: setattr(op.outputs[0].type.tensorType.dimensions[1].constant, "size", 17)),
        "op 'relu' (output 'result') gives the shape [2, 16], the program declares [2, 17]",
    ),
    "wrong kind": (
        relu(lambda op: setattr(op.outputs[0].type.tensorType, "dataType", 23)),
        "op 'relu' (output 'result') gives floating values, the program declares int32",
    ),
    "too few results": (
        relu(lambda op: setattr(op.outputs.add(name="more").type.tensorType, "dataType", 11)),
        "gives 1 results, the program declares 2",
    ),
    "does not fit": (
        linear(lambda op: setattr(op.inputs["weight"].arguments[0], "name", "x")),
        "op 'linear' (output 'product') cannot be computed: The size of tensor a (2) must match",
    ),
}


@pytest.mark.parametrize("change", RUN_TIME)
def test_a_result_that_is_not_as_declared_is_an_error(change: str, package: Path) -> None:
    edit, text = RUN_TIME[change]
    edit(package)
    with pytest.raises(BundleError, match=re.escape(text)):
        load_program(package).run({"x": normal(2, 8)})


def test_an_unknown_op_is_named(package: Path) -> None:
    edit_model(package, lambda m: setattr(op_of(m, "relu"), "type", "random_normal"))
    expected = f"does not know op 'random_normal' (output 'result') of program {str(package)!r}"
    with pytest.raises(UnsupportedOperatorError, match=re.escape(expected)):
        load_program(package)


HUGE: dict[str, Callable[..., Any]] = {
    "fill": lambda mb, n: mb.fill(shape=n, value=np.float32(1)),
    "tile": lambda mb, n: mb.tile(x=mb.cast(x=n, dtype="fp32"), reps=n),
    "range_1d": lambda mb, n: mb.range_1d(start=np.int32(0), end=mb.squeeze(x=n), step=np.int32(1)),
    "one_hot": lambda mb, n: mb.one_hot(indices=n, one_hot_vector_size=mb.squeeze(x=n)),
    "pad": lambda mb, n: mb.pad(x=mb.cast(x=n, dtype="fp32"), pad=mb.tile(x=n, reps=[2])),
}


@pytest.mark.parametrize("op", HUGE)
def test_a_tensor_without_end_is_not_made(op: str, tmp_path: Path) -> None:
    def build(n: Any) -> Any:
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

        return HUGE[op](mb, n)

    program = load_program(saved(build, {"n": np.int32([3])}, tmp_path))
    with pytest.raises(BundleError, match=re.escape(f"op {op!r}") + ".*expected at most 1073741824 elements"):
        program.run({"n": np.int32([2**31 - 1])})
