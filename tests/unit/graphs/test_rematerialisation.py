"""Computing again instead of keeping: less memory in ONNX Runtime's own plan, and the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from models_for_tests import KIND, TRAIN
from torch import Tensor, fx, nn

import nagedge
from nagedge.backends import onnxruntime as backend
from nagedge.bundle import Bundle
from nagedge.errors import ConfigurationError
from nagedge.graphs.liveness import Limits, lifetimes
from nagedge.graphs.milestones import MILESTONE, milestones_of
from nagedge.graphs.rematerialisation import after, rematerialise
from nagedge.lowering import size_in_bytes
from nagedge.runtimes.onnxruntime import open_training

ROWS = 8
aten = torch.ops.aten


def convolutions() -> nn.Module:
    """Return a net whose activations are most of its memory."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 16), (16, 16), (16, 16)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.Hardswish()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)).eval()


def export(path: Path, *, budget: int | str | None = None) -> Bundle:
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(ROWS, 3, 24, 24, generator=generator)
    return nagedge.export(
        convolutions(), tasks=[KIND], example_input=example, targets=TRAIN, out=path, memory_budget=budget
    )


def planned(bundle: Bundle) -> int:
    entry = bundle.manifest.targets[TRAIN]
    assert entry.planned_step_bytes is not None
    assert entry.planned_rows == ROWS
    return entry.planned_step_bytes


def trained(bundle: Bundle, rows: int) -> list[Tensor]:
    """Return the parameters and momentum buffers after three steps."""
    random = np.random.default_rng(rows)
    session = open_training(bundle, TRAIN)
    batch = random.standard_normal((rows, 3, 24, 24)).astype(np.float32)
    for _ in range(3):
        session.step(
            {bundle.manifest.inputs[0].name: batch},
            {"kind": random.integers(0, 3, rows)},
            lr=0.1,
            momentum=0.9,
            weight_decay=1e-3,
        )
    state = session.state()
    return [torch.from_numpy(np.array(v)) for v in (*state.params.values(), *state.momentum.values())]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A step that keeps everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "rematerialise", lambda *arguments: 0)
        return export(tmp_path_factory.mktemp("kept") / "bundle")


def test_holds_less_and_computes_the_same(kept: Bundle, tmp_path: Path) -> None:
    bundle = export(tmp_path / "bundle")
    assert planned(bundle) < 0.95 * planned(kept)
    for rows in (ROWS, 3):
        for got, expected in zip(trained(bundle, rows), trained(kept, rows), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_a_budget_is_met_or_refused_with_the_lowest_that_can_be(kept: Bundle, tmp_path: Path) -> None:
    ordinary = planned(export(tmp_path / "ordinary"))
    with pytest.raises(
        ConfigurationError, match=r"cannot be kept within 1,000,000 bytes: its plan holds"
    ) as caught:
        export(tmp_path / "too_small", budget="1MB")
    assert not (tmp_path / "too_small").exists()
    lowest = int(str(caught.value).split(" bytes, and ")[1].split(" ")[0].replace(",", ""))
    assert lowest < ordinary
    bundle = export(tmp_path / "small", budget=lowest)
    assert planned(bundle) == lowest
    for got, expected in zip(trained(bundle, ROWS), trained(kept, ROWS), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert planned(export(tmp_path / "large", budget=ordinary)) == ordinary  # nothing more is computed again


def test_other_backends_refuse_a_budget(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"only planned for the backend 'onnxruntime'.*'ort_training'"
    ):
        nagedge.export(
            convolutions(), tasks=[KIND], example_input=torch.randn(2, 3, 24, 24), out=tmp_path / "bundle",
            targets="android-arm64-ort_training-fp32-train", memory_budget="32MB",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [("32MB", 32_000_000), ("30 MiB", 30 * 2**20), ("1.5kB", 1500), ("4096", 4096), (4096, 4096)],
)
def test_sizes(text: str | int, expected: int) -> None:
    assert size_in_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-3MB", "32 parsecs", "MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no size, expected a number above 0"):
        size_in_bytes(text)


def chain() -> fx.GraphModule:
    """Return ``relu`` of a kept value, idle while something large is made, and read again after a milestone."""
    graph = fx.Graph()

    def call(target: object, *arguments: object, count: int = 1000) -> fx.Node:
        node = graph.call_function(target, arguments)  # type: ignore[arg-type]
        node.meta["val"] = torch.empty(count)
        return node

    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(1000)
    kept = call(aten.cumsum.default, x, 0)
    idle = call(aten.relu.default, kept)
    early = call(aten.sum.default, idle, count=1)
    large = call(aten.mm.default, x, early, count=5000)
    small = call(aten.sum.default, large, count=1)
    gradient = call(aten.sum.default, small, count=1)
    gradient.meta[MILESTONE] = 0
    late = call(aten.mul.Tensor, idle, gradient)
    graph.output([call(aten.mul.Tensor, late, kept)])
    return fx.GraphModule(nn.Module(), graph)


def test_copies_read_through_the_milestone_before_their_reader() -> None:
    module = chain()
    before = lifetimes(list(module.graph.nodes), 1).most
    assert rematerialise(module, 1, Limits(slowdown=1.0)) == before - 4000
    copies = [node for node in module.graph.nodes if node.target is aten.relu.default]
    assert len(copies) == 2
    (through,) = copies[1].args
    assert through.target is after
    assert through.args[1] is milestones_of(module)[0]
    assert [user.target for user in copies[1].users] == [aten.mul.Tensor]


def test_within_its_limit_nothing_is_computed_again() -> None:
    module = chain()
    held = lifetimes(list(module.graph.nodes), 1).most
    assert rematerialise(module, 1, Limits(bytes=held, slowdown=1.0)) == held
    assert sum(node.target is aten.relu.default for node in module.graph.nodes) == 1
