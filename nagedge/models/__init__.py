"""Models: a trunk (ours, timm's or the user's) with one head a task."""

from __future__ import annotations

from nagedge.models.build import build_model, with_vocabulary
from nagedge.models.config import ModelConfig
from nagedge.models.external import load_factory
from nagedge.models.multitask import MultiTaskModel

__all__ = ["ModelConfig", "MultiTaskModel", "build_model", "load_factory", "with_vocabulary"]
