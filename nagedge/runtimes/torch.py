"""PyTorch as a runtime: the reference that every other one is verified against.

It runs the bundle's forward graph with PyTorch's own kernels, its autograd and ``torch.optim.SGD(nesterov=True)``:
none of the code that makes the exported step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nagedge.graphs.serialization import forward_from_json
from nagedge.runtimes.state import TrainingState, checked_batch, initial_state
from nagedge.runtimes.torch_balancing import ReferenceBatch, balancing_of
from nagedge.runtimes.torch_threads import torch_threads
from nagedge.step_rules import BALANCING_PREFIX, entries_under
from nagedge.training.stepper import turns_back

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = ["available", "open_inference", "open_training"]

Arrays = Mapping[str, npt.NDArray[Any]]


def available() -> str:
    """Return the runtime's name and version."""
    return f"torch {torch.__version__}"


def open_training(
    bundle: Bundle, target: str | None = None, *, state: TrainingState | None = None, threads: int = 1
) -> _TorchTraining:
    """Load the forward graph for training; ``target`` does not matter to the reference."""
    del target
    return _TorchTraining(bundle, state or initial_state(bundle), threads)


def open_inference(
    bundle: Bundle, target: str | None = None, *, params: Arrays | None = None, threads: int = 1
) -> _TorchInference:
    """Load the forward graph for inference."""
    del target
    return _TorchInference(bundle, params or {}, threads)


class _TorchTraining:
    def __init__(self, bundle: Bundle, state: TrainingState, threads: int) -> None:
        training = bundle.manifest.training
        assert training is not None  # checked by open_training
        name = "forward_train.json" if "forward_train.json" in bundle.manifest.files else "forward.json"
        self._forward = forward_from_json(bundle.text(name), where=f"bundle {str(bundle.path)!r}: {name}")
        self._manifest, self._threads = bundle.manifest, threads
        self._tasks = [task.spec() for task in bundle.manifest.tasks]
        self._state = {key: torch.tensor(value) for key, value in bundle.params().items()}
        self._state |= {key: torch.tensor(value) for key, value in state.buffers.items()}
        self._params = {key: torch.tensor(state.params[key]).requires_grad_() for key in training.parameters}
        self._state |= self._params
        self._buffers = tuple(training.buffers)
        self._rules = training.rules()
        own = {name: self._state[name] for name in self._rules.state(self._tasks)}
        self._balancing = balancing_of(
            self._rules, self._forward, self._tasks, training.parameters, entries_under(BALANCING_PREFIX, own)
        )
        decayed = set(training.decayed)
        groups = [
            {"params": [p for key, p in self._params.items() if (key in decayed) is decay], "decays": decay}
            for decay in (True, False)
        ]
        self._optimizer = torch.optim.SGD(
            [g for g in groups if g["params"]], lr=1.0, momentum=0.9, nesterov=True
        )
        for key, param in self._params.items():
            self._optimizer.state[param]["momentum_buffer"] = torch.tensor(state.momentum[key])

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
        checked, wanted, weight = checked_batch(self._manifest, inputs, targets, sample_weight)
        for group in self._optimizer.param_groups:
            group |= {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay if group["decays"] else 0.0,
            }
        with torch_threads(self._threads):
            self._optimizer.zero_grad()
            batch = ReferenceBatch(
                self._tasks,
                [torch.from_numpy(array) for array in checked.values()],
                {key: torch.from_numpy(array) for key, array in wanted.items()},
                torch.from_numpy(weight),
            )
            total, by_task, buffers = self._balancing.backward(self._state, batch)
            for param in self._params.values():
                if param.grad is None:  # a parameter that the loss does not depend on still decays
                    param.grad = torch.zeros_like(param)
            self._restart(float(total.detach()), momentum)
            self._optimizer.step()
            self._balancing.follow_up(self._state, batch)
            self._state |= {key: value.detach() for key, value in buffers.items()}
            self._state |= {
                f"{BALANCING_PREFIX}{key}": value for key, value in self._balancing.state().items()
            }
        return {"loss": float(total.detach()), **{key: float(loss.detach()) for key, loss in by_task.items()}}

    def _restart(self, loss: float, momentum: float) -> None:
        """Zero the momentum buffers where the rules ask for it, and count."""
        if self._rules.restart == "none":
            return
        buffers = {
            key: self._optimizer.state[param]["momentum_buffer"] for key, param in self._params.items()
        }
        if self._rules.restart == "loss":
            turned = bool(np.float32(loss) > self._state["restart.last_loss"].item())
            self._state["restart.last_loss"] = torch.tensor([loss], dtype=torch.float32)
        else:
            gradients = [param.grad for param in self._params.values() if param.grad is not None]
            turned = turns_back(gradients, list(buffers.values()), momentum)
        if turned:
            for buffer in buffers.values():
                buffer.zero_()
            self._state["restart.count"] = self._state["restart.count"] + 1

    def state(self) -> TrainingState:
        return TrainingState(
            {key: _copy(p) for key, p in self._params.items()},
            {key: _copy(self._optimizer.state[p]["momentum_buffer"]) for key, p in self._params.items()},
            {key: _copy(self._state[key]) for key in self._buffers},
        )


class _TorchInference:
    def __init__(self, bundle: Bundle, params: Arrays, threads: int) -> None:
        self._forward = forward_from_json(
            bundle.text("forward.json"), where=f"bundle {str(bundle.path)!r}: forward.json"
        )
        self._manifest, self._threads = bundle.manifest, threads
        self._state = {key: torch.tensor(value) for key, value in {**bundle.params(), **params}.items()}

    def predict(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        checked, _, _ = checked_batch(self._manifest, inputs, None, None)
        with torch.no_grad(), torch_threads(self._threads):
            outputs, _ = self._forward(self._state, [torch.from_numpy(a) for a in checked.values()])
        return {key: value.numpy() for key, value in outputs.items()}


def _copy(tensor: Tensor) -> npt.NDArray[Any]:
    return np.array(tensor.detach().numpy())
