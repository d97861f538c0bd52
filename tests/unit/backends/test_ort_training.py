"""The artifacts for ONNX Runtime's on-device training, as files; tests/unit/test_runtime_ort_training.py runs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from models_for_tests import CASES, Case
from onnx import numpy_helper
from torch import nn

from nagedge.backends import ort_training
from nagedge.backends.ort_training_graphs import optimizer_model
from nagedge.bundle import Bundle
from nagedge.errors import UnsupportedOperatorError
from nagedge.export import export
from nagedge.graphs.decompositions import ONNX
from nagedge.graphs.forward import trace_forward
from nagedge.graphs.inference import InferenceGraph, trace_inference
from nagedge.graphs.train_step import StepGraph, trace_train_step
from nagedge.ort_checkpoint import read_checkpoint
from nagedge.targets import Target, load_target

TARGET = load_target("android-arm64-ort_training-fp32-train")


def traced(case: Case) -> tuple[InferenceGraph, StepGraph]:
    forward = trace_forward(case.model, case.example, case.tasks)
    state = {**dict(case.model.named_parameters()), **dict(case.model.named_buffers()), **forward.constants}
    state = {name: tensor.detach() for name, tensor in state.items()}
    names = [name for name, _ in case.model.named_parameters()]
    step = trace_train_step(forward, state, names, case.tasks, overrides=ONNX)
    return trace_inference(forward, state), step


def lowered(case: Case, target: Target = TARGET, **changes: Any) -> dict[str, bytes]:
    inference, step = traced(case)
    artifacts = ort_training.lower(inference, replace(step, **changes), target)
    return dict(artifacts.values())


def models(files: dict[str, bytes]) -> dict[str, onnx.ModelProto]:
    return {
        name.removesuffix(".onnx"): onnx.load_from_string(content)
        for name, content in files.items()
        if name.endswith(".onnx")
    }


def names(values: Any) -> list[str]:
    return [value.name for value in values]


def test_the_files_have_upstreams_names_and_versions() -> None:
    files = lowered(CASES["mlp"]())
    assert sorted(files) == [
        "checkpoint", "eval_model.onnx", "infer.onnx", "nominal_checkpoint", "optimizer_model.onnx",
        "training_model.onnx",
    ]  # fmt: skip
    for model in models(files).values():
        assert model.ir_version <= 10
        assert {o.domain: o.version for o in model.opset_import}[""] == 18


@pytest.mark.parametrize("opset", [18, 19, 20, 21])
def test_the_opset_is_the_targets(opset: int) -> None:
    for model in models(lowered(CASES["mlp"](), replace(TARGET, opset=opset))).values():
        assert model.ir_version <= 10
        assert {o.domain: o.version for o in model.opset_import}[""] == opset


def test_inputs_and_outputs_are_what_the_api_expects() -> None:
    built = models(lowered(CASES["mlp"]()))
    params = ["params.0.weight", "params.0.bias", "params.2.weight", "params.2.bias"]
    data = ["input", "target.kind", "sample_weight"]
    training = built["training_model"].graph
    assert names(training.input) == [
        *data, *params, *(f"{name}_grad.accumulation.buffer" for name in params), "lazy_reset_grad",
    ]  # fmt: skip
    assert names(training.output) == [
        "loss", "loss.kind", *(f"{name}_grad.accumulation.out" for name in params),
    ]  # fmt: skip
    assert names(built["eval_model"].graph.input) == [*data, *params]
    assert names(built["eval_model"].graph.output) == ["loss", "loss.kind", "kind"]
    assert names(built["optimizer_model"].graph.input) == [
        "learning_rate", "step", "params", "gradients", "first_order_moments",
    ]  # fmt: skip
    top = [node.op_type for node in built["optimizer_model"].graph.node]
    assert (
        top.count("SGDOptimizerV2") == 1
    )  # a second one at the top level is another parameter group to the runtime
    assert names(built["infer"].graph.input) == ["input"]
    assert names(built["infer"].graph.output) == ["kind"]


def test_only_two_operators_are_outside_the_standard() -> None:
    def operators(graph: onnx.GraphProto) -> set[str]:
        found = {node.op_type for node in graph.node if node.domain}
        inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
        return found.union(*map(operators, inner))

    for name, model in models(lowered(CASES["conv"]())).items():
        assert operators(model.graph) <= {
            "training_model": {"InPlaceAccumulatorV2"}, "optimizer_model": {"SGDOptimizerV2"},
        }.get(name, set())  # fmt: skip


def test_the_checkpoints_hold_the_parameters_and_no_momentum_yet() -> None:
    case = CASES["mlp"]()
    files = lowered(case)
    checkpoint = read_checkpoint(files["checkpoint"])
    assert {name: array.tobytes() for name, array in checkpoint.params.items()} == {
        f"params.{name}": p.detach().numpy().tobytes() for name, p in case.model.named_parameters()
    }
    assert not checkpoint.momentum
    nominal = read_checkpoint(files["nominal_checkpoint"])
    assert nominal.nominal
    assert nominal.params.keys() == checkpoint.params.keys()


def test_momentum_and_weight_decay_are_constants_of_the_optimizer() -> None:
    built = models(lowered(CASES["mlp"](), momentum=0.8, weight_decay=0.25))["optimizer_model"]
    constants = {t.name: numpy_helper.to_array(t) for t in built.graph.initializer}
    assert constants["momentum"] == np.float32(0.8)
    assert constants["weight_decay"].tolist() == [0, 0, *[0.25] * 7]


def test_a_target_without_training_has_inference_only() -> None:
    inference, _ = traced(CASES["mlp"]())
    artifacts = ort_training.lower(inference, None, replace(TARGET, train=False))
    assert {role: name for role, (name, _) in artifacts.items()} == {"infer": "infer.onnx"}


def test_a_fixed_batch_is_in_every_model() -> None:
    for name, model in models(lowered(CASES["mlp"](), replace(TARGET, batch=6))).items():
        for info in (*model.graph.input, *model.graph.output):
            assert all(not d.dim_param for d in info.type.tensor_type.shape.dim), (name, info.name)
        if name != "optimizer_model":
            assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 6


def test_frozen_parameters_are_constants_and_stored_once(tmp_path: Path) -> None:
    case = CASES["conv"]()
    bundle = export(
        case.model, tasks=case.tasks, example_input=case.example, targets=TARGET.name, out=tmp_path / "b",
        trainable="heads",
    )  # fmt: skip
    folder = bundle.path / "targets" / TARGET.name
    for name in ("training_model", "eval_model"):
        graph = onnx.load(folder / f"{name}.onnx").graph
        stored = names(graph.initializer)
        assert len(stored) == len(set(stored))
        assert "trunk.0.weight" in stored
        assert not {"kind.weight", "params.kind.weight"} & set(stored)
        assert [n for n in names(graph.input) if n.startswith("params.") and "accumulation" not in n] == [
            "params.kind.weight", "params.kind.bias", "params.level.weight", "params.level.bias",
        ]  # fmt: skip


def test_no_model_carries_more_than_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 12 * 12, 4)
    )
    case = Case(model.eval(), (replace(CASES["mlp"]().tasks[0], size=4),), torch.randn(4, 3, 24, 24))
    files = lowered(case)
    weights = sum(p.numel() * 4 for p in model.parameters())
    assert len(files["training_model.onnx"]) < 60_000  # the parameters are in the checkpoint
    assert len(files["checkpoint"]) < weights + 4_000
    assert len(files["infer.onnx"]) < weights + 4_000


def test_a_step_whose_decay_goes_by_name_is_refused() -> None:
    inference, step = traced(CASES["mlp"]())
    odd = replace(step, decayed=frozenset({"0.bias"}))
    with pytest.raises(
        UnsupportedOperatorError, match=r"weight decay for the parameter '0.weight' of 2 dimensions"
    ):
        ort_training.lower(inference, odd, TARGET)


def test_a_parameter_that_is_not_float32_is_refused() -> None:
    inference, step = traced(CASES["mlp"]())
    specs = tuple(
        replace(spec, dtype="float64") if spec.name == "params.2.bias" else spec for spec in step.inputs
    )
    with pytest.raises(
        UnsupportedOperatorError, match=r"cannot train the parameter '2.bias' of dtype float64 .* Freeze it"
    ):
        ort_training.lower(inference, replace(step, inputs=specs), TARGET)


def test_an_operator_without_a_lowering_is_named_with_its_module() -> None:
    inference, step = traced(CASES["mlp"]())
    node = next(n for n in inference.module.graph.nodes if "tanh" in str(n.target))
    node.target = torch.ops.aten.digamma.default
    with pytest.raises(UnsupportedOperatorError) as caught:
        ort_training.lower(inference, step, TARGET, module_of=lambda operator: f"trunk.{operator}")
    assert str(caught.value).startswith(
        "backend 'ort_training' cannot lower 'aten.digamma' (module 'trunk.aten.digamma') for target "
        "'android-arm64-ort_training-fp32-train'. "
    )


def test_the_optimizer_grows_with_the_parameters_alone() -> None:
    sizes = [
        len(optimizer_model(n, momentum=0.9, weight_decay=0.1, opset=18).SerializeToString())
        for n in (1, 11, 21)
    ]
    assert sizes[2] - sizes[1] == pytest.approx(sizes[1] - sizes[0], rel=0.1)
    assert sizes[2] < 60_000


def test_the_bundle_names_every_role(tmp_path: Path) -> None:
    case = CASES["gru"]()
    bundle: Bundle = export(
        case.model, tasks=case.tasks, example_input=case.example, targets=TARGET.name, out=tmp_path / "b"
    )
    folder = f"targets/{TARGET.name}"
    assert bundle.manifest.targets[TARGET.name].artifacts == {
        "infer": f"{folder}/infer.onnx", "train_step": f"{folder}/training_model.onnx",
        "eval_model": f"{folder}/eval_model.onnx", "optimizer_model": f"{folder}/optimizer_model.onnx",
        "checkpoint": f"{folder}/checkpoint", "nominal_checkpoint": f"{folder}/nominal_checkpoint",
    }  # fmt: skip
