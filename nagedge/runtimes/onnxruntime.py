"""The stock ONNX Runtime: inference, and training steps whose state never leaves the runtime's memory.

Each step writes the new state into a second set of buffers that are bound as outputs; then the two sets change places.
So nothing is copied between steps, and a step that fails leaves the old state whole.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagedge.errors import BundleError
from nagedge.runtimes.arena import first_region_bytes
from nagedge.runtimes.state import (
    TrainingState,
    checked_batch,
    initial_state,
    losses_of,
    named_state,
    state_of,
    step_inputs,
)

if TYPE_CHECKING:
    import onnxruntime

    from nagedge.bundle import Bundle
    from nagedge.manifest import TargetEntry

__all__ = ["available", "load_session", "open_inference", "open_training", "with_parameters", "with_state"]

Arrays = Mapping[str, npt.NDArray[Any]]

_EXACT_ON_OLD_X86 = "session.x64quantprecision"
_ARENA = threading.Lock()
"""Held from the registration of an arena to its session's loading."""


def import_onnxruntime() -> Any:
    """Return the module; its telemetry (on by default since 1.29) is switched off before it is imported."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


def available() -> str:
    """Return the runtime's name and version."""
    return f"onnxruntime {import_onnxruntime().__version__}"


def load_session(
    model: Path | bytes, *, threads: int = 1, step_bytes: int | None = None, profile_prefix: str | None = None
) -> onnxruntime.InferenceSession:
    """Load an ONNX model on the CPU.

    Args:
        model: the .onnx file, or its content.
        threads: of one operator, >= 1; operators run one after another.
        step_bytes: what a training step is planned to need; None for inference, whose memory is ONNX Runtime's affair.
            A step's tensors lie in one block from the second run on. In the session's own arena the block would lie
            beside the memory of the first run, and MobileNetV3-small-050's step peak at 31 MiB. Here it takes its
            place, at 19 MiB; without a block a step would take 3 (LoRA) to 14 % longer (heads only).
        profile_prefix: write ONNX Runtime's own trace to a file that starts with this.

    Raises:
        BundleError: ONNX Runtime refuses the file.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if step_bytes is not None:
        options.add_session_config_entry("session.use_env_allocators", "1")
        # Weights stay out of the arena, so that the block finds it in one piece.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        options.enable_mem_reuse = False  # in place and aliased results stay; others would be held longer
    options.log_severity_level = 3
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    # Gradients of saturated activations become denormal floats, which x86 cores compute a hundred times slower.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    source = model if isinstance(model, bytes) else str(model)
    with _arena(step_bytes):
        return _loaded(source, options)


def _loaded(source: bytes | str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    ort = import_onnxruntime()
    if _saturates():
        # Slower and right. ONNX Runtime (1.31) refuses it for a weight that several operators share: then as it is.
        options.add_session_config_entry(_EXACT_ON_OLD_X86, "1")
        options.log_severity_level = 4
        with contextlib.suppress(Exception):
            return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        options.add_session_config_entry(_EXACT_ON_OLD_X86, "0")
        options.log_severity_level = 3
    try:
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        text = str(error).strip().splitlines()[0]
        shown = "the model with its new parameters" if isinstance(source, bytes) else repr(source)
        raise BundleError(
            f"ONNX Runtime {ort.__version__} refuses {shown}: {text} Export again, or update ONNX Runtime."
        ) from None
    return session


@contextlib.contextmanager
def _arena(step_bytes: int | None) -> Iterator[None]:
    """Let the session that is loaded meanwhile have an arena whose first region holds such a step.

    ONNX Runtime has settings only for an arena of the process. A session keeps the one that it was loaded with.
    """
    if step_bytes is None:
        yield
        return
    ort = import_onnxruntime()
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    size = min(first_region_bytes(step_bytes), 2**31 - 1)  # it takes 32 bits
    with _ARENA:
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"initial_chunk_size_bytes": size}))
        yield


@functools.cache
def _saturates() -> bool:
    """Whether this processor may add two products of bytes in 16 bits, which overflow: x86 without VNNI does.

    There int8 models give other results than on arm64 and on newer x86, with errors of up to half of the outputs.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system: to be on the safe side
        return True


def open_training(
    bundle: Bundle, target: str | None = None, *, state: TrainingState | None = None, threads: int = 1
) -> _OrtTraining:
    """Load ``train_step.onnx``."""
    name, entry = bundle.target(target, role="train_step")
    load = functools.partial(load_session, bundle.file(entry.artifacts["train_step"]), threads=threads)
    return _OrtTraining(bundle, name, load, state or initial_state(bundle))


def open_inference(
    bundle: Bundle, target: str | None = None, *, params: Arrays | None = None, threads: int = 1
) -> _OrtInference:
    """Load ``infer.onnx``; parameters given here become the session's constants."""
    name, entry = bundle.target(target, role="infer")
    path = bundle.file(entry.artifacts["infer"])
    model = with_parameters(path.read_bytes(), params) if params else path
    return _OrtInference(bundle, name, load_session(model, threads=threads))


def with_state(
    entry: TargetEntry, artifacts: Mapping[str, bytes], params: Arrays, momentum: Arrays
) -> dict[str, bytes] | None:
    """Return the artifacts that a new state changes, by role; None when the target must be lowered again for it.

    The training step takes its state as inputs, so only ``infer.onnx`` changes; where its weights are rounded or
    quantised, the new ones have to be too.
    """
    del momentum
    if entry.precision != "fp32" or "infer_ort" in entry.artifacts:
        return None
    return {"infer": with_parameters(artifacts["infer"], params)}


def with_parameters(content: bytes, params: Arrays) -> bytes:
    """Return an ``infer.onnx`` whose constants of the given names have new values.

    ``SessionOptions.add_initializer`` would be the runtime's own way, but from its default optimisation level on ONNX
    Runtime (1.31) has re-blocked the weights of convolutions before it looks, and keeps the old ones silently.

    Args:
        content: the model.
        params: by name, of the shape and dtype that the model has; names it does not have are ignored.
    """
    import onnx

    model = onnx.load_from_string(content)
    for tensor in model.graph.initializer:
        if tensor.name in params:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.ascontiguousarray(params[tensor.name]), tensor.name)
            )
    replaced: bytes = model.SerializeToString()
    return replaced


class _OrtTraining:
    """Training steps.

    Args:
        bundle, target: whose step.
        load: returns its session, with room for a step of so many bytes.
        state: the first.
    """

    def __init__(
        self,
        bundle: Bundle,
        target: str,
        load: Callable[..., onnxruntime.InferenceSession],
        state: TrainingState,
    ) -> None:
        ort = import_onnxruntime()
        entry = bundle.manifest.targets[target]
        self._manifest, self._target, self._load = bundle.manifest, target, load
        self._planned_bytes, self._planned_rows = entry.planned_step_bytes or 0, entry.planned_rows or 0
        self._session, self._room = load(step_bytes=self._planned_bytes), 2 * self._planned_rows
        arrays = named_state(state)
        # Copies: ONNX Runtime would otherwise write into the caller's arrays one step later.
        self._now = {k: ort.OrtValue.ortvalue_from_numpy(np.array(v, order="C")) for k, v in arrays.items()}
        self._next = {
            k: ort.OrtValue.ortvalue_from_numpy(np.empty_like(v, order="C")) for k, v in arrays.items()
        }
        # The runtime writes into these arrays, and reads those of the numbers: binding three numbers anew would be a
        # tenth of a small model's step.
        self._losses = {
            name: np.zeros((), np.float32)
            for name in ["loss", *(f"loss.{task.name}" for task in bundle.manifest.tasks)]
        }
        self._inputs = {i.name for i in self._session.get_inputs()}
        self._numbers = {
            name: np.zeros((), np.float32)
            for name in ("lr", "momentum", "weight_decay")
            if name in self._inputs
        }
        self._inputs -= set(self._numbers)
        # Two bindings that take turns, made once: binding hundreds of names would be a fifth of a small model's step.
        self._turns = [self._bound(self._now, self._next), self._bound(self._next, self._now)]

    def step(
        self,
        inputs: Arrays,
        targets: Arrays,
        sample_weight: npt.NDArray[Any] | None = None,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
    ) -> dict[str, float]:
        fed = step_inputs(self._manifest, inputs, targets, sample_weight, target=self._target)
        if 0 < self._room < (rows := len(fed["sample_weight"])):
            self._make_room(rows)
        numbers = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        for name, number in self._numbers.items():
            number[...] = numbers[name]
        binding = self._turns[0]
        for name, array in fed.items():
            if name in self._inputs:
                binding.bind_cpu_input(name, array)
        self._session.run_with_iobinding(binding)
        self._now, self._next = self._next, self._now
        self._turns.reverse()
        return losses_of(self._manifest, self._losses)

    def _make_room(self, rows: int) -> None:
        """Load the session again with an arena for larger batches; in a small one steps hold up to twice as much."""
        self._session = self._load(step_bytes=self._planned_bytes * rows // self._planned_rows)
        self._turns = [self._bound(self._now, self._next), self._bound(self._next, self._now)]
        self._room = 2 * rows

    def _bound(self, now: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
        """Return a binding that reads one copy of the state and writes the other."""
        ort = import_onnxruntime()
        binding = self._session.io_binding()
        for name, number in self._numbers.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(number))
        for name, value in now.items():
            binding.bind_ortvalue_input(name, value)
        for name, loss in self._losses.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(loss))
        for name, value in after.items():
            binding.bind_ortvalue_output(f"next.{name}", value)
        return binding

    def state(self) -> TrainingState:
        return state_of({name: value.numpy() for name, value in self._now.items()})


class _OrtInference:
    def __init__(self, bundle: Bundle, target: str, session: onnxruntime.InferenceSession) -> None:
        self._manifest, self._target, self._session = bundle.manifest, target, session
        self._outputs = [output.name for output in session.get_outputs()]

    def predict(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        checked, _, _ = checked_batch(self._manifest, inputs, None, None, target=self._target)
        return dict(zip(self._outputs, self._session.run(None, checked), strict=True))
