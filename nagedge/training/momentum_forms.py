"""Nesterov momentum as four libraries write it, and the way from one to another.

The reference is torch's form, whose parameter is the point at which the gradient is taken and whose buffer knows no
learning rate:

    torch      b' = mu b + g            p' = p - lr (g + mu b')
    ONNX       the same (``Momentum`` of ai.onnx.preview.training, mode "nesterov", alpha = mu, beta = 1)
    Keras      v' = mu v - lr g         p' = p + mu v' - lr g         (``SGD(nesterov=True)``)
    Sutskever  v' = mu v - lr g(t + mu v)   t' = t + v'               (Sutskever et al. 2013, equations 3 and 4)

Keras's velocity is ``-lr b``, and Sutskever's parameter is ``p - mu v``. As these velocities hold the learning rate of
the step that made them, the forms part from torch's when it changes, unless the velocity is :func:`rescaled`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

__all__ = ["Form", "MomentumState", "converted", "gradient_point", "rescaled", "stepped"]

Form = Literal["torch", "onnx", "keras", "sutskever"]

_HOLDS_LR: Mapping[str, bool] = {"torch": False, "onnx": False, "keras": True, "sutskever": True}


@dataclass(frozen=True)
class MomentumState:
    """A parameter and its velocity (buffer), floating, of one shape, in the given form."""

    form: Form
    param: Tensor
    velocity: Tensor


def gradient_point(state: MomentumState, *, momentum: float) -> Tensor:
    """Return where the form takes its gradient: at the parameter, but for Sutskever's, which looks ahead."""
    return state.param + momentum * state.velocity if state.form == "sutskever" else state.param


def stepped(state: MomentumState, grad: Tensor, *, lr: float, momentum: float) -> MomentumState:
    """Return the state after one step of its form.

    Args:
        state: before the step.
        grad: the gradient at :func:`gradient_point`.
        lr: step size, > 0. momentum: in (0, 1).
    """
    p, v = state.param, state.velocity
    if state.form in ("torch", "onnx"):
        velocity = momentum * v + grad
        return MomentumState(state.form, p - lr * (grad + momentum * velocity), velocity)
    velocity = momentum * v - lr * grad
    param = p + velocity if state.form == "sutskever" else p + momentum * velocity - lr * grad
    return MomentumState(state.form, param, velocity)


def converted(state: MomentumState, form: Form, *, lr: float, momentum: float) -> MomentumState:
    """Return the state in another form, such that both go on with the same gradients and the same points.

    Args:
        state: after any number of steps.
        form: the form wanted.
        lr: the learning rate that the velocity holds: that of the last step, or of the next for a rescaled state.
        momentum: of the steps.
    """
    buffer = -state.velocity / lr if _HOLDS_LR[state.form] else state.velocity
    point = gradient_point(state, momentum=momentum)
    velocity = -lr * buffer if _HOLDS_LR[form] else buffer
    param = point - momentum * velocity if form == "sutskever" else point
    return MomentumState(form, param, velocity)


def rescaled(state: MomentumState, *, old_lr: float, new_lr: float, momentum: float) -> MomentumState:
    """Return the state made ready for another learning rate, so that it goes on as torch's form does.

    Args:
        state: after a step with ``old_lr``. new_lr: of the next step.
        momentum: of the steps.
    """
    if not _HOLDS_LR[state.form]:
        return state
    torch_state = converted(state, "torch", lr=old_lr, momentum=momentum)
    return converted(torch_state, state.form, lr=new_lr, momentum=momentum)
