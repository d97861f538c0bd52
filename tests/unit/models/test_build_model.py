"""Models from their configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from nagedge.errors import ConfigurationError
from nagedge.models import ModelConfig, MultiTaskModel, build_model, load_factory
from nagedge.specs import TaskSpec, TensorSpec

IMAGE = TensorSpec("image", "float32", ("batch", 1, 28, 28))
ROW = TensorSpec("features", "float32", ("batch", 6))
TASKS = (TaskSpec("digit", "classification", size=10), TaskSpec("slant", "regression", size=1))


class Whole(nn.Module):
    """A user's model that has its heads already."""

    def __init__(self, size: int = 10) -> None:
        super().__init__()
        self.body = nn.Linear(6, size + 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body(x)
        return {"digit": y[:, 1:], "slant": y[:, 0]}


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def trunk(width=4):\n    return nn.Linear(6, width)\n"
        "def maps():\n    return nn.Unflatten(1, (2, 3))\n"
        "def nothing():\n    return 3\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    return "my_nets"


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        (ModelConfig(trunk="cnn", channels=[4, 8]), IMAGE),
        (ModelConfig(trunk="mlp", hidden=[16, 8], dropout=0.5), IMAGE),
        (ModelConfig(trunk="mlp"), ROW),
        (
            ModelConfig(trunk="timm:mobilenetv3_small_050"),
            TensorSpec("image", "float32", ("batch", 3, 64, 64)),
        ),
    ],
)
def test_outputs_have_one_entry_a_task(config: ModelConfig, spec: TensorSpec) -> None:
    model = build_model(config, spec, TASKS, seed=0)
    assert isinstance(model, MultiTaskModel)
    assert model.training
    sizes = [size for size in spec.shape[1:] if isinstance(size, int)]
    outputs = model(torch.randn(5, *sizes))
    assert {name: tuple(y.shape) for name, y in outputs.items()} == {"digit": (5, 10), "slant": (5, 1)}


def test_the_seed_fixes_the_weights_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (build_model(ModelConfig(), IMAGE, TASKS, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["heads.digit.weight"], other["heads.digit.weight"])


def test_building_leaves_running_statistics_untouched() -> None:
    model = build_model(ModelConfig(), IMAGE, TASKS, 0)
    statistics = [b for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]
    assert statistics
    assert not any(bool(b) for b in statistics)


def test_a_users_trunk_gets_heads(user_module: str) -> None:
    model = build_model(ModelConfig(trunk=f"{user_module}:trunk", options={"width": 7}), ROW, TASKS, 0)
    assert model(torch.zeros(2, 6))["digit"].shape == (2, 10)
    assert model.get_parameter("heads.digit.weight").shape == (10, 7)


def test_a_users_whole_model_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nagedge.models.trunks.load_factory", lambda reference, options: Whole(**options))
    assert isinstance(build_model(ModelConfig(trunk="a:b"), ROW, TASKS, 0), Whole)
    with pytest.raises(ConfigurationError) as error:
        build_model(ModelConfig(trunk="a:b", options={"size": 3}), ROW, TASKS, 0)
    assert str(error.value) == (
        "model 'a:b' gives [2, 3] for task 'digit' and a batch of 2, expected [2, 10]; its entries are digit, slant."
        " Return one entry a task."
    )


@pytest.mark.parametrize(
    ("trunk", "text"),
    [
        (
            "my_nets:maps",
            "model trunk 'my_nets:maps' gives [2, 2, 3] for a batch of 2, expected features [2, features]",
        ),
        ("my_nets:nothing", "model 'my_nets:nothing': 'nothing' gave a int, expected a torch.nn.Module."),
        ("my_nets:number", "model 'my_nets:number': 'my_nets' has no callable 'number'."),
        ("my_nets:trnk", "'my_nets' has no callable 'trnk'. Did you mean 'trunk'?"),
        ("no_such_module_at_all:f", "cannot import 'no_such_module_at_all': ModuleNotFoundError"),
        ("timm:mobilenetv3_smal_050", "has no such model. Did you mean 'mobilenetv3_small_050'?"),
        (
            "timm:mobilenetv3_small_050",
            "takes float32 images [batch, channels, height, width], input 'features' is",
        ),
        ("cnn", "model trunk 'cnn' takes float32 images"),
    ],
)
def test_what_does_not_fit_is_refused(user_module: str, trunk: str, text: str) -> None:
    spec = TensorSpec("image", "float32", ("batch", 3, 32, 32)) if "smal_" in trunk else ROW
    with pytest.raises(ConfigurationError) as error:
        build_model(ModelConfig(trunk=trunk), spec, TASKS, 0)
    assert text in str(error.value)


def test_wrong_factory_options_are_refused(user_module: str) -> None:
    with pytest.raises(ConfigurationError, match=r"'trunk' raised TypeError: .*'wdth'.* Check model.options"):
        load_factory("my_nets:trunk", {"wdth": 1})


def test_a_trunk_that_does_not_take_the_input_is_refused(user_module: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"does not take its input, which 'image' is float32 \['batch', 1, 28, 28\]"
    ):
        build_model(ModelConfig(trunk="my_nets:trunk"), IMAGE, TASKS, 0)


def test_a_task_named_like_an_attribute_of_modules_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"task name 'type' is the name of an attribute of every torch module"
    ):
        build_model(ModelConfig(), IMAGE, [TaskSpec("type", "binary", size=1)], 0)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (
            {"trunk": "cmn"},
            "unknown trunk 'cmn', expected cnn, ds_cnn, bc_resnet, mlp, tokens, timm:NAME or package.module:factory.",
        ),
        ({"trunk": "mlp", "channels": [3]}, "channels does nothing for trunk 'mlp': remove it"),
        ({"trunk": "cnn", "options": {"a": 1}}, "options does nothing for trunk 'cnn': remove it"),
        ({"hidden": [0], "trunk": "mlp"}, "widths are [0], expected whole numbers >= 1"),
    ],
)
def test_a_wrong_model_table_is_refused(keys: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError) as error:
        ModelConfig.model_validate(keys)
    assert text in str(error.value)
