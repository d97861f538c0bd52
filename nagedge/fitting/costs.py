"""What a candidate costs: parameters and multiply-adds counted, memory planned, instructions counted by emulation."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nagedge.devices.arm64 import installed
from nagedge.errors import BundleError, NagEdgeError
from nagedge.export import export
from nagedge.fitting.liveness import step_bytes
from nagedge.lowering import backend_of
from nagedge.profiling.artifacts import artifacts_of
from nagedge.profiling.counts import count_artifact
from nagedge.sources import ExportSource
from nagedge.specs import TaskSpec, TensorSpec
from nagedge.targets import load_target
from nagedge.tracing import trace_model

__all__ = ["CHEAP", "costs_of"]

CHEAP = ("params", "macs")
"""The costs that take no time to find."""

_TARGET = "any-any-onnxruntime-fp32-train"


def costs_of(
    model: nn.Module,
    input_spec: TensorSpec,
    tasks: Sequence[TaskSpec],
    wanted: Collection[str],
    *,
    batch: int,
    core: str,
    report: Callable[[str], None] = lambda stage: None,
) -> dict[str, float]:
    """Return the wanted costs by name.

    Args:
        model: of the candidate; it is left in evaluation mode.
        input_spec, tasks: what it takes and gives.
        wanted: keys of :data:`nagedge.fitting.budget.COSTS`.
        batch: examples of a training step. core: the emulated one.
        report: called with what is being done.

    Raises:
        UnsupportedOperatorError: the training step cannot be had.
        RuntimeUnavailableError: instructions are wanted, and the emulator is not set up.
    """
    model.eval()
    found: dict[str, float] = {}
    if "params" in wanted:
        found["params"] = float(sum(parameter.numel() for parameter in model.parameters()))
    if "macs" in wanted:
        found["macs"] = _multiply_adds(model, _example(input_spec, 1))
    if "memory" in wanted:
        report("planning memory")
        found["memory"] = float(_planned(model, input_spec, tasks, batch))
    if "instructions" in wanted:
        report("counting instructions")
        found["instructions"] = float(_instructions(model, input_spec, tasks, batch, core))
    return found


def _multiply_adds(model: nn.Module, example: Tensor) -> float:
    """Count the products of convolutions, matrix products and attention; torch counts two operations for each."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example)
    return float(counter.get_total_flops()) / 2


def _planned(model: nn.Module, input_spec: TensorSpec, tasks: Sequence[TaskSpec], batch: int) -> int:
    source = ExportSource(model, tuple(tasks), _example(input_spec, batch), "candidate", input=input_spec)
    backend = backend_of(load_target(_TARGET))
    traced = trace_model(
        source,
        trainable="all",
        batch_norm="fold",
        batch=batch,
        tables={"onnxruntime": backend.DECOMPOSITIONS},
        report=lambda stage: None,
    )
    step = traced.steps["onnxruntime"]
    if isinstance(step, NagEdgeError):
        raise step
    return step_bytes(step)


def _instructions(
    model: nn.Module, input_spec: TensorSpec, tasks: Sequence[TaskSpec], batch: int, core: str
) -> int:
    made = installed()
    with tempfile.TemporaryDirectory(prefix="nagedge-fit-") as folder:
        bundle = export(
            model,
            tasks=tasks,
            example_input=_example(input_spec, batch),
            targets=_TARGET,
            out=Path(folder) / "bundle",
            batch=batch,
        )
        (artifact,) = artifacts_of(bundle, None, ("train",), batch)
        counted = count_artifact(bundle, artifact, made, core)
    if counted.median is None:
        raise BundleError("the emulator counted nothing. Run `nagedge devices setup arm64` to check it.")
    return counted.median.instructions


def _example(spec: TensorSpec, batch: int) -> Tensor:
    """Return samples like a candidate's input: noise, or token ids that are no padding."""
    sizes = [size for size in spec.shape[1:] if isinstance(size, int)]
    if spec.dtype == "int64":
        return torch.ones((batch, *sizes), dtype=torch.int64)
    return torch.randn((batch, *sizes), generator=torch.Generator().manual_seed(0))
