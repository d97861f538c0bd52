"""A program of its own that runs a runtime's files: it needs Python >= 3.9, numpy and the runtime, nothing of NagEdge.

It runs where the runtime is: in an isolated environment, in an emulated system, on a board. Requests are lines of JSON
on standard input (or in a file), answers are lines of JSON on standard output (or in a file)::

    python runner.py [--requests FILE] [--answers FILE] [--folder FOLDER]

Arrays go through files: ``.npz`` as numpy writes it, without pickle; relative paths are relative to ``FOLDER``. Every
request has ``"op"`` and, but for ``hello``, ``"session"``, a name of the client's choice; an ``"id"`` comes back. An
answer is ``{"ok": true, ...}`` or ``{"ok": false, "type": "ValueError", "error": "..."}``.

=========== ============================================================================================================
op          further keys -> keys of the answer
=========== ============================================================================================================
``hello``   ``module`` (is imported; may be left out) -> ``python``, ``numpy``
``open``    ``kind``, ``model``, ``threads`` (1), ... (see the sessions below) -> ``runtime``, ``inputs`` (names)
``predict`` ``inputs``, ``outputs`` (files) -> ``seconds``
``step``    ``inputs``, ``outputs``, ... -> ``seconds``
``state``   ``outputs`` -> nothing
``repeat``  ``inputs``, ``outputs``, ``calls`` and/or ``budget_s``, ``marks`` -> ``durations_ns``, ``timed``
``close``   -> nothing
=========== ============================================================================================================

Kinds ``onnxruntime``, ``litert`` and ``tflite_runtime`` run one function of a file. What it computes anew of its state
is carried from step to step: ``"carry"`` maps names of outputs to the inputs that they become, and ``"state"`` is the
file with the first values. ``step`` writes the outputs that are not carried, ``state`` the carried values by the names
of the inputs. Kind ``ort_training`` is the runtime with a training loop of its own; its state is its checkpoint.

``repeat`` calls the function again and again on the same inputs; ``marks`` makes each call a region for nagcount.c.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import platform
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Beside this file lie modules with the names of the runtimes.
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib would be imported for it alone
if __name__ == "__main__":
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _HERE]  # noqa: PTH100
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import numpy as np  # noqa: E402 - after the path is right

__all__ = ["KINDS", "TfliteFunction", "load_arrays", "main", "save_arrays"]

KINDS = ("onnxruntime", "ort_training", "litert", "tflite_runtime")

Request = Mapping[str, Any]
Arrays = dict[str, Any]
Function = Callable[[Arrays], Arrays]
Prepared = tuple[Callable[[], Any], Callable[[], Arrays], str]  # a call, its outputs, what a call is
Prepare = Callable[[Arrays], Prepared]

EMPTY_REGIONS = 5
FIRST_EMPTY_LABEL = 1 << 32
_MAGIC = 0x4E61674564676521
_GETPID = {"aarch64": 172, "x86_64": 39}


def load_arrays(path: Any) -> Arrays:
    """Return the arrays of an ``.npz`` file by name."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def save_arrays(path: Any, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name to an ``.npz`` file; unlike ``np.savez`` it takes any name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


class FunctionSession:
    """One function of a file, with carried state.

    Args:
        run: takes arrays by name, returns arrays by name.
        inputs: names that ``run`` takes; others are not passed on.
        carry: name of an output -> name of the input that it becomes.
        state: first values by name of the input.
        prepare: takes arrays by name, returns what repeats one call of the function on them.
    """

    def __init__(
        self, run: Function, inputs: Iterable[str], carry: Mapping[str, str], state: Arrays, prepare: Prepare
    ) -> None:
        self._run, self._inputs, self._carry, self._state = run, set(inputs), carry, dict(state)
        self._prepare = prepare

    def predict(self, request: Request) -> Arrays:
        """Run the function on the given inputs and the state, which stays."""
        given = {**load_arrays(request["inputs"]), **self._state}
        return self._run({name: array for name, array in given.items() if name in self._inputs})

    def step(self, request: Request) -> Arrays:
        """Run the function; the state becomes what it computed."""
        outputs = self.predict(request)
        self._state = {**self._state, **{target: outputs[name] for name, target in self._carry.items()}}
        return {name: array for name, array in outputs.items() if name not in self._carry}

    def state(self, request: Request) -> None:
        """Write the state."""
        save_arrays(request["outputs"], self._state)

    def prepared(self, request: Request) -> Prepared:
        """Return what repeats one call on the given inputs and the state."""
        given = {**load_arrays(request["inputs"]), **self._state}
        return self._prepare({name: array for name, array in given.items() if name in self._inputs})


class OrtTrainingSession:
    """ONNX Runtime's own training loop.

    Keys of ``open``: ``model`` (the training model), ``eval_model``, ``optimizer_model``, ``checkpoint``. Of ``step``:
    ``learning_rate``; ``update``, false to add this gradient to that of the next step; ``optimizer``, another optimizer
    model to go on with, while the momentum stays. ``predict`` runs the eval model. ``state`` writes a checkpoint with
    the optimizer's state.
    """

    def __init__(self, request: Request) -> None:
        import onnxruntime
        from onnxruntime.capi import _pybind_state as ort

        self.version = onnxruntime.__version__
        ort.set_default_logger_severity(3)
        self._ort = ort
        self._options = ort.SessionOptions()
        _set_ort_options(self._options, request)
        self._device = ort.OrtDevice(ort.OrtDevice.cpu(), ort.OrtDevice.default_memory(), 0)
        self._checkpoint = ort.load_checkpoint(request["checkpoint"])
        self._module = ort.Module(
            request["model"], self._checkpoint, request.get("eval_model"), self._device, self._options
        )
        self._opened: Any = lambda path: ort.Optimizer(path, self._checkpoint, self._device, self._options)
        self._optimizer = self._opened(request["optimizer_model"])
        self.inputs = list(self._module.input_names(True))

    def step(self, request: Request) -> Arrays:
        """Compute the gradient, and update the parameters with it."""
        if "optimizer" in request:
            self._optimizer = self._opened(request["optimizer"])
        outputs = self._run(self._module.train_step, True, request)
        if request.get("update", True):
            self._optimizer.set_learning_rate(request["learning_rate"])
            self._optimizer.optimizer_step()
            self._module.lazy_reset_grad()
        return outputs

    def predict(self, request: Request) -> Arrays:
        """Run the eval model."""
        return self._run(self._module.eval_step, False, request)

    def _run(self, function: Callable[[list[Any], Any], None], training: bool, request: Request) -> Arrays:
        given = load_arrays(request["inputs"])
        results = self._ort.OrtValueVector()
        function([given[name] for name in self._module.input_names(training)], results)
        names = enumerate(self._module.output_names(training))
        return {name: np.array(results[i].numpy()) for i, name in names}

    def state(self, request: Request) -> None:
        """Write a checkpoint."""
        self._ort.save_checkpoint(self._checkpoint, request["outputs"], True)


Session = Any  # a FunctionSession or an OrtTrainingSession: both answer predict, step and state


def open_session(request: Request) -> tuple[Session, dict[str, Any]]:
    """Return a session, and the answer: what runs it, name and version, and the names of its inputs."""
    kind = request["kind"]
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; expected one of {', '.join(KINDS)}")
    if kind == "ort_training":
        session = OrtTrainingSession(request)
        return session, {"runtime": f"onnxruntime-training {session.version}", "inputs": session.inputs}
    state = load_arrays(request["state"]) if "state" in request else {}
    run, names, runtime, prepare = (_open_onnx if kind == "onnxruntime" else _open_tflite)(request)
    function = FunctionSession(run, names, request.get("carry", {}), state, prepare)
    return function, {"runtime": runtime, "inputs": names}


def _set_ort_options(options: Any, request: Request) -> None:
    options.intra_op_num_threads, options.inter_op_num_threads = request.get("threads", 1), 1
    options.log_severity_level = 3
    # Gradients of saturated activations become denormal floats, which x86 cores compute a hundred times slower.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")


def _open_onnx(request: Request) -> tuple[Function, list[str], str, Prepare]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    _set_ort_options(options, request)
    session = ort.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]

    def named(values: Iterable[Any]) -> Arrays:
        return dict(zip(outputs, values))  # noqa: B905 - Python 3.9

    def prepare(given: Arrays) -> Prepared:
        binding = session.io_binding()
        for name, array in given.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in outputs:
            binding.bind_output(name)
        run = functools.partial(session.run_with_iobinding, binding)
        return run, lambda: named(value.numpy() for value in binding.get_outputs()), "a run with bound inputs"

    names = [node.name for node in session.get_inputs()]
    return lambda given: named(session.run(None, given)), names, f"onnxruntime {ort.__version__}", prepare


def _open_tflite(request: Request) -> tuple[Function, list[str], str, Prepare]:
    """Key of ``open``: ``signature``, which may be left out for a file without signatures."""
    name, kind = request.get("signature"), request["kind"]
    module = "ai_edge_litert.interpreter" if kind == "litert" else "tflite_runtime.interpreter"
    load = importlib.import_module(module).Interpreter
    interpreter = load(model_path=request["model"], num_threads=request.get("threads", 1))
    known = interpreter.get_signature_list()
    if name not in known and (name is not None or known):
        raise ValueError(f"the file has no signature {name!r}; it has {', '.join(known) or 'none'}")
    function = TfliteFunction(interpreter, name)

    def prepare(given: Arrays) -> Prepared:
        function.feed(given)
        return function.invoke, function.results, "an invocation"

    return function, list(function.shapes), f"{kind} {_tflite_version(kind)}", prepare


class TfliteFunction:
    """A signature of a ``.tflite``, or the one function of a file without any, whose arrays have the tensors' names.

    The runtime's own caller resizes every input at every call: LiteRT 2.3 crashes on arm64 when one has no dimensions.
    """

    def __init__(self, interpreter: Any, signature: str | None) -> None:
        own = interpreter if signature is None else interpreter.get_signature_runner(signature)
        inputs, outputs = own.get_input_details(), own.get_output_details()
        if signature is None:
            inputs, outputs = ({one["name"]: one for one in details} for details in (inputs, outputs))
        self.shapes = {name: tuple(one["shape"]) for name, one in inputs.items()}
        self.inputs = {name: (one["index"], one["dtype"]) for name, one in inputs.items()}
        self.outputs = {name: one["index"] for name, one in outputs.items()}
        self.wrapper = interpreter._interpreter  # noqa: SLF001 - a signature has no public way without resizing
        self.subgraph = 0 if signature is None else own._subgraph_index  # noqa: SLF001
        self.invoke = functools.partial(self.wrapper.Invoke, self.subgraph)

    def __call__(self, given: Mapping[str, Any]) -> Arrays:
        """Return the outputs of one call."""
        self.feed(given)
        self.invoke()
        return self.results()

    def feed(self, given: Mapping[str, Any]) -> None:
        """Set every input; the format's integers may be narrower than those given."""
        if set(given) != set(self.inputs):
            raise ValueError(f"inputs {sorted(given)} were given, expected {sorted(self.inputs)}")
        for name, array in given.items():
            if array.shape != self.shapes[name]:
                sizes = np.array(array.shape, np.int32)
                self.wrapper.ResizeInputTensor(self.inputs[name][0], sizes, False, self.subgraph)
                self.shapes[name] = array.shape
        self.wrapper.AllocateTensors(self.subgraph)
        for name, array in given.items():
            index, dtype = self.inputs[name]
            self.wrapper.SetTensor(index, array.astype(dtype, copy=False), self.subgraph)

    def results(self) -> Arrays:
        """Return the outputs: the runtime copies them, as the next call overwrites its memory."""
        read = self.wrapper.GetTensor
        return {name: np.asarray(read(index, self.subgraph)) for name, index in self.outputs.items()}


def _tflite_version(kind: str) -> str:
    from importlib import metadata

    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("ai-edge-litert" if kind == "litert" else "tflite-runtime")
    return "of unknown version"  # unpacked without its metadata


def answer(request: Request, sessions: dict[str, Session]) -> dict[str, Any]:
    """Carry out one request; return the answer's keys."""
    op = request["op"]
    if op == "hello":
        if "module" in request:
            importlib.import_module(request["module"])
        return {"python": platform.python_version(), "numpy": np.__version__}
    name = request["session"]
    if op == "open":
        started = time.perf_counter()
        sessions[name], opened = open_session(request)
        return {**opened, "seconds": time.perf_counter() - started}
    if name not in sessions:
        raise ValueError(f"no session {name!r} is open")
    if op == "close":
        del sessions[name]
        return {}
    if op == "state":
        sessions[name].state(request)
        return {}
    if op == "repeat":
        return repeat(sessions[name].prepared(request), request)
    if op not in ("predict", "step"):
        raise ValueError(f"unknown op {op!r}")
    started = time.perf_counter()
    outputs = getattr(sessions[name], op)(request)
    seconds = time.perf_counter() - started
    save_arrays(request["outputs"], outputs)
    return {"seconds": seconds}


def repeat(prepared: Prepared, request: Request) -> dict[str, Any]:
    """Run a prepared call ``calls`` times, or until ``budget_s`` is spent (never fewer than ten times)."""
    call, results, timed = prepared
    most, budget_ns = request.get("calls", 1_000_000), request.get("budget_s", float("inf")) * 1e9
    mark = _marker() if request.get("marks") else lambda command, label: None
    durations: list[int] = []

    def region(label: int, call: Callable[[], Any]) -> None:
        before = time.perf_counter_ns()
        mark(1, label)
        call()
        mark(2, label)
        durations.append(time.perf_counter_ns() - before)

    gc.collect()
    gc.disable()  # its pauses are Python's, not the artifact's
    started = time.perf_counter_ns()
    while len(durations) < most and (len(durations) < 10 or time.perf_counter_ns() - started < budget_ns):
        region(len(durations), call)
    found = tuple(durations)
    for label in range(EMPTY_REGIONS):
        region(FIRST_EMPTY_LABEL + label, lambda: None)
    gc.enable()
    save_arrays(request["outputs"], results())
    return {"durations_ns": found, "timed": timed}


def _marker() -> Callable[[int, int], Any]:
    """Return what marks a region: getpid with arguments that it does not have, which only the counter looks at."""
    function = ctypes.CDLL(None).syscall
    function.argtypes = [ctypes.c_long, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64]
    number = _GETPID[platform.machine()]
    return lambda command, label: function(number, _MAGIC, command, label)


def main(arguments: list[str] | None = None) -> None:
    """Answer requests until there are no more."""
    parser = argparse.ArgumentParser(description="Run the files of a runtime, as requests in JSON say.")
    parser.add_argument("--requests", help="a file with requests; standard input when left out")
    parser.add_argument("--answers", help="a file for the answers; standard output when left out")
    parser.add_argument("--folder", help="relative paths are relative to it")
    options = parser.parse_args(arguments)
    # A runtime may print what it likes: standard output becomes standard error, the answers keep the real one.
    sys.stdout.flush()
    private = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr  # unbuffered: what it prints before it crashes is kept
    with contextlib.ExitStack() as files:
        answers = files.enter_context(open(options.answers or private, "w", encoding="utf-8"))  # noqa: PTH123
        requests: Iterable[str] = sys.stdin
        if options.requests:
            requests = files.enter_context(open(options.requests, encoding="utf-8"))  # noqa: PTH123
        if options.folder:
            os.chdir(options.folder)
        sessions: dict[str, Session] = {}
        for line in requests:
            if line.strip():
                answers.write(json.dumps(_answered(line, sessions)) + "\n")
                answers.flush()


def _answered(line: str, sessions: dict[str, Session]) -> dict[str, Any]:
    number = None
    try:
        request = json.loads(line)
        number = request.get("id")
        return {"id": number, "ok": True, **answer(request, sessions)}
    except Exception as error:
        return {"id": number, "ok": False, "type": type(error).__name__, "error": str(error)}


if __name__ == "__main__":
    main()
