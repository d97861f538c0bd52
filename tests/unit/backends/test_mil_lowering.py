"""Lowering to ML Programs: what is Core ML's own, the files, their sizes, their names, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lowering_harness import Lowering, case, flags, ints, normal, one_of, traced
from mil_lowering_harness import FREE, check, packaged
from models_for_tests import KIND, LEVEL, TwoHeads
from torch import nn

import nagedge
from nagedge.backends import coreml
from nagedge.backends.mil_lowering import Options, lower_to_mil, package
from nagedge.backends.mil_lowering.high_rank import MAX_RANK, within_rank
from nagedge.backends.mil_lowering.lower import RULES
from nagedge.backends.mil_lowering.names import feature_name, original_name
from nagedge.errors import ConfigurationError, UnsupportedOperatorError
from nagedge.graphs.decompositions import PORTABLE_OPS
from nagedge.runtimes import open_inference
from nagedge.runtimes.mil_program import load_program
from nagedge.targets import load_target

aten = torch.ops.aten
OF_SIZES = {"sym_size", "floordiv", "getitem"}


def test_every_portable_operator_has_a_rule() -> None:
    missing = PORTABLE_OPS - OF_SIZES - set(RULES)
    assert not missing


# --- names ----------------------------------------------------------------------------------------------------


@example("stages.1.norm_xca.weight")
@example("a_xca_b")
@example("a_xca")
@example("state")
@given(st.text(alphabet="a_.x5é", max_size=9) | st.text(max_size=8))
@settings(max_examples=1000)
def test_names_come_back(name: str) -> None:
    feature = feature_name(name)
    assert original_name(feature) == name
    assert not feature or (feature.isidentifier() and feature.isascii())
    assert not feature.startswith(("_v", "_c"))


def test_usual_names_read_as_before() -> None:
    assert feature_name("sample_weight") == "sample_weight"
    assert feature_name("next.params.trunk.0.weight_hh_l1") == "next__params__trunk__0__weight_hh_l1"


# --- what MIL does otherwise than torch -----------------------------------------------------------------------

OWN = [
    case("where", "condition larger than its values", lambda c, x: torch.where(c, x[:, :1], 0.0), flags(4), normal(3)),
    case("where", "scalars", lambda c: torch.where(c, 1.0, 0.0), flags(4)),
    case("log", "of zero", torch.log, one_of((0.0, 1.0, 1e-30), 3)),
    case("reciprocal", "small", torch.reciprocal, one_of((1e-6, -1e-6, 1e30, 3.0), 4)),
    case("expand", "along the batch", lambda x: x + torch.ones(1, 3).expand(x.shape[0], 3), normal(3)),
    case("expand", "as a result", lambda x: x[:, :1].expand(-1, 4), normal(3)),
    case("expand", "of the batch, as a result", lambda x: x.sum(0, keepdim=True).expand(x.shape[0], -1), normal(3)),
    case("full", "as a result", lambda x: (torch.full((2, 3), 4.5), x * 1), normal(2)),
    case("arange", "floating", lambda x: x + torch.arange(0.0, 2.0, 0.5), normal(4)),
    case("constant_pad_nd", "whole numbers", lambda x: aten.constant_pad_nd.default(x, [1, 2], -7), ints(-9, 9, 3)),
    case("constant_pad_nd", "flags", lambda x: aten.constant_pad_nd.default(x, [1, 2], True), flags(3)),
    case("index_select", "flags", lambda x, i: aten.index_select.default(x, 1, i), flags(4),
         constants=(torch.tensor([3, 0, -1]) % 4,)),
    case("sum", "flags", lambda x: x.sum(1), flags(4)),
    case("select", "of a vector", lambda x: (x.sum(0)[1], x[:, 0]), normal(3)),
    case("mm", "both transposed", lambda x, w: (w.t() @ x.t()).t() + x.t()[:1].t(), normal(3),
         constants=(torch.randn(3, 3),)),
    case("addmm", "constant weights", lambda x, w, b: aten.addmm.default(b, x, w.t()), normal(3),
         constants=(torch.randn(5, 3), torch.randn(5))),
    case("addmm", "a bias a row", lambda x, w, b: aten.addmm.default(b, x, w.t()), normal(3),
         constants=(torch.randn(5, 3), torch.randn(1, 5))),
    case("_log_softmax", "large", lambda x: torch.log_softmax(x * 300, 1), normal(5), atol=1e-4),
    case("max_pool2d_with_indices", "indices, padding, dilation",
         lambda x: aten.max_pool2d_with_indices.default(x, [2, 3], [2, 1], [1, 1], [1, 2])[1], normal(2, 6, 7)),
]  # fmt: skip


@pytest.mark.parametrize("item", OWN, ids=str)
def test_where_mil_and_torch_differ(item: Lowering, tmp_path: Path) -> None:
    check(item, tmp_path)


@pytest.mark.parametrize("opset", [16, 17])
@pytest.mark.parametrize("item", [OWN[0], OWN[9], OWN[11], OWN[16]], ids=str)
def test_older_operator_sets(item: Lowering, opset: int, tmp_path: Path) -> None:
    check(item, tmp_path, Options(opset))


def test_a_fixed_batch_leaves_nothing_to_run_time(tmp_path: Path) -> None:
    item = case("mean", "over the batch", lambda x: (x - x.mean(0)).reshape(-1) / x.shape[0], normal(3))
    check(item, tmp_path, replace(FREE, batch=6))
    for options, reads in ((replace(FREE, batch=6), False), (FREE, True)):
        kinds = {op.op_type for op in lower_to_mil(*traced(item), options).program["main"].operations}
        assert ("shape" in kinds) is reads


def test_an_input_may_be_an_output_and_an_output_may_come_twice(tmp_path: Path) -> None:
    def function(x: torch.Tensor) -> list[torch.Tensor]:
        y = x + 1
        return [x, y, y, torch.ones(2)]

    check(case("add", "", function, normal(2)), tmp_path)


# --- more than five axes --------------------------------------------------------------------------------------


def in_six_axes(x: torch.Tensor) -> list[torch.Tensor]:
    y = x.view(-1, 2, 3, 2, 2, 4)
    scaled = y * 2 + y.mean(3, keepdim=True)
    return [
        y.sum([3, 5]),
        y.permute(0, 3, 1, 5, 2, 4).reshape(-1, 24, 4),
        y.permute(5, 4, 3, 2, 1, 0).flatten(0, 4),
        scaled.relu().amax([1, 4]),
        torch.where(scaled > 0, scaled, torch.zeros_like(scaled)).select(3, 1),
        torch.cat([scaled, y], 4).flatten(1),
        y.unsqueeze(0).expand(3, -1, -1, -1, -1, -1, -1).sum(0).sum(-1),
        torch.nn.functional.pad(y, [1, 0, 0, 2]).flip([2, 5])[:, :, :, 0],
        y.softmax(4).flatten(1),
        (y + torch.ones_like(y)).sum(5),
    ]


@pytest.mark.parametrize("batch", [None, 4])
def test_tensors_of_six_and_seven_axes(batch: int | None, tmp_path: Path) -> None:
    item = case("permute", "six axes", in_six_axes, normal(96), rtol=1e-5, atol=1e-5)
    check(item, tmp_path, replace(FREE, batch=batch))
    module = within_rank(traced(item)[0])
    fakes = [
        node.meta["val"] for node in module.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)
    ]
    assert max(fake.dim() for fake in fakes) <= MAX_RANK


def test_what_has_no_form_with_fewer_axes_is_refused() -> None:
    for say, function in {
        "has more than 5 axes": lambda x: x.view(-1, 2, 2, 2, 2, 2),
        "'unbind' on a tensor of more than 5 axes": lambda x: aten.unbind.int(x.view(-1, 2, 2, 2, 2, 2), 1)[
            0
        ].sum([1, 2]),
    }.items():
        with pytest.raises(UnsupportedOperatorError, match=say):
            packaged(case("view", "", function, normal(32)))


# --- the files ------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Weights used forwards and (frozen, in a training step) backwards; a dilated and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=2, dilation=2), nn.GELU(), nn.Conv2d(24, 24, 3, groups=24, stride=2),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(384, 64), nn.LayerNorm(64),
        )  # fmt: skip
        self.heads = TwoHeads(nn.ReLU(), 64)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = self.heads(self.trunk(x))
        return found


def exported(folder: Path, **options: object) -> nagedge.Bundle:
    torch.manual_seed(0)
    return nagedge.export(
        Net().eval(), tasks=[KIND, LEVEL], example_input=torch.randn(4, 3, 17, 17), out=folder,
        **{"targets": "ios-arm64-coreml-fp32-train", **options},
    )  # fmt: skip


def size_of(bundle: nagedge.Bundle, artifact: str) -> int:
    return sum(bundle.manifest.files[name].size_bytes for name in bundle.manifest.files_in(artifact))


def test_files_hold_weights_once_and_nothing_that_can_be_computed(tmp_path: Path) -> None:
    bundle = exported(tmp_path / "b", trainable="heads")
    weights = sum(array.nbytes for array in bundle.params().values())
    artifacts = bundle.manifest.targets["ios-arm64-coreml-fp32-train"].artifacts
    assert size_of(bundle, artifacts["infer"]) <= 1.1 * weights + 16_000
    assert size_of(bundle, artifacts["train_step"]) <= 1.1 * weights + 40_000


def test_two_exports_are_equal_to_the_byte(tmp_path: Path) -> None:
    first, second = exported(tmp_path / "a"), exported(tmp_path / "b")
    assert first.manifest.files == second.manifest.files


def layer(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x @ w.t())


def test_the_manifest_lists_what_is_there() -> None:
    files = packaged(case("mm", "", layer, normal(64), constants=(torch.randn(96, 64),)))
    manifest = json.loads(files["Manifest.json"])
    paths = {entry["path"] for entry in manifest["itemInfoEntries"].values()}
    assert paths == {"com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"}
    assert manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["name"] == "model.mlmodel"
    without = json.loads(packaged(case("add", "", torch.add, normal(2), normal(2)))["Manifest.json"])
    assert [entry["name"] for entry in without["itemInfoEntries"].values()] == ["model.mlmodel"]


@pytest.mark.parametrize("batch_norm", ["train", "freeze"])
def test_batch_norm_in_a_training_step(batch_norm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2), nn.BatchNorm2d(6), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten()
    )
    bundle = nagedge.export(
        TwoHeads(trunk, 24).eval(), tasks=[KIND, LEVEL], example_input=torch.randn(4, 2, 10, 10),
        targets="ios-arm64-coreml-fp32-train", out=tmp_path / "b", batch_norm=batch_norm,
    )  # fmt: skip
    assert all(c.within_tolerance for c in nagedge.verify(bundle, steps=4))


@pytest.mark.parametrize("batch_norm", ["fold", "train"])
def test_an_app_predicts_with_the_state_that_it_trains(batch_norm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2), nn.BatchNorm2d(6), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten()
    )
    bundle = nagedge.export(
        TwoHeads(trunk, 24).eval(), tasks=[KIND, LEVEL], example_input=torch.randn(4, 2, 10, 10),
        targets="ios-arm64-coreml-fp32-train", out=tmp_path / "b", batch_norm=batch_norm, trainable="all",
    )  # fmt: skip
    artifacts = bundle.manifest.targets["ios-arm64-coreml-fp32-train"].artifacts
    program = load_program(bundle.file(artifacts["evaluate"]))
    rng = np.random.default_rng(0)
    training = bundle.manifest.training
    assert training is not None
    stored = bundle.params()
    changed = {
        name: stored[name] * rng.uniform(0.5, 1.5) for name in (*training.parameters, *training.buffers)
    }
    roles = {name: f"params.{name}" for name in training.parameters}
    roles |= {name: f"buffers.{name}" for name in training.buffers}
    x = rng.standard_normal((3, 2, 10, 10)).astype(np.float32)
    fed = {feature_name(roles[name]): array for name, array in changed.items()}
    got = program.run({"x": x, **{name: array for name, array in fed.items() if name in program.inputs}})
    reference = open_inference(bundle, runtime="torch", params=changed)
    for task, value in reference.predict({"x": x}).items():
        np.testing.assert_allclose(got[task].reshape(value.shape), value, rtol=1e-4, atol=1e-5)
    assert set(program.inputs) - {"x"} <= set(fed)
    assert size_of(bundle, artifacts["evaluate"]) < 12_000


# --- refusals -------------------------------------------------------------------------------------------------


class Warps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.warp = Grid()
        self.head = TwoHeads(nn.Flatten(), 32)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = self.head(self.warp(x))
        return found


class Grid(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


def test_an_operator_without_a_rule_names_module_target_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        nagedge.export(
            Warps(), tasks=[KIND, LEVEL], example_input=torch.randn(4, 2, 4, 4), targets="ios-arm64-coreml-fp32",
            out=tmp_path / "b",
        )  # fmt: skip
    assert str(caught.value) == (
        "backend 'coreml' cannot lower 'aten.special_bessel_j0' (module 'warp', target 'ios-arm64-coreml-fp32'): it "
        "has no lowering. Replace it by operators of torch.nn in common use, or choose an onnxruntime target."
    )


def test_an_unknown_system_is_refused(tmp_path: Path) -> None:
    target = replace(load_target("ios-arm64-coreml-fp32"), minimum_os="macOS12")
    with pytest.raises(
        ConfigurationError, match=r"minimum_os is 'macOS12', expected one of 'iOS16', 'iOS17', 'iOS18'"
    ):
        exported(tmp_path / "b", targets=target)


def test_a_target_cannot_fix_another_batch_than_the_model_has(tmp_path: Path) -> None:
    target = replace(load_target("ios-arm64-coreml-fp32"), batch=6)
    with pytest.raises(
        ConfigurationError, match=r"fixes the batch to 6, but the model's own is 4: remove batch"
    ):
        exported(tmp_path / "b", targets=target, batch=4)
    bundle = exported(tmp_path / "c", targets=target)
    assert bundle.manifest.batch_of(target.name) == 6
    assert all(c.within_tolerance for c in nagedge.verify(bundle))


def test_what_the_builder_refuses_becomes_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def rule(builder: object, node: object) -> object:
        raise ValueError("In op, of type mul, named x, an odd thing happened.\nand more")

    monkeypatch.setitem(RULES, "mul", rule)
    with pytest.raises(
        UnsupportedOperatorError,
        match=r"'aten.mul' cannot be lowered to an ML Program: In op.*odd thing happened\.$",
    ):
        packaged(case("mul", "", torch.mul, normal(2), normal(2)))


def test_what_the_serializer_refuses_becomes_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import coremltools

    def convert(*arguments: object, **options: object) -> object:
        raise RuntimeError("cannot serialize\ntrace")

    item = case("mul", "", torch.mul, normal(2), normal(2))
    lowered = lower_to_mil(*traced(item), FREE)
    monkeypatch.setattr(coremltools, "convert", convert)
    with pytest.raises(
        UnsupportedOperatorError, match=r"coremltools .* cannot write the program: cannot serialize\."
    ):
        package(lowered, opset=18, metadata={})


def test_the_decompositions_keep_the_step_free_of_what_core_ml_lacks() -> None:
    assert list(coreml.DECOMPOSITIONS) == [aten.convolution_backward.default]
