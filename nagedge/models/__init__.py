"""Models: a trunk (ours, timm's or the user's) with one head a task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nagedge.errors import ConfigurationError
from nagedge.models.cnn import cnn_trunk
from nagedge.models.config import ModelConfig
from nagedge.models.ds_cnn import ds_cnn_trunk
from nagedge.models.external import load_factory, timm_trunk
from nagedge.models.mlp import mlp_trunk
from nagedge.models.multitask import MeanOverPlaces, MultiTaskModel
from nagedge.models.tokens import TokenTrunk
from nagedge.specs import TaskSpec, TensorSpec
from nagedge.tasks import TASK_KINDS

__all__ = ["ModelConfig", "MultiTaskModel", "build_model", "load_factory", "with_vocabulary"]


def build_model(
    model: ModelConfig, input_spec: TensorSpec, tasks: Sequence[TaskSpec], seed: int
) -> nn.Module:
    """Return the model of a run, in training mode: ``forward(x [batch, ...])`` gives task name -> outputs.

    The same arguments give the same weights; torch's global random state is left as it was.

    Args:
        model: which trunk.
        input_spec: the model's input; its shape has the batch first.
        tasks: what to predict; their kinds make the heads.
        seed: of the initial weights.

    Raises:
        ConfigurationError: the trunk cannot be made, or does not fit the input or the tasks.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ranks = {TASK_KINDS[task.kind].features for task in tasks}
        trunk = _trunk(model, input_spec, pooled=ranks <= {2})
        output = _probe(trunk, model, input_spec)
        if isinstance(output, Mapping):
            return _whole_model(trunk, output, model, tasks)
        if not isinstance(output, Tensor) or output.dim() not in {2, *ranks}:
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigurationError(
                f"model trunk {model.trunk!r} gives {shape} for a batch of 2, expected features {_FEATURES[max(ranks)]}"
                " or a dict of task outputs. " + _REMEDY[max(ranks)]
            )
        heads = {task.name: _head(task, output, model) for task in tasks}
        return MultiTaskModel(trunk, heads).train()


_FEATURES = {2: "[2, features]", 3: "[2, steps, features]", 4: "[2, features, height, width]"}
_REMEDY = {
    2: "Pool and flatten at its end.",
    3: "Choose trunk 'tokens', or one of your own that keeps the steps.",
    4: "Choose trunk 'cnn', or one of your own that does not pool its map.",
}


def _head(task: TaskSpec, features: Tensor, model: ModelConfig) -> nn.Module:
    kind = TASK_KINDS[task.kind]
    channels = features.shape[2] if features.dim() == 3 else features.shape[1]
    head = kind.head(channels, task)
    if kind.features == features.dim():
        return head
    if kind.features == 2:
        return nn.Sequential(MeanOverPlaces(), head)
    raise ConfigurationError(
        f"task {task.name!r}: a {task.kind} task needs features {_FEATURES[kind.features]}, but model trunk"
        f" {model.trunk!r} gives {list(features.shape)} for a batch of 2. {_REMEDY[kind.features]}"
    )


def with_vocabulary(model: ModelConfig, vocabulary: int) -> ModelConfig:
    """Return the table with the number of token ids that the data has, where it names none itself."""
    if model.trunk != "tokens" or model.vocabulary or not vocabulary:
        return model
    return model.model_copy(update={"vocabulary": vocabulary})


def _trunk(model: ModelConfig, input_spec: TensorSpec, *, pooled: bool) -> nn.Module:
    sizes = [size for size in input_spec.shape[1:] if isinstance(size, int)]
    if model.trunk == "mlp":
        return mlp_trunk(math.prod(sizes), model.hidden, model.dropout)
    if model.trunk == "tokens":
        if len(sizes) != 1 or input_spec.dtype != "int64" or model.vocabulary < 2:
            raise ConfigurationError(
                f"model trunk 'tokens' takes int64 token ids [batch, steps] and model.vocabulary >= 2, but input"
                f" {_described(input_spec)} and vocabulary is {model.vocabulary}. Use data.dtype 'int64', or trunk"
                " 'mlp'."
            )
        return TokenTrunk(model.vocabulary, model.channels, model.dropout, pooled=pooled)
    if model.trunk in ("cnn", "ds_cnn") or model.trunk.startswith("timm:"):
        if len(sizes) != 3 or input_spec.dtype != "float32":
            raise ConfigurationError(
                f"model trunk {model.trunk!r} takes float32 images [batch, channels, height, width], input"
                f" {_described(input_spec)}. Use trunk 'mlp', or a module of your own."
            )
        if model.trunk == "ds_cnn":
            return ds_cnn_trunk(sizes[0], model.channels, model.dropout)
        if model.trunk == "cnn":
            return cnn_trunk(sizes[0], model.channels, model.dropout, pooled=pooled)
        name = model.trunk.removeprefix("timm:")
        return timm_trunk(name, sizes[0], pretrained=model.pretrained, options=model.options)
    return load_factory(model.trunk, model.options)


def _described(spec: TensorSpec) -> str:
    return f"{spec.name!r} is {spec.dtype} {list(spec.shape)}"


def _probe(trunk: nn.Module, model: ModelConfig, input_spec: TensorSpec) -> object:
    """Run two all-zero samples through the trunk to see what it gives."""
    sizes = [size for size in input_spec.shape[1:] if isinstance(size, int)]
    trunk.eval()
    try:
        with torch.no_grad():
            output: object = trunk(torch.zeros((2, *sizes), dtype=getattr(torch, input_spec.dtype)))
    except Exception as error:  # the module may be the user's
        raise ConfigurationError(
            f"model trunk {model.trunk!r} does not take its input, which {_described(input_spec)}: {error}"
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
