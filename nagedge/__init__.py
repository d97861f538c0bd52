"""Train compact multi-task models with Nesterov SGD, export files that train on the device, prove them.

The public names are imported on first use, so ``import nagedge`` itself costs no torch, numpy or pydantic.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from nagedge.bundle import Bundle
    from nagedge.errors import NagEdgeError
    from nagedge.export import export
    from nagedge.finetuning import finetune
    from nagedge.profiling import profile
    from nagedge.specs import LossSpec, TaskSpec, TensorSpec
    from nagedge.training.checkpoint import Checkpoint
    from nagedge.training.fit import train
    from nagedge.verification import Comparison, verify

__all__ = [
    "Bundle",
    "Checkpoint",
    "Comparison",
    "LossSpec",
    "NagEdgeError",
    "TaskSpec",
    "TensorSpec",
    "export",
    "finetune",
    "load",
    "profile",
    "train",
    "verify",
]

__version__ = "0.1.0.dev0"

_HOMES = {
    "Bundle": "nagedge.bundle",
    "Checkpoint": "nagedge.training.checkpoint",
    "Comparison": "nagedge.verification",
    "LossSpec": "nagedge.specs",
    "NagEdgeError": "nagedge.errors",
    "TaskSpec": "nagedge.specs",
    "TensorSpec": "nagedge.specs",
    "export": "nagedge.export",
    "finetune": "nagedge.finetuning",
    "profile": "nagedge.profiling",
    "train": "nagedge.training.fit",
    "verify": "nagedge.verification",
}
"""The module that defines each lazy public name."""


def load(path: str | Path) -> Bundle:
    """Return the bundle at ``path``, its files checked against the manifest.

    Args:
        path: the folder that :func:`export` wrote.

    Raises:
        BundleError: when a file is missing, damaged, misnamed, or the manifest is newer than this version.
    """
    from nagedge.bundle import Bundle

    return Bundle.load(path)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'nagedge' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps ``nagedge.export`` the function after its module of the same name was imported.

    The import system binds every imported submodule on its package, which would put the module
    ``nagedge.export`` in the place of the public function that it defines.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and _HOMES.get(name) == value.__name__:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
