"""BC-ResNet: the paper's sizes, its two paths, its norms, and its export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models_for_tests import KIND, LEVEL, TRAIN, TwoHeads, settle_statistics
from pydantic import ValidationError
from torch import nn

import nagedge
from nagedge.errors import ConfigurationError
from nagedge.models import ModelConfig, build_model
from nagedge.models.bc_resnet import BroadcastedBlock, bc_resnet_stages, bc_resnet_trunk
from nagedge.models.norms import SubSpectralNorm, norm_layer
from nagedge.specs import TaskSpec, TensorSpec

SOUND = TensorSpec("sound", "float32", ("batch", 1, 49, 40))
TASKS = (TaskSpec("language", "classification", size=20), TaskSpec("letter", "classification", size=26))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("width", "count"), [(1, 9232), (1.5, 17154), (2, 27284), (3, 54168), (6, 187812), (8, 321068)]
)
def test_there_are_as_many_parameters_as_in_the_paper(width: float, count: int) -> None:
    """With twelve classes: table 3 has 9.2 k, 27.3 k, 54.2 k, 188 k and 321 k; 1.5 is the authors' program's."""
    trunk = bc_resnet_trunk(1, 40, width)
    head = nn.Linear(int(32 * width), 12)
    assert parameters(trunk) + parameters(head) == count


def test_the_shapes_of_the_stages_are_those_of_the_paper() -> None:
    x = torch.zeros(2, 1, 101, 40)
    shapes = []
    for stage in bc_resnet_stages(1, 40, 1):
        x = stage.eval()(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(8, 20, 101), (12, 10, 101), (16, 5, 101), (20, 5, 101), (32, 1, 101)]


def test_frames_go_through_the_narrow_path_alone() -> None:
    """What a frame's neighbours add is one number a channel and frame: the same for all bands."""
    torch.manual_seed(0)
    block = BroadcastedBlock(4, 4, dilation=1, halves=False, norm="batch", dropout=0.0)
    block = settle_statistics(block).eval().double()
    x = torch.rand(1, 4, 10, 7, dtype=torch.float64) + 50  # far from zero: the ReLU at the end lets all pass
    other = x.clone()
    other[:, :, :, 3] += 1
    difference = (block(other) - block(x))[:, :, :, 2]
    assert difference.abs().max() > 1e-4
    torch.testing.assert_close(difference, difference[:, :, :1].expand_as(difference))


def test_sub_bands_are_normalised_apart() -> None:
    norm = SubSpectralNorm("batch", 3, 5).train()
    x = torch.randn(8, 3, 10, 6) * torch.arange(1, 11).reshape(1, 1, 10, 1) + 3
    parts = norm(x).reshape(8, 3, 5, 2, 6)
    torch.testing.assert_close(parts.mean((0, 3, 4)), torch.zeros(3, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.var((0, 3, 4), unbiased=False), torch.ones(3, 5), atol=1e-3, rtol=0)
    expected = nn.functional.batch_norm(x[:, :, 2:4], None, None, training=True)
    torch.testing.assert_close(norm(x)[:, :, 2:4], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("channels", "groups"), [(8, 2), (12, 3), (20, 5), (64, 16), (256, 32), (3, 1), (13, 1)]
)
def test_groups_divide_the_channels_into_at_least_four(channels: int, groups: int) -> None:
    norm = norm_layer("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups


def test_with_group_norm_a_sample_does_not_see_its_batch() -> None:
    model = build_model(ModelConfig(trunk="bc_resnet", norm="group", width=0.5), SOUND, TASKS, 0)
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    x = torch.randn(4, 1, 49, 40)
    torch.testing.assert_close(model(x)["letter"][:1], model(x[:1])["letter"], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("bands", "width", "text"),
    [
        (
            64,
            1.0,
            "halves its 64 bands to 32, 16 and 8, each of which must be a multiple of 5. Set mels to 40 or 80",
        ),
        (40, 0.3, "model width is 0.3, expected a multiple of 1/8 above 0"),
    ],
)
def test_bands_and_widths_that_do_not_fit_are_refused(bands: int, width: float, text: str) -> None:
    spec = TensorSpec("sound", "float32", ("batch", 1, 49, bands))
    with pytest.raises(ConfigurationError) as error:
        build_model(ModelConfig(trunk="bc_resnet", width=width), spec, TASKS, 0)
    assert text in str(error.value)


def test_keys_of_other_trunks_are_refused() -> None:
    with pytest.raises(ValidationError, match="width does nothing for trunk 'cnn': remove it"):
        ModelConfig(trunk="cnn", width=2.0)
    with pytest.raises(ValidationError, match="channels does nothing for trunk 'bc_resnet': remove it"):
        ModelConfig(trunk="bc_resnet", channels=[3])
    with pytest.raises(ValidationError, match="norm does nothing for trunk 'mlp': remove it"):
        ModelConfig(trunk="mlp", norm="group")


@pytest.mark.parametrize("batch_norm", ["fold", "train"])
def test_the_exported_step_is_torchs(tmp_path: Path, batch_norm: str) -> None:
    """Sub-spectral BatchNorm follows a reshape, so that it is not folded: frozen, or its statistics are state."""
    block = BroadcastedBlock(3, 4, dilation=2, halves=True, norm="batch", dropout=0.1)
    model = TwoHeads(nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 4)
    exported_and_verified(
        settle_statistics(model).eval(), (KIND, LEVEL), torch.randn(4, 3, 10, 7), tmp_path, batch_norm
    )


@pytest.mark.slow(reason="a dozen blocks take half a minute to trace")
@pytest.mark.parametrize("batch_norm", ["fold", "freeze", "train"])
def test_the_exported_step_of_the_whole_net_is_torchs(tmp_path: Path, batch_norm: str) -> None:
    model = settle_statistics(build_model(ModelConfig(trunk="bc_resnet"), SOUND, TASKS, 0)).eval()
    exported_and_verified(model, TASKS, torch.randn(8, *(1, 49, 40)), tmp_path, batch_norm)


def exported_and_verified(
    model: nn.Module, tasks: tuple[TaskSpec, ...], example: torch.Tensor, folder: Path, batch_norm: str
) -> None:
    bundle = nagedge.export(
        model, tasks=tasks, example_input=example, targets=TRAIN, out=folder / "bundle", batch_norm=batch_norm
    )
    training = bundle.manifest.training
    assert training is not None
    assert any(".norm.weight" in name for name in training.parameters)
    assert bool(training.buffers) == (batch_norm == "train")
    assert all(comparison.within_tolerance for comparison in nagedge.verify(bundle, steps=3))
