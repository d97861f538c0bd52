"""Phone-sized models of many families, and what came of exporting and verifying each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import nagedge
from nagedge.manifest import CheckEntry

STEPS = 10
ROWS = 16
IMAGE_SIZE = 64

TIMM = (
    "mobilenetv3_small_050", "mobilenetv4_conv_small", "tf_efficientnet_lite0", "repvit_m0_9", "mobilevit_xxs",
    "lcnet_050", "ghostnet_100", "resnet10t", "convnext_atto", "mnasnet_small", "efficientvit_b0", "mobileone_s0",
    "regnetx_002", "densenet121", "edgenext_xx_small", "mixnet_s", "resnet18", "hardcorenas_a",
    "vit_tiny_patch16_224", "fastvit_t8",
)  # fmt: skip

TASKS = (
    nagedge.TaskSpec("kind", "classification", size=5),
    nagedge.TaskSpec("level", "regression", size=1, weight=0.5),
)


class TwoHeads(nn.Module):
    """A trunk and a head for each of :data:`TASKS`; the trunk returns ``[batch, features]``."""

    def __init__(self, trunk: nn.Module, features: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.kind = nn.Linear(features, 5)
        self.level = nn.Linear(features, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {"kind": self.kind(features), "level": self.level(features)}


class LastState(nn.Module):
    """A recurrent net of two layers over ``[batch, time, 6]``; returns its last state."""

    def __init__(self, net: type[nn.GRU | nn.LSTM], *, bidirectional: bool) -> None:
        super().__init__()
        self.net = net(6, 16, num_layers=2, batch_first=True, bidirectional=bidirectional)

    def forward(self, signal: Tensor) -> Tensor:
        states, _ = self.net(signal)
        last: Tensor = states[:, -1]
        return last


class Encoder(nn.Module):
    """Embedded tokens ``[batch, time]`` with learnt positions through a transformer encoder; returns their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 32)
        self.positions = nn.Parameter(torch.randn(1, 12, 32) * 0.02)
        layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        mean: Tensor = self.layers(self.tokens(tokens) + self.positions).mean(1)
        return mean


class Attention(nn.Module):
    """Multi-head attention over ``[batch, time, 16]``, a learnt query asking; returns its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, 16))
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm = nn.LayerNorm(16)

    def forward(self, sequence: Tensor) -> Tensor:
        answer, _ = self.attention(
            self.query.expand(sequence.shape[0], -1, -1), sequence, sequence, need_weights=False
        )
        normed: Tensor = self.norm(answer[:, 0])
        return normed


def _convolution_1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(6, 16, 7, padding="same"), nn.BatchNorm1d(16), nn.SiLU(), nn.MaxPool1d(3, 2, 1),
        nn.Conv1d(16, 32, 5, dilation=2, groups=4), nn.GroupNorm(4, 32), nn.Mish(), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
    )  # fmt: skip


def _autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.InstanceNorm2d(8, affine=True), nn.ELU(),
        nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1), nn.PReLU(4), nn.Upsample(scale_factor=0.5, mode="bilinear"),
        nn.AvgPool2d(3, 2, 1), nn.Flatten(),
    )  # fmt: skip


class TextGru(nn.Module):
    """A text classifier: embedded tokens ``[batch, time]`` through a GRU; returns its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(200, 24)
        self.gru = nn.GRU(24, 32, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.gru(self.tokens(tokens))
        last: Tensor = states[:, -1]
        return last


def _separable(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
    ]  # fmt: skip


def _ds_cnn() -> nn.Module:
    """DS-CNN (small) of Zhang et al. 2017, "Hello Edge", over log-mel features ``[batch, 1, 49, 10]``."""
    first = nn.Conv2d(1, 64, (10, 4), stride=2, padding=(5, 1), bias=False)
    blocks = [layer for _ in range(4) for layer in _separable(64, 64)]
    return nn.Sequential(first, nn.BatchNorm2d(64), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU())


SMALL: dict[str, Callable[[], tuple[nn.Module, int, Tensor]]] = {
    "MLP": lambda: (_mlp(), 256, torch.randn(ROWS, 1, 28, 28)),
    "DS-CNN, audio features": lambda: (_ds_cnn(), 64, torch.randn(ROWS, 1, 49, 10)),
    "GRU text classifier": lambda: (TextGru(), 32, torch.randint(0, 200, (ROWS, 16))),
    "GRU, 2 layers": lambda: (LastState(nn.GRU, bidirectional=False), 16, torch.randn(ROWS, 12, 6)),
    "LSTM, 2 layers, both ways": lambda: (
        LastState(nn.LSTM, bidirectional=True),
        32,
        torch.randn(ROWS, 12, 6),
    ),
    "transformer encoder": lambda: (Encoder(), 32, torch.randint(0, 50, (ROWS, 12))),
    "attention": lambda: (Attention(), 16, torch.randn(ROWS, 9, 16)),
    "1-d convolutions": lambda: (_convolution_1d(), 32, torch.randn(ROWS, 6, 50)),
    "transposed convolution": lambda: (_autoencoder(), 64, torch.randn(ROWS, 1, 16, 16)),
}
"""By name: what makes a trunk, the number of its features, and an example input."""


@dataclass(frozen=True)
class Half:
    """What came of one half of a target, its inference or its training step.

    Attributes:
        verdict: "within tolerance", "out of tolerance" or "skipped".
        worst_rel: largest difference over the largest value of its tensor, of those that rtol bounds; None when atol
            bounds them all.
        detail: the tensor that is out of tolerance first, or why it was skipped; else "".
    """

    verdict: str
    worst_rel: float | None
    detail: str


@dataclass(frozen=True)
class Outcome:
    """What came of one model.

    Attributes:
        model: its name.
        parameters: number of values the step trains.
        free_batch: whether the batch size is free in the traced graphs.
        export_s: wall time of the export for all targets.
        halves: (target, "inference" or "training") -> what verification found.
        realigned: target -> how many of :data:`STEPS` steps parted at a kink.
        refused: target -> why it has no artifacts.
    """

    model: str
    parameters: int = 0
    free_batch: bool = False
    export_s: float = 0.0
    halves: dict[tuple[str, str], Half] = field(default_factory=dict)
    realigned: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def make(name: str) -> tuple[nn.Module, Tensor]:
    """Return a model of the zoo, in evaluation mode, and its example input of sixteen rows.

    The small nets have random weights; the deep ones are trained on stripes for a moment.
    """
    torch.manual_seed(0)
    if name in SMALL:
        trunk, features, example = SMALL[name]()
    else:
        import timm

        size = {"img_size": IMAGE_SIZE} if name.startswith("vit_") else {}
        trunk = timm.create_model(name, num_classes=0, **size).eval()
        example = torch.randn(ROWS, 3, IMAGE_SIZE, IMAGE_SIZE)
        with torch.no_grad():
            features = trunk(example).shape[1]
    model = TwoHeads(trunk, features)
    if name not in SMALL:
        _train(model)
        example, _, _ = _stripes(ROWS)
    return model.eval(), example


def _train(model: TwoHeads, steps: int = 200) -> None:
    """Train a little, in place.

    A deep net as created lets what it is given fade, so that outputs agree within the absolute tolerance whatever was
    computed, or amplifies all rounding.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        images, kind, level = _stripes(ROWS)
        outputs = model.train()(images)
        loss = functional.cross_entropy(outputs["kind"], kind) + functional.mse_loss(
            outputs["level"][:, 0], level
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _stripes(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return stripes under noise ``[rows, 3, size, size]``, which of five angles each has, and its contrast."""
    kind, level = torch.randint(0, 5, (rows,)), torch.randn(rows)
    angle = kind * (torch.pi / 5)
    y, x = torch.meshgrid(torch.arange(IMAGE_SIZE), torch.arange(IMAGE_SIZE), indexing="ij")
    phase = torch.rand(rows, 1, 1) * 2 * torch.pi
    across = x * angle.cos()[:, None, None] + y * angle.sin()[:, None, None]
    stripes = torch.sin(across * 0.5 + phase) * (1 + 0.5 * level[:, None, None])
    return stripes[:, None] + 0.3 * torch.randn(rows, 3, IMAGE_SIZE, IMAGE_SIZE), kind, level


def try_out(name: str, targets: Sequence[str], folder: Path) -> Outcome:
    """Export a model of the zoo with everything trainable, verify :data:`STEPS` steps, and say what came of it."""
    model, example = make(name)
    started = time.perf_counter()
    try:
        bundle = nagedge.export(
            model, tasks=TASKS, example_input=example, targets=list(targets), out=folder / "bundle"
        )
    except nagedge.NagEdgeError as error:
        return Outcome(name, refused=dict.fromkeys(targets, f"{error}"))
    export_s = time.perf_counter() - started
    comparisons = nagedge.verify(bundle, steps=STEPS)
    manifest = nagedge.load(bundle.path).manifest
    halves: dict[tuple[str, str], Half] = {}
    realigned: dict[str, int] = {}
    for target, entries in manifest.verification.items():
        for entry in entries:
            realigned[target] = len(entry.realigned)
            for half, check in entry.checks.items():
                halves[target, half] = Half(
                    check.verdict, _worst_rel(comparisons, target, half), _detail(check)
                )
    trained = set(manifest.training.parameters) if manifest.training is not None else set()
    return Outcome(
        name,
        parameters=sum(array.size for key, array in bundle.params().items() if key in trained),
        free_batch=manifest.batch is None,
        export_s=export_s,
        halves=halves,
        realigned=realigned,
        refused=dict(manifest.refused),
    )


def _detail(check: CheckEntry) -> str:
    if check.verdict == "out of tolerance":
        where = f" at step {check.step}" if check.step else ""
        return f"{check.tensor}{where}: max_abs {check.max_abs:.3g}, max_rel {check.max_rel:.3g}"
    return check.reason


def _worst_rel(comparisons: Sequence[nagedge.Comparison], target: str, half: str) -> float | None:
    """Return the largest relative difference of the tensors that are so large that rtol, not atol, bounds them."""
    found = [
        c
        for c in comparisons
        if c.target == target and c.tensor.startswith("infer.") == (half == "inference") and _is_relative(c)
    ]
    return max((c.max_rel for c in found), default=None)


def _is_relative(comparison: nagedge.Comparison) -> bool:
    scale = comparison.max_abs / comparison.max_rel if comparison.max_rel else 0.0
    return comparison.rtol * scale >= comparison.atol
