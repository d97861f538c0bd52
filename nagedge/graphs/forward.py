"""The model's forward pass as one graph of ATen ops: traced once, the source of every other graph.

The graph takes the model's state (parameters and buffers, by name) and its inputs, and returns one tensor a task and
the new value of every buffer that the forward pass updates (BatchNorm statistics under the policy ``train``). It is
functional (no in-place op), holds no Python of the model, and its batch dimension is symbolic wherever the model
allows it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel

from nagedge.errors import ConfigurationError, NagEdgeError
from nagedge.graphs.batch_norm import track_statistics
from nagedge.graphs.batch_size import doubtful_sizes, same_at
from nagedge.graphs.cleanup import clean
from nagedge.graphs.decompositions import FORWARD, whole_interpolations
from nagedge.graphs.decompositions.in_place import in_place_activations
from nagedge.graphs.decompositions.recurrent_modules import by_layer, whole_recurrent, with_aten_names
from nagedge.graphs.example import call_arguments, input_specs, run_example
from nagedge.graphs.functional import made_functional
from nagedge.graphs.graph_modules import graph_module, lazily
from nagedge.graphs.products import merge_products
from nagedge.graphs.shape_mode import ShapeMode, Sizes
from nagedge.specs import TaskSpec, TensorSpec
from nagedge.tasks import TASK_KINDS

__all__ = ["FixedBatchError", "ForwardGraph", "check_state", "trace", "trace_forward", "without_collection"]

TRACED_BATCH = 7
"""Size the symbolic batch has while tracing: not 0 or 1, which torch specialises, and rare among other sizes."""


class FixedBatchError(Exception):
    """A graph cannot be traced with a symbolic batch; trace it again with a fixed one."""


@dataclass(frozen=True)
class ForwardGraph:
    """The forward pass as a functional graph.

    Attributes:
        module: called with the state tensors in the order of ``state_names``, then the inputs in the order of
            ``inputs``; returns one tensor a name of ``outputs``, then one a name of ``updated_buffers``.
        state_names: parameters and buffers that the graph reads, by their name in the model.
        inputs: name, dtype and shape of each input.
        outputs: task names.
        updated_buffers: buffers for which the graph returns a new value.
        constants: tensors that the forward pass creates itself, by name; they are part of ``state_names``.
        batch: ``None`` when the batch dimension is symbolic, else the one size the graph was traced for.
    """

    module: fx.GraphModule
    state_names: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    updated_buffers: tuple[str, ...]
    constants: Mapping[str, Tensor]
    batch: int | None

    def __call__(
        self, state: Mapping[str, Tensor], inputs: Sequence[Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the outputs by task and the updated buffers by name."""
        flat = self.module(*[state[name] for name in self.state_names], *inputs)
        count = len(self.outputs)
        return (
            dict(zip(self.outputs, flat[:count], strict=True)),
            dict(zip(self.updated_buffers, flat[count:], strict=True)),
        )

    def prepared(self) -> ForwardGraph:
        """Return the graph to trace further: recurrent layers have derivatives of their own, products are merged."""
        return replace(self, module=by_layer(merge_products(self.module)))


def trace(
    function: Callable[..., Sequence[Tensor]],
    arguments: Sequence[Tensor],
    dynamic: Sequence[bool],
    *,
    batch: int | None,
    decompositions: Mapping[Any, Callable[..., Any]] | None = None,
    whole_layers: bool = False,
    functional: bool = False,
) -> tuple[fx.GraphModule, bool]:
    """Trace ``function`` on fake tensors and return its functional graph and whether its batch stayed symbolic.

    Args:
        function: takes the arguments, returns a sequence of tensors.
        arguments: real tensors; only shape and dtype are used.
        dynamic: for each argument, whether its axis 0 is the batch.
        batch: ``None`` for a symbolic batch, else the size to fix.
        decompositions: as for :func:`torch.fx.experimental.proxy_tensor.make_fx`.
        whole_layers: leave recurrent layers whole, as torch's operators.
        functional: ``function`` has no in-place operators; those that torch's derivatives bring in are removed.

    The module's ``meta["doubtful_sizes"]`` are batch sizes at which ``function`` might branch in another way.
    """
    shape_env = Sizes()
    mode = ShapeMode(shape_env)
    fakes = []
    for tensor, is_dynamic in zip(arguments, dynamic, strict=True):
        if not is_dynamic:
            fakes.append(mode.from_tensor(tensor.detach(), static_shapes=True))
            continue
        sized = tensor.detach()[:1].expand(batch or TRACED_BATCH, *tensor.shape[1:]).contiguous()
        if batch is not None:
            fakes.append(mode.from_tensor(sized, static_shapes=True))
        else:
            sizes = [DimDynamic.DUCK] + [DimDynamic.STATIC] * (tensor.dim() - 1)
            context: StatelessSymbolicContext[Any, Any] = StatelessSymbolicContext(dynamic_sizes=sizes)
            fakes.append(mode.from_tensor(sized, symbolic_context=context))
    with (
        mode,
        enable_python_dispatcher(),
        in_place_activations(),
        whole_interpolations(),
        whole_recurrent() if whole_layers else nullcontext(),
        _without_fused_kernels(),
        without_collection(),
        lazily(),
    ):
        module = make_fx(
            function if functional else dispatch_functionalize(function),
            decomposition_table=dict(decompositions or {}),
            tracing_mode="real",
            _allow_non_fake_inputs=True,
        )(*fakes)
    if functional and not made_functional(module.graph, decompositions or {}):
        return trace(
            function,
            arguments,
            dynamic,
            batch=batch,
            decompositions=decompositions,
            whole_layers=whole_layers,
        )
    specialised = bool(shape_env.replacements) and any(
        value.is_number for value in shape_env.replacements.values()
    )
    with_aten_names(module.graph)
    module.recompile()
    module.meta["doubtful_sizes"] = doubtful_sizes(shape_env)
    return module, batch is None and not specialised


def trace_forward(
    model: nn.Module,
    example_input: object,
    tasks: Sequence[TaskSpec],
    *,
    batch: int | None = None,
    batch_norm_training: bool = False,
) -> ForwardGraph:
    """Trace ``model``'s forward pass, with a symbolic batch where it can be had.

    Args:
        model: in evaluation mode; returns a tensor, a tuple or list, or a dict (one entry a task).
        example_input: see :func:`nagedge.graphs.example.named_inputs`.
        tasks: name the outputs, in their order.
        batch: fix the batch to this size; ``None`` tries a symbolic one and falls back to the example's size.
        batch_norm_training: normalise with the batch's statistics and return the new running ones.

    Raises:
        ConfigurationError: when the model cannot be run on the example or does not return one output a task.
    """
    specs, tensors = input_specs(model, example_input)
    check_state(model)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    names = list(state)
    updated: list[str] = []
    keys = list(call_arguments(model, example_input)[1])

    def forward(*flat: Tensor) -> list[Tensor]:
        values = dict(zip(names, flat, strict=False))
        inputs = flat[len(names) :]
        arguments = () if keys else inputs
        keywords = dict(zip(keys, inputs, strict=True)) if keys else {}
        with track_statistics(values, enabled=batch_norm_training) as statistics:
            result = functional_call(model, values, arguments, keywords)
        outputs = _by_task(result, tasks)
        updated[:] = statistics
        return [*outputs.values(), *statistics.values()]

    arguments = [*state.values(), *tensors]
    dynamic = [False] * len(names) + [True] * len(tensors)
    attempts = [batch] if batch is not None else [None, int(tensors[0].shape[0])]
    for attempt in attempts:
        try:
            with torch.no_grad():
                module, symbolic = trace(
                    forward, arguments, dynamic, batch=attempt, decompositions=FORWARD, whole_layers=True
                )
        except NagEdgeError:
            raise
        except Exception as error:
            if attempt is None:
                continue
            raise ConfigurationError(_explain(model, example_input, error)) from error
        if attempt is not None or (
            symbolic
            and all(
                same_at(size, forward, module, arguments, dynamic) for size in module.meta["doubtful_sizes"]
            )
        ):
            break
    clean(module)
    module, state_names, constants = _drop_unused_state(module, names)
    return ForwardGraph(
        module,
        (*state_names, *constants),
        specs,
        tuple(task.name for task in tasks),
        tuple(updated),
        constants,
        attempt,
    )


@contextmanager
def _without_fused_kernels() -> Iterator[None]:
    """Turn off torch's fused kernels of attention blocks and LSTMs: they have no lowering."""
    attention, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)  # torch.backends.mkldnn.flags warns about TF32 whenever it is used
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)
        torch._C._set_mkldnn_enabled(onednn)


@contextmanager
def without_collection() -> Iterator[None]:
    """Let the garbage collector rest: tracing and lowering allocate much and free little.

    It would take 17 % of a MobileNet's tracing time, and 15 % of its export's. Within another such block it changes
    nothing.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def check_state(model: nn.Module) -> None:
    """Raise :class:`~nagedge.errors.ConfigurationError` unless every floating tensor of the model is float32."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ConfigurationError(
                f"model tensor {name!r} is {str(tensor.dtype).removeprefix('torch.')}, expected float32: call "
                "model.float() before the export; the precision of the artifact is the target's choice."
            )


def _by_task(result: object, tasks: Sequence[TaskSpec]) -> dict[str, Tensor]:
    """Name the model's outputs; the order of ``tasks`` decides for tuples, the keys for dicts."""
    names = [task.name for task in tasks]
    if isinstance(result, Tensor):
        outputs: dict[str, object] = {names[0]: result} if len(names) == 1 else {"output": result}
    elif isinstance(result, Mapping):
        outputs = {str(key): value for key, value in result.items()}
    elif isinstance(result, (tuple, list)):
        outputs = dict(zip(names, result, strict=True)) if len(result) == len(names) else {
            f"output_{i}": value for i, value in enumerate(result)
        }  # fmt: skip
    else:
        raise ConfigurationError(
            f"the model returns {type(result).__name__}, expected a tensor, a tuple or a dict with one entry a task."
        )
    if set(names) - set(outputs):
        raise ConfigurationError(
            f"the model returns {len(outputs)} output(s) ({', '.join(outputs)}), but the tasks are "
            f"{', '.join(names)}: give one TaskSpec for each output, in the same order, or return a dict by task name."
        )
    chosen: dict[str, Tensor] = {}
    for task in tasks:
        value = outputs[task.name]
        if not isinstance(value, Tensor):
            raise ConfigurationError(
                f"the model's output for task {task.name!r} is {type(value).__name__}, not a tensor."
            )
        shape = tuple(value.shape[1:])
        expected = TASK_KINDS[task.kind].output_shape(task)
        allowed = {expected} | ({()} if expected == (1,) else set())
        if value.dim() == 0 or shape not in allowed:
            raise ConfigurationError(
                f"the model's output for task {task.name!r} has shape (batch, {', '.join(map(str, shape))}), but a "
                f"{task.kind} task of size {task.size} needs (batch, {', '.join(map(str, expected))}): change the head"
                " or the task's size."
            )
        chosen[task.name] = value
    return chosen


def _drop_unused_state(
    module: fx.GraphModule, names: Sequence[str]
) -> tuple[fx.GraphModule, list[str], dict[str, Tensor]]:
    """Remove state that the graph never reads and turn tensors made by the forward pass into state."""
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    kept = []
    for name, node in zip(names, placeholders, strict=False):
        if node.users:
            kept.append(name)
        else:
            module.graph.erase_node(node)
    constants: dict[str, Tensor] = {}
    last = placeholders[len(names)]
    for node in [n for n in module.graph.nodes if n.op == "get_attr"]:
        name = f"constant.{len(constants)}"
        constants[name] = getattr(module, str(node.target)).detach().clone()
        with module.graph.inserting_before(last):
            replacement = module.graph.placeholder(f"constant_{len(constants) - 1}")
        replacement.meta = dict(node.meta)
        node.replace_all_uses_with(replacement)
        module.graph.erase_node(node)
    module.graph.lint()
    return graph_module(nn.Module(), module.graph), kept, constants


def _explain(model: nn.Module, example_input: object, error: Exception) -> str:
    """Say why tracing failed: the model's own error on its example, or an op that torch cannot trace."""
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    try:
        run_example(model, example_input)
    except ConfigurationError as own:
        return str(own)
    return (
        f"{type(model).__name__} cannot be traced: {first_line} The forward pass must not depend on the values of its "
        "inputs (no .item(), no Python branch on a tensor)."
    )
