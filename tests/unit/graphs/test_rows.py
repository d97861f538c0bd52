"""Images kept in rows: the same step, in which rows are moved only where the two forms meet."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from step_harness import drawn_inputs
from torch import Tensor, fx, nn

from nagedge.graphs.decompositions import ONNX
from nagedge.graphs.forward import trace_forward
from nagedge.graphs.lora import add_lora
from nagedge.graphs.rows import in_rows
from nagedge.graphs.specialization import specialize
from nagedge.graphs.train_step import StepGraph, trace_train_step
from nagedge.specs import TaskSpec

aten = torch.ops.aten
TASKS = (TaskSpec("kind", "classification", size=3),)


class Residual(nn.Module):
    """A sum of an image with what layers make of it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.inner(x)
        return y


def inverted(channels: int, wide: int, *, bias: bool = True) -> nn.Module:
    """An inverted residual block: pointwise, depthwise, pointwise."""
    return Residual(
        nn.Conv2d(channels, wide, 1, bias=bias), nn.ReLU(),
        nn.Conv2d(wide, wide, 3, padding=1, groups=wide), nn.ReLU6(),
        nn.Conv2d(wide, channels, 1, bias=bias),
    )  # fmt: skip


class ChannelsLast(nn.Module):
    """A block that moves the channels behind by itself, and has no pointwise convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x.permute(0, 2, 3, 1)).tanh()).permute(0, 3, 1, 2)
        return (x + y).relu()


def net(*layers: nn.Module, features: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 3))


NETS = {
    "blocks": lambda: (
        net(
            nn.Conv2d(2, 16, 3, padding=1), nn.ReLU(), inverted(16, 24), inverted(16, 20, bias=False),
            nn.AvgPool2d(2), features=16 * 9,
        ),
        (2, 6, 6),
    ),
    "one axis": lambda: (
        net(nn.Conv1d(2, 16, 3), nn.Sigmoid(), nn.Conv1d(16, 18, 1), nn.Tanh(), features=18 * 7),
        (2, 9),
    ),
    "strided branches": lambda: (
        net(
            nn.Conv2d(2, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(24, 16, 1), nn.Hardswish(), features=16 * 4,
        ),
        (2, 8, 8),
    ),
    "strided, frozen and a branch": lambda: (
        net(
            nn.Conv2d(2, 16, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(24, 24, 5, stride=2, padding=2, groups=24), nn.ReLU(), nn.Conv2d(24, 16, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), features=16,
        ),
        (2, 11, 12),
    ),
    "channels last": lambda: (
        net(nn.Conv2d(2, 16, 3), nn.ReLU(), ChannelsLast(16), nn.Conv2d(16, 16, 1), features=16 * 16),
        (2, 6, 6),
    ),
    "as many cells as channels": lambda: (
        net(nn.Conv2d(2, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(), features=256),
        (2, 4, 4),
    ),
}  # fmt: skip


def step_of(model: nn.Module, shape: tuple[int, ...], trainable: str) -> StepGraph:
    """Trace a step with a symbolic batch and expand it for ONNX Runtime.

    Args:
        trainable: "lora", or the beginning of the names of the parameters to train.
    """
    if trainable == "lora":
        head = [name for name, _ in model.named_modules()][-1]
        names = add_lora(model, 2, skip=[head])
        # they start at zero, and then what comes before them has no gradient
        for weight in (model.get_parameter(name) for name in names if name.endswith("up.weight")):
            nn.init.normal_(weight)
    else:
        names = [name for name, _ in model.named_parameters() if name.startswith(trainable)]
    model.eval()
    forward = trace_forward(model, torch.randn(4, *shape), TASKS)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return specialize(trace_train_step(forward, state, names, TASKS, deferred=set(ONNX)), ONNX)


@cache
def blocks() -> StepGraph:
    """Two blocks with LoRA."""
    return step_of(*NETS["blocks"](), "lora")


def moves(module: fx.GraphModule) -> int:
    """How many transpositions of images there are; matrices and weights do not count."""
    return sum(
        node.target is aten.permute.default and isinstance(node.meta["val"].shape[0], torch.SymInt)
        for node in module.graph.nodes
    )


def values_for(step: StepGraph, batch: int) -> list[Tensor]:
    return drawn_inputs(step, batch, torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("name", NETS)
def test_the_step_computes_the_same(name: str) -> None:
    step = blocks() if name == "blocks" else step_of(*NETS[name](), "lora")
    changed = in_rows(step)
    assert changed is not step
    assert moves(changed.traced) < moves(step.traced)
    assert (changed.inputs, changed.outputs) == (step.inputs, step.outputs)
    for batch in (3, 1):
        values = values_for(step, batch)
        for got, expected in zip(changed.traced(*values), step.traced(*values), strict=True):
            torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)


def test_what_a_node_makes_is_known_as_before() -> None:
    step = in_rows(blocks())
    for node in step.traced.graph.nodes:
        if node.op == "call_function":
            assert "val" in node.meta, node
            mode = getattr(node.meta["val"], "fake_mode", None)
            assert mode is None or not mode.shape_env.replacements, "the batch stays free"


def test_pointwise_convolutions_beside_branches_are_products() -> None:
    step = in_rows(blocks())
    kernels = [
        tuple(node.args[1].meta["val"].shape[2:])
        for node in step.traced.graph.nodes
        if node.target is aten.convolution.default
    ]
    assert set(kernels) == {(3, 3)}
    # before and behind two depthwise layers, forward and backward; into the blocks, out of them, and back in
    assert moves(step.traced) == 2 * 2 * 2 + 3


def test_a_branch_and_the_sum_are_one_operation() -> None:
    step = in_rows(blocks())
    sums = [node.args for node in step.traced.graph.nodes if node.target is aten.addmm.default]
    of_branches = [
        args for args in sums if args[0].meta["val"].dim() == 2 and args[1].meta["val"].shape[1] == 2
    ]
    assert len(of_branches) == 4 + 3  # four layers forward; backward none below the first


def test_a_step_without_branches_is_left_alone() -> None:
    step = step_of(*NETS["blocks"](), "3.inner.4")
    assert in_rows(step) is step


def test_a_frozen_trunk_before_the_branches_stays_as_it_is() -> None:
    model, shape = NETS["blocks"]()
    add_lora(model[3], 2)
    step = in_rows(step_of(model, shape, "3.inner.4.down"))
    kernels = [
        tuple(node.args[1].meta["val"].shape[2:])
        for node in step.traced.graph.nodes
        if node.target is aten.convolution.default
    ]
    # a 3x3 layer, a block, and of the next block a layer with a frozen branch, down and up, and the depthwise layer
    assert kernels == [(3, 3), (1, 1), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), (3, 3)]


def test_a_sequence_that_swaps_its_axes_is_left_alone() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixed, self.head = nn.Linear(6, 6), nn.Linear(96, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head((x + self.mixed(x.transpose(1, 2).tanh()).transpose(1, 2)).flatten(1))
            return y

    step = step_of(Mixer(), (6, 16), "")
    before = moves(step.traced)
    assert moves(in_rows(step).traced) <= before
