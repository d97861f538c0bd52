"""What the tests of the runtimes share: bundles exported once, the settings of a step, comparison by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from models_for_tests import CASES

from nagedge.bundle import Bundle
from nagedge.export import export
from nagedge.runtimes import TrainingState

__all__ = ["SETTINGS", "Factory", "arrays", "assert_close", "bundle_factory"]

SETTINGS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
Factory = Callable[..., Bundle]
"""``name, targets, options -> Bundle``"""


def bundle_factory(folder: Path, default: Any) -> Factory:
    """Return what exports a case once, for the targets ``default`` where no others are given."""
    made: dict[tuple[Any, ...], Bundle] = {}

    def bundle(name: str, targets: Any = default, **options: Any) -> Bundle:
        key = (name, str(targets), *sorted(options.items()))
        if key not in made:
            case = CASES[name]()
            made[key] = export(
                case.model, tasks=case.tasks, example_input=case.example, targets=targets,
                out=folder / str(len(made)), **options,
            )  # fmt: skip
        return made[key]

    return bundle


def arrays(state: TrainingState) -> dict[str, Any]:
    """Return the tensors of a state by role and name."""
    roles = ("params", "momentum", "buffers")
    return {f"{role}.{name}": array for role in roles for name, array in getattr(state, role).items()}


def assert_close(
    got: Mapping[str, Any], expected: Mapping[str, Any], rtol: float = 1e-4, atol: float = 1e-6
) -> None:
    """Compare arrays or numbers by name."""
    assert got.keys() == expected.keys(), f"{sorted(got)} are not {sorted(expected)}"
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, rtol=rtol, atol=atol, err_msg=key)
