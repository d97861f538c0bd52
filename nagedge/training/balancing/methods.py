"""The balancing methods by name: plain data, so that a run file is checked without TorchJD.

What stands under ``options`` are the defaults; an integer default takes integers only. Those of a method that an
exported step can compute too are the step's, without the window that stands for its epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nagedge.step_rules import BALANCING

__all__ = ["METHODS", "Method", "Solver"]


@dataclass(frozen=True)
class Solver:
    """What a method needs beyond the default installation: what pip installs, its modules, and their licences."""

    requirement: str
    modules: tuple[str, ...]
    licences: str


@dataclass(frozen=True)
class Method:
    """One balancing method.

    Attributes:
        summary: what it does, for the guide.
        family: ``"losses"`` makes one number of the losses; ``"gradients"`` one direction of the task gradients;
            ``"accumulation"`` is ours alone.
        made_by: class in :mod:`torchjd.scalarization` or :mod:`torchjd.aggregation`; empty for ours.
        options: name -> default of its numbers.
        preference: whether it takes a share a task.
        solver: what it needs beyond the default installation.
        stateful: whether a step depends on those before; the state is part of the checkpoint.
    """

    summary: str
    family: Literal["losses", "gradients", "accumulation"]
    made_by: str = ""
    options: Mapping[str, float | int | str] = field(default_factory=dict)
    preference: bool = False
    solver: Solver | None = None
    stateful: bool = False


_CAGRAD = Solver("nagedge[solvers]", ("cvxpy", "clarabel"), "cvxpy and clarabel: Apache-2.0")
_NASH = Solver("torchjd[nash-mtl]", ("cvxpy", "ecos"), "cvxpy: Apache-2.0, ecos: GPL-3.0")
_FAIR = Solver("nagedge[solvers]", ("scipy",), "scipy: BSD-3-Clause")

METHODS: Mapping[str, Method] = {
    "sum": Method("sum of the losses, each with its task's weight", "losses"),
    "mean": Method("their mean", "losses", "Mean"),
    "constant": Method("weighted by the preference", "losses", "Constant", preference=True),
    "random": Method("weighted at random, anew each step (Lin et al. 2022)", "losses", "Random"),
    "uncertainty": Method(
        "learnt log-variances (Kendall et al. 2018)", "losses", "UW", BALANCING["uncertainty"], stateful=True
    ),
    "imtl_l": Method(
        "learnt log-scales (Liu et al. 2021)", "losses", "IMTLL", BALANCING["imtl_l"], stateful=True
    ),
    "dwa": Method(
        "by the rate of descent, epoch by epoch (Liu et al. 2019)", "losses", "DWA",
        {"temperature": BALANCING["dwa"]["temperature"]}, stateful=True,
    ),
    "famo": Method(
        "equal rates of descent, a second forward pass a step (Liu et al. 2023)", "losses", "FAMO",
        BALANCING["famo"], stateful=True,
    ),
    "geometric_mean": Method("geometric mean (Chennupati et al. 2019)", "losses", "GeometricMean"),
    "stch": Method("smooth largest (Lin et al. 2024)", "losses", "STCH", {"mu": 0.1}, preference=True),
    "pbi": Method(
        "penalty for leaving the preferred direction (Zhang & Li 2007)", "losses", "PBI", {"theta": 1.0},
        preference=True,
    ),
    "cosmos": Method(
        "weighted sum with a cosine penalty (Ruchte & Grabocka 2021)", "losses", "COSMOS", {"lambda_": 1.0},
        preference=True,
    ),
    "upgrad": Method(
        "each gradient projected on the cone of no conflict (Quinton & Rey 2024)", "gradients", "UPGrad",
        preference=True,
    ),
    "dualproj": Method(
        "the mean projected on that cone (Lopez-Paz & Ranzato 2017)", "gradients", "DualProj", preference=True
    ),
    "pcgrad": Method("conflicts projected away, in random order (Yu et al. 2020)", "gradients", "PCGrad"),
    "gradvac": Method(
        "pairs moved to their usual angle (Wang et al. 2021)", "gradients", "GradVac", {"beta": 0.5}, stateful=True
    ),
    "mgda": Method(
        "smallest vector of the hull (Desideri 2012)", "gradients", "MGDA", {"epsilon": 1e-3, "max_iters": 100}
    ),
    "cagrad": Method(
        "best worst case near the mean (Liu et al. 2021)", "gradients", "CAGrad", {"c": 0.4}, solver=_CAGRAD
    ),
    "nash_mtl": Method(
        "Nash's bargaining (Navon et al. 2022)", "gradients", "NashMTL",
        {"max_norm": 1.0, "update_weights_every": 1, "optim_niter": 20}, solver=_NASH, stateful=True,
    ),
    "imtl_g": Method("equal projections on every gradient (Liu et al. 2021)", "gradients", "IMTLG"),
    "aligned_mtl": Method(
        "principal components made equal (Senushkin et al. 2023)", "gradients", "AlignedMTL",
        {"scale_mode": "min"}, preference=True,
    ),
    "config": Method("equal cosines with every gradient (Liu et al. 2024)", "gradients", "ConFIG", preference=True),
    "fairgrad": Method(
        "alpha-fair (Ban & Ji 2024)", "gradients", "FairGrad", {"alpha": 1.0}, solver=_FAIR
    ),
    "graddrop": Method("signs drawn by their purity (Chen et al. 2020)", "gradients", "GradDrop"),
    "excess_mtl": Method(
        "by excess risk (He et al. 2024)", "gradients", "ExcessMTL",
        {"robust_step_size": 1.0, "n_warmup_steps": 0}, stateful=True,
    ),
    "pcd": Method(
        "the first task first, some progress for the others", "gradients", "PCD",
        {"tau": 0.02, "beta": 0.999}, stateful=True,
    ),
    "krum": Method(
        "those nearest to the others (Blanchard et al. 2017)", "gradients", "Krum",
        {"n_byzantine": 0, "n_selected": 1},
    ),
    "trimmed_mean": Method(
        "coordinates without their extremes (Yin et al. 2018)", "gradients", "TrimmedMean", {"trim_number": 0}
    ),
    "gradnorm": Method(
        "learnt weights for equal rates of training (Chen et al. 2018)", "gradients",
        options={"alpha": 1.5, "lr": 0.025}, stateful=True,
    ),
    "db_mtl": Method(
        "logarithms of losses, gradients of one size (Lin et al. 2023)", "gradients",
        options={"beta": 0.0, "beta_power": 0.5}, stateful=True,
    ),
    "accumulation": Method(
        "important tasks get more of the step's micro-batches", "accumulation",
        options={"micro_batches": 4, "importance": "loss_rate", "every": 10, "smoothing": 0.9, "floor": 0.1},
        preference=True, stateful=True,
    ),
}  # fmt: skip
"""The methods by name. TorchJD's MoDo and SDMGrad need two independent batches a step and are not here."""
