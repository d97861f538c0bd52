"""How tasks share: by stages of a trunk, by cross-stitch units, by a mixture of experts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models_for_tests import settle_statistics
from pydantic import ValidationError
from torch import nn

import nagedge
from nagedge.errors import ConfigurationError
from nagedge.models import ModelConfig, MultiTaskModel, build_model
from nagedge.models.cross_stitch import CrossStitchModel, CrossStitchUnit
from nagedge.models.mmoe import MixtureOfExpertsModel
from nagedge.models.multitask import StagedModel
from nagedge.specs import TaskSpec, TensorSpec

IMAGE = TensorSpec("image", "float32", ("batch", 1, 12, 12))
ROW = TensorSpec("features", "float32", ("batch", 6))
TOKENS = TensorSpec("tokens", "int64", ("batch", 7))
SOUND = TensorSpec("sound", "float32", ("batch", 1, 20, 40))
TASKS = (
    TaskSpec("digit", "classification", size=10),
    TaskSpec("slant", "regression", size=1),
    TaskSpec("ink", "regression", size=1),
)
CNN = {"trunk": "cnn", "channels": [4, 6, 8]}
WAYS = {
    "stages": ModelConfig(**CNN, stages={"slant": 1, "ink": 2}),
    "cross_stitch": ModelConfig(trunk="cnn", channels=[4, 4], sharing="cross_stitch"),
    "mmoe": ModelConfig(trunk="cnn", channels=[4], sharing="mmoe", experts=2),
}


def same(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


class TestStages:
    def test_each_head_reads_its_stage(self) -> None:
        model = settle_statistics(build_model(WAYS["stages"], IMAGE, TASKS, 0)).eval()
        assert isinstance(model, StagedModel)
        x = torch.randn(3, 1, 12, 12)
        first, second, third = model.trunk(x)
        assert [list(f.shape) for f in (first, second, third)] == [[3, 4, 12, 12], [3, 6, 6, 6], [3, 8, 3, 3]]
        outputs = model(x)
        same(outputs["slant"], model.heads["slant"](first.mean((2, 3))))
        same(outputs["ink"], model.heads["ink"](second.mean((2, 3))))
        same(outputs["digit"], model.heads["digit"](third.mean((2, 3))))

    def test_the_stages_are_the_parts_of_the_whole_trunk(self) -> None:
        whole = settle_statistics(build_model(ModelConfig(**CNN), IMAGE, TASKS, 0)).eval()
        staged = build_model(ModelConfig(**CNN, stages={"slant": 3}), IMAGE, TASKS, 1).eval()
        assert isinstance(whole, MultiTaskModel)
        names = zip(staged.state_dict(), whole.state_dict().values(), strict=True)
        staged.load_state_dict(dict(names))
        x = torch.randn(3, 1, 12, 12)
        for task in TASKS:
            same(staged(x)[task.name], whole(x)[task.name])

    def test_what_nobody_reads_is_left_out(self) -> None:
        model = build_model(ModelConfig(**CNN, stages={"digit": 1, "slant": 1, "ink": 2}), IMAGE, TASKS, 0)
        loss = sum(output.square().mean() for output in model(torch.randn(3, 1, 12, 12)).values())
        loss.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
        assert {name.split(".")[2] for name in model.state_dict() if name.startswith("trunk.")} == {"0", "1"}

    @pytest.mark.parametrize(
        ("config", "spec", "shapes"),
        [
            (ModelConfig(trunk="mlp", hidden=[8, 4], stages={"slant": 1}), ROW, {"slant": 8, "digit": 4}),
            (ModelConfig(trunk="ds_cnn", channels=[8, 4], stages={"slant": 1}), SOUND, {"slant": 8, "digit": 4}),
            (ModelConfig(trunk="bc_resnet", stages={"slant": 4}), SOUND, {"slant": 20, "digit": 32}),
            (
                ModelConfig(trunk="timm:mobilenetv3_small_050", stages={"slant": 2}),
                TensorSpec("image", "float32", ("batch", 3, 32, 32)),
                {"slant": 8, "digit": 288},
            ),
        ],
    )  # fmt: skip
    def test_other_trunks_have_stages_too(
        self, config: ModelConfig, spec: TensorSpec, shapes: dict[str, int]
    ) -> None:
        model = build_model(config, spec, TASKS[:2], 0)
        sizes = [size for size in spec.shape[1:] if isinstance(size, int)]
        assert {name: list(y.shape) for name, y in model(torch.randn(2, *sizes)).items()} == {
            "digit": [2, 10], "slant": [2, 1]
        }  # fmt: skip
        assert {name: model.get_parameter(f"heads.{name}.weight").shape[1] for name in shapes} == shapes

    def test_padding_is_left_out_of_every_stage(self) -> None:
        config = ModelConfig(trunk="tokens", channels=[4, 4], vocabulary=9, stages={"slant": 1})
        model = build_model(config, TOKENS, TASKS, 0).eval()
        short, padded = torch.tensor([[3, 5, 2]]), torch.tensor([[3, 5, 2, 0, 0, 0, 0]])
        for task in TASKS:
            same(model(short)[task.name], model(padded)[task.name])

    def test_maps_go_to_the_heads_that_want_one(self) -> None:
        tasks = (TaskSpec("parts", "segmentation", size=3, shape=[12, 12]), TASKS[1])
        model = build_model(ModelConfig(**CNN, stages={"parts": 1}), IMAGE, tasks, 0)
        shapes = {name: list(y.shape) for name, y in model(torch.randn(2, 1, 12, 12)).items()}
        assert shapes == {"parts": [2, 3, 12, 12], "slant": [2, 1]}


class TestCrossStitch:
    def test_a_unit_is_the_papers_formula(self) -> None:
        unit = CrossStitchUnit(2, 3)
        same(unit.alpha.reshape(2, 2, 3)[:, :, 0], torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
        with torch.no_grad():
            unit.alpha.normal_()
        a, b = torch.randn(2, 5, 3, 4, 4)
        expected = torch.einsum("tsc,sbchw->tbchw", unit.alpha.reshape(2, 2, 3), torch.stack([a, b]))
        for got, one in zip(unit([a, b]), expected, strict=True):
            same(got, one)

    def test_with_unit_factors_the_trunks_do_not_meet(self) -> None:
        model = build_model(WAYS["cross_stitch"], IMAGE, TASKS, 0).eval()
        assert isinstance(model, CrossStitchModel)
        with torch.no_grad():
            for unit in model.units:
                unit.alpha.copy_(torch.eye(3).reshape(3, 3, 1).expand(3, 3, 4).flatten())
        x = torch.randn(2, 1, 12, 12)
        for task in TASKS:
            features = model.trunks[task.name](x)[-1]
            same(model(x)[task.name], model.heads[task.name](features.mean((2, 3))))

    def test_every_task_reaches_every_trunk(self) -> None:
        model = build_model(WAYS["cross_stitch"], IMAGE, TASKS, 0)
        model(torch.randn(2, 1, 12, 12))["ink"].sum().backward()
        for name, parameter in model.trunks.named_parameters():
            assert parameter.grad is not None, name

    def test_weight_decay_leaves_the_units_alone(self) -> None:
        model = build_model(WAYS["cross_stitch"], IMAGE, TASKS, 0)
        assert all(p.dim() == 1 for name, p in model.named_parameters() if "alpha" in name)

    def test_one_task_is_refused(self) -> None:
        with pytest.raises(
            ConfigurationError, match="combines the trunks of several tasks, but the run has one"
        ):
            build_model(WAYS["cross_stitch"], IMAGE, TASKS[:1], 0)


class TestMixture:
    @pytest.mark.parametrize(
        ("config", "spec"),
        [
            (WAYS["mmoe"], IMAGE),
            (ModelConfig(trunk="mlp", hidden=[5], sharing="mmoe", experts=3), ROW),
            (ModelConfig(trunk="tokens", channels=[4, 4], vocabulary=9, sharing="mmoe", experts=2), TOKENS),
        ],
    )
    def test_a_gate_that_is_sure_leaves_one_expert(self, config: ModelConfig, spec: TensorSpec) -> None:
        model = build_model(config, spec, TASKS, 0).eval()
        assert isinstance(model, MixtureOfExpertsModel)
        sizes = [size for size in spec.shape[1:] if isinstance(size, int)]
        x = torch.randint(0, 9, (3, *sizes)) if spec.dtype == "int64" else torch.randn(3, *sizes)
        with torch.no_grad():
            for place, task in enumerate(TASKS):
                model.gates[task.name].bias[place % config.experts] = 100.0
        for place, task in enumerate(TASKS):
            same(model(x)[task.name], model.heads[task.name](model.experts[place % config.experts](x)))

    def test_gates_of_vectors_read_the_input(self) -> None:
        config = ModelConfig(trunk="mlp", hidden=[5], sharing="mmoe", experts=3)
        model = build_model(config, ROW, TASKS, 0)
        assert model.get_parameter("gates.ink.weight").shape == (3, 6)
        assert build_model(WAYS["mmoe"], IMAGE, TASKS, 0).get_parameter("gates.ink.weight").shape == (2, 4)

    def test_experts_start_apart(self) -> None:
        model = build_model(WAYS["mmoe"], IMAGE, TASKS, 0)
        one, other = (model.get_parameter(f"experts.{place}.0.weight") for place in (0, 1))
        assert not torch.equal(one, other)


@pytest.mark.parametrize("way", WAYS)
def test_the_exported_steps_are_torchs(tmp_path: Path, way: str) -> None:
    model = settle_statistics(build_model(WAYS[way], IMAGE, TASKS, 0)).eval()
    targets = ["any-any-onnxruntime-fp32-train"]
    if way != "stages":
        targets += ["android-arm64-litert-fp32-train", "ios-arm64-coreml-fp32-train"]
    bundle = nagedge.export(
        model, tasks=TASKS, example_input=torch.randn(4, 1, 12, 12), targets=targets, out=tmp_path / "bundle"
    )
    assert not bundle.manifest.refused
    for target in targets:
        comparisons = nagedge.verify(bundle, steps=3, target=target)
        assert comparisons
        assert all(comparison.within_tolerance for comparison in comparisons)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"trunk": "cnn", "stages": {"a": 0}}, "stages.a is 0, expected a stage >= 1"),
        ({"trunk": "cnn", "experts": 3}, "experts does nothing for sharing 'hard': remove it"),
        (
            {"trunk": "cnn", "sharing": "mmoe", "stages": {"a": 1}},
            "stages are of sharing 'hard', not of 'mmoe'",
        ),
        (
            {"trunk": "timm:resnet18", "sharing": "cross_stitch"},
            "sharing 'cross_stitch' needs the stages of a trunk of ours (cnn, ds_cnn, bc_resnet, mlp, tokens)",
        ),
    ],
)
def test_tables_that_contradict_themselves_are_refused(keys: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError) as error:
        ModelConfig.model_validate(keys)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("stages", "text"),
    [
        ({"slnt": 1}, "names 'slnt', which is no task of the run; the tasks are digit, slant, ink. Did you mean"),
        (
            {"slant": 4},
            "is 4, but trunk 'cnn' has 3 stages, which give for a batch of 2: 1 [2, 4, 12, 12], 2 [2, 6, 6, 6], 3 [2, ",
        ),
    ],
)  # fmt: skip
def test_stages_that_do_not_exist_are_refused(stages: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        build_model(ModelConfig(**CNN, stages=stages), IMAGE, TASKS, 0)
    assert text in str(error.value)


class Pyramid(nn.Module):
    """A user's trunk that gives the features of its stages."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x, x.mean((2, 3), keepdim=True)]


def test_a_users_trunk_may_give_its_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nagedge.models.trunks.load_factory", lambda reference, options: Pyramid())
    model = build_model(ModelConfig(trunk="a:b", stages={"slant": 1}), IMAGE, TASKS, 0)
    assert isinstance(model, StagedModel)
    monkeypatch.setattr("nagedge.models.trunks.load_factory", lambda reference, options: nn.Flatten())
    with pytest.raises(ConfigurationError, match="gives no list of features, one a stage"):
        build_model(ModelConfig(trunk="a:b", stages={"slant": 1}), IMAGE, TASKS, 0)
