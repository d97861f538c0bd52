"""The ``[optimizer]`` table of a run file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["OptimizerConfig"]


class OptimizerConfig(BaseModel):
    """Nesterov SGD."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: Literal["nesterov", "schedule_free"] = Field(
        default="nesterov",
        description="'nesterov', or 'schedule_free': a constant learning rate after the warm-up, the average of the "
        "steps (needs nagedge[schedule-free]).",
    )
    sam: float = Field(
        default=0.0,
        ge=0,
        description="Radius of sharpness-aware minimization, 0.05 is usual; 0: none. Two passes a step (needs "
        "nagedge[sam]).",
    )
    lr: float = Field(default=0.05, gt=0, description="The largest learning rate, reached after the warm-up.")
    momentum: float = Field(
        default=0.9, gt=0, lt=1, description="Nesterov momentum, the largest of a schedule."
    )
    momentum_schedule: Literal["constant", "nesterov", "sutskever"] = Field(
        default="constant",
        description="'constant'; 'nesterov': k / (k + 3), k steps after a restart; 'sutskever': doubles its horizon "
        "every 250 steps. Both up to momentum.",
    )
    restart: Literal["none", "gradient", "loss", "scheduled"] = Field(
        default="none",
        description="When momentum starts again from zero: when the step would go uphill, when the loss of a step is "
        "above that of the step before, or every restart_every steps.",
    )
    restart_every: int = Field(default=0, ge=0, description="Steps between two scheduled restarts.")
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay, not of norms and biases.")
    decoupled: bool = Field(
        default=False, description="Weight decay apart from the gradient: p (1 - lr weight_decay)."
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="Largest norm of the whole gradient; left out: no clipping."
    )
    on_nan: Literal["stop", "skip"] = Field(
        default="stop",
        description="A loss or a gradient that is not finite: stop the run, or skip the step, keep the momentum, halve "
        "the learning rate for a while and say so.",
    )

    @model_validator(mode="after")
    def _schedule_free(self) -> OptimizerConfig:
        if self.method == "schedule_free":
            for key in ("momentum_schedule", "restart", "decoupled", "sam"):
                if (
                    key in self.model_fields_set
                    and getattr(self, key) != type(self).model_fields[key].default
                ):
                    raise ValueError(f"{key} does nothing for method 'schedule_free': remove it")
        return self

    @model_validator(mode="after")
    def _scheduled(self) -> OptimizerConfig:
        if (self.restart == "scheduled") != (self.restart_every > 0):
            raise ValueError(
                f"restart is {self.restart!r} and restart_every is {self.restart_every}, expected restart_every >= 1"
                " with restart 'scheduled' and nowhere else"
            )
        return self
