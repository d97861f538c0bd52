"""From the ``[model]`` table, the input and the tasks to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nagedge.errors import ConfigurationError
from nagedge.models.config import ModelConfig
from nagedge.models.heads import FEATURES, REMEDY, head_on
from nagedge.models.multitask import MultiTaskModel
from nagedge.models.sharing import cross_stitch_model, mixture_model, staged_model
from nagedge.models.trunks import described, whole_trunk
from nagedge.specs import TaskSpec, TensorSpec
from nagedge.tasks import TASK_KINDS

__all__ = ["build_model", "with_vocabulary"]


def build_model(
    model: ModelConfig, input_spec: TensorSpec, tasks: Sequence[TaskSpec], seed: int
) -> nn.Module:
    """Return the model of a run, in training mode: ``forward(x [batch, ...])`` gives task name -> outputs.

    The same arguments give the same weights; torch's global random state is left as it was.

    Args:
        model: which trunk, and how the tasks share it.
        input_spec: the model's input; its shape has the batch first.
        tasks: what to predict; their kinds make the heads.
        seed: of the initial weights.

    Raises:
        ConfigurationError: the trunk cannot be made, or does not fit the input or the tasks.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        example = example_of(input_spec)
        if model.stages:
            return staged_model(model, input_spec, tasks, example).train()
        if model.sharing == "cross_stitch":
            return cross_stitch_model(model, input_spec, tasks, example).train()
        ranks = {TASK_KINDS[task.kind].features for task in tasks}
        trunk = whole_trunk(model, input_spec, pooled=ranks <= {2})
        output = _probe(trunk, model, input_spec, example)
        if isinstance(output, Mapping) and model.sharing == "hard":
            return _whole_model(trunk, output, model, tasks)
        if not isinstance(output, Tensor) or output.dim() not in {2, *ranks}:
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigurationError(
                f"model trunk {model.trunk!r} gives {shape} for a batch of 2, expected features {FEATURES[max(ranks)]}"
                " or a dict of task outputs. " + REMEDY[max(ranks)]
            )
        if model.sharing == "mmoe":
            more = [whole_trunk(model, input_spec, pooled=ranks <= {2}) for _ in range(model.experts - 1)]
            return mixture_model(model, input_spec, tasks, [trunk, *more], output).train()
        heads = {task.name: head_on(task, output, model) for task in tasks}
        return MultiTaskModel(trunk, heads).train()


def with_vocabulary(model: ModelConfig, vocabulary: int) -> ModelConfig:
    """Return the table with the number of token ids that the data has, where it names none itself."""
    if model.trunk != "tokens" or model.vocabulary or not vocabulary:
        return model
    return model.model_copy(update={"vocabulary": vocabulary})


def example_of(input_spec: TensorSpec) -> Tensor:
    """Return two samples of zeros."""
    sizes = [size for size in input_spec.shape[1:] if isinstance(size, int)]
    return torch.zeros((2, *sizes), dtype=getattr(torch, input_spec.dtype))


def _probe(trunk: nn.Module, model: ModelConfig, input_spec: TensorSpec, example: Tensor) -> object:
    """Run two all-zero samples through the trunk to see what it gives."""
    trunk.eval()
    try:
        with torch.no_grad():
            output: object = trunk(example)
    except Exception as error:  # the module may be the user's
        raise ConfigurationError(
            f"model trunk {model.trunk!r} does not take its input, which {described(input_spec)}: {error}"
        ) from error
    trunk.train()
    return output


def _whole_model(
    module: nn.Module, output: Mapping[object, object], model: ModelConfig, tasks: Sequence[TaskSpec]
) -> nn.Module:
    for task in tasks:
        value = output.get(task.name)
        shape = TASK_KINDS[task.kind].output_shape(task)
        fits = isinstance(value, Tensor) and (
            tuple(value.shape) == (2, *shape) or (shape == (1,) and value.shape == (2,))
        )
        if not fits:
            got = list(value.shape) if isinstance(value, Tensor) else "nothing"
            raise ConfigurationError(
                f"model {model.trunk!r} gives {got} for task {task.name!r} and a batch of 2, expected"
                f" {[2, *shape]}; its entries are {', '.join(map(str, output))}. Return one entry a task."
            )
    return module.train()
