"""The packed update is the reference's, tensor by tensor."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from nagedge.graphs.update import SMALL, nesterov_update
from nagedge.training.nesterov import nesterov_step

SHAPES = [
    (3,), (), (4, 2), (5, 1, 3, 3), (SMALL + 1,), (SMALL, 2), (40, 30, 1, 1), (60, 1, 5, 5), (2, 1), (1,), (700, 2, 1),
]  # fmt: skip


@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[:1], SHAPES[6:7], [(3,), (4, 4)]], ids=str)
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_same_as_the_reference(shapes: list[tuple[int, ...]], weight_decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    params, gradients, velocities = (
        [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes] for _ in range(3)
    )
    names = [f"p{i}" for i in range(len(shapes))]
    decayed = {name for name, shape in zip(names, shapes, strict=True) if len(shape) >= 2}
    lr, momentum, decay = (torch.tensor(v, dtype=torch.float64) for v in (0.1, 0.9, weight_decay))
    new_params, new_velocities = nesterov_update(
        names, params, gradients, velocities, decayed=decayed, lr=lr, momentum=momentum, weight_decay=decay
    )
    for i, name in enumerate(names):
        param, velocity = nesterov_step(
            params[i], gradients[i], velocities[i], lr=0.1, momentum=0.9,
            weight_decay=weight_decay if name in decayed else 0.0,
        )  # fmt: skip
        torch.testing.assert_close(new_params[i], param)
        torch.testing.assert_close(new_velocities[i], velocity)
        assert new_params[i].shape == params[i].shape


def test_branches_are_updated_in_two_packs() -> None:
    """Of LoRA's branches all that go up lie side by side, and all that go down, however wide the layers are."""
    shapes = [shape for wide in (6, 6, 6, 9, 9, 9) for shape in ((4, wide, 1, 1), (wide, 4, 1, 1))]
    names = [str(place) for place in range(len(shapes))]

    def update(*values: torch.Tensor) -> list[torch.Tensor]:
        params = [torch.ones(shape) for shape in shapes]
        gradients, velocities = values[: len(shapes)], values[len(shapes) :]
        one = torch.ones(())
        return nesterov_update(
            names, params, gradients, velocities, decayed=names, lr=one, momentum=one, weight_decay=one
        )[0]

    graph = make_fx(update)(*[torch.ones(shape) for shape in shapes * 2]).graph
    joined = [node.meta["val"].shape for node in graph.nodes if node.target is torch.ops.aten.cat.default]
    assert set(joined) == {(45, 4, 1, 1), (4, 45, 1, 1)}
    assert len(joined) == 6
