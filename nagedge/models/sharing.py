"""How the tasks share: each reads a stage of one trunk, or trunks are mixed by cross-stitch units or by gates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nagedge.errors import ConfigurationError, nearest_name
from nagedge.models.config import ModelConfig
from nagedge.models.cross_stitch import CrossStitchModel
from nagedge.models.heads import head_on
from nagedge.models.mmoe import MixtureOfExpertsModel
from nagedge.models.multitask import StagedModel
from nagedge.models.stages import Features, features_of
from nagedge.models.trunks import described, staged_trunk
from nagedge.specs import TaskSpec, TensorSpec
from nagedge.tasks import TASK_KINDS

__all__ = ["cross_stitch_model", "mixture_model", "staged_model"]


def staged_model(
    model: ModelConfig, input_spec: TensorSpec, tasks: Sequence[TaskSpec], example: Tensor
) -> nn.Module:
    """Return a model whose heads read the stages that the table names; ``example`` is a batch of two.

    Raises:
        ConfigurationError: a name is no task, a stage does not exist, or the trunk has none.
    """
    names = [task.name for task in tasks]
    for name in model.stages:
        if name not in names:
            raise ConfigurationError(
                f"model.stages names {name!r}, which is no task of the run; the tasks are {', '.join(names)}."
                + nearest_name(name, names)
            )
    trunk = staged_trunk(model, input_spec)
    features = _stages(trunk, model, input_spec, example)
    for name, stage in model.stages.items():
        if stage > len(features):
            shapes = ", ".join(f"{place} {list(f.shape)}" for place, f in enumerate(features, start=1))
            raise ConfigurationError(
                f"model.stages.{name} is {stage}, but trunk {model.trunk!r} has {len(features)} stages, which give for"
                f" a batch of 2: {shapes}. Name one of them."
            )
    reads = {task.name: model.stages.get(task.name, len(features)) - 1 for task in tasks}
    if not isinstance(trunk, Features):  # parameters that nothing reads would be trained, stored and exported
        trunk.drop_after(max(reads.values()) + 1)
    pooled = _pooled(tasks)
    heads = {}
    with torch.no_grad():
        for task in tasks:
            read = trunk.read(features[reads[task.name]], example, pooled=task.name in pooled)
            heads[task.name] = _dropped(head_on(task, read, model), model)
    return StagedModel(trunk, heads, reads, pooled)


def cross_stitch_model(
    model: ModelConfig, input_spec: TensorSpec, tasks: Sequence[TaskSpec], example: Tensor
) -> nn.Module:
    """Return one trunk a task with cross-stitch units between their stages.

    Raises:
        ConfigurationError: there is one task only, or the trunk does not take the input.
    """
    if len(tasks) < 2:
        raise ConfigurationError(
            "sharing 'cross_stitch' combines the trunks of several tasks, but the run has one. Set sharing to 'hard'."
        )
    trunks = {}
    for task in tasks:
        trunk = staged_trunk(model, input_spec)
        assert not isinstance(trunk, Features)  # the table refuses trunks whose stages are not ours
        trunks[task.name] = trunk
    first = trunks[tasks[0].name]
    features = _stages(first, model, input_spec, example)
    pooled = _pooled(tasks)
    heads = {}
    with torch.no_grad():
        for task in tasks:
            read = first.read(features[-1], example, pooled=task.name in pooled)
            heads[task.name] = _dropped(head_on(task, read, model), model)
    return CrossStitchModel(trunks, [stage.shape[1] for stage in features], heads, pooled)


def mixture_model(
    model: ModelConfig,
    input_spec: TensorSpec,
    tasks: Sequence[TaskSpec],
    experts: Sequence[nn.Module],
    features: Tensor,
) -> nn.Module:
    """Return a mixture of experts, whose features are like those given, for a batch of two.

    Raises:
        ConfigurationError: a head does not fit the features.
    """
    sizes = [size for size in input_spec.shape[1:] if isinstance(size, int)]
    vector = len(sizes) == 1 and input_spec.dtype == "float32"
    width = sizes[0] if vector else features.shape[2 if features.dim() == 3 else 1]
    gates = {task.name: nn.Linear(width, len(experts)) for task in tasks}
    heads = {task.name: head_on(task, features, model) for task in tasks}
    return MixtureOfExpertsModel(experts, gates, heads, gates_read_input=vector)


def _pooled(tasks: Sequence[TaskSpec]) -> frozenset[str]:
    return frozenset(task.name for task in tasks if TASK_KINDS[task.kind].features == 2)


def _dropped(head: nn.Module, model: ModelConfig) -> nn.Module:
    """Put the table's dropout before a head, where the trunk has none of its own."""
    if not model.dropout or model.trunk == "bc_resnet":
        return head
    return nn.Sequential(nn.Dropout(model.dropout), head)


def _stages(trunk: nn.Module, model: ModelConfig, input_spec: TensorSpec, example: Tensor) -> list[Tensor]:
    """Run the example through the trunk and return the features of its stages."""
    trunk.eval()
    try:
        with torch.no_grad():
            found: object = (
                trunk(example) if isinstance(trunk, Features) else features_of(trunk, example, trunk.count)  # type: ignore[arg-type]
            )
    except Exception as error:  # the module may be the user's
        raise ConfigurationError(
            f"model trunk {model.trunk!r} gives no features of its stages for its input, which {described(input_spec)}:"
            f" {error}. Return a list of them from the module, or leave model.stages out."
        ) from error
    trunk.train()
    if not isinstance(found, (list, tuple)) or not all(isinstance(f, Tensor) and f.dim() >= 2 for f in found):
        raise ConfigurationError(
            f"model trunk {model.trunk!r} gives no list of features, one a stage. Return one, or leave model.stages"
            " out."
        )
    return list(found)
