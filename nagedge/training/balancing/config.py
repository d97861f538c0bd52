"""The ``[balancing]`` table of a run file."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nagedge.errors import nearest_name
from nagedge.training.balancing.methods import METHODS

__all__ = ["BalancingConfig"]


class BalancingConfig(BaseModel):
    """How the losses of the tasks, or their gradients, become one step of the shared parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: str = Field(
        default="sum",
        description="'sum' (of the weighted losses), 'accumulation', 'gradnorm', 'db_mtl', or a method of TorchJD: "
        "see the guide on balancing.",
    )
    scope: Literal["features", "trunk"] | None = Field(
        default=None,
        description="Of methods that work on gradients: 'features' (default) compares the gradients with respect to "
        "the trunk's output, 'trunk' those with respect to the trunk's parameters: exact, one backward pass a task.",
    )
    preference: dict[str, float] = Field(
        default_factory=dict,
        description="Task name -> its share, 1 where it is not named; of the methods that take preferences.",
    )
    options: dict[str, float | int | str] = Field(
        default_factory=dict, description="The method's own numbers, by the names in the guide."
    )

    @property
    def chosen_scope(self) -> Literal["features", "trunk"]:
        """The scope, given or by default."""
        return self.scope or "features"

    @model_validator(mode="after")
    def _fits_method(self) -> BalancingConfig:
        method = METHODS.get(self.method)
        if method is None:
            raise ValueError(
                f"unknown method {self.method!r}, expected one of {', '.join(METHODS)}."
                + nearest_name(self.method, METHODS)
            )
        for name, value in self.options.items():
            if name not in method.options:
                known = ", ".join(method.options) or "none"
                raise ValueError(
                    f"{name!r} is no option of method {self.method!r}; it has: {known}."
                    + nearest_name(name, method.options)
                )
            default = method.options[name]
            if isinstance(default, str) != isinstance(value, str) or (
                isinstance(default, int) and not isinstance(value, int)
            ):
                raise ValueError(
                    f"option {name!r} of method {self.method!r} is {value!r}, expected a value like {default!r}"
                )
        if self.scope is not None and method.family != "gradients":
            raise ValueError(f"scope does nothing for method {self.method!r}, which takes losses: remove it")
        if self.preference and not method.preference:
            raise ValueError(f"method {self.method!r} takes no preference: remove it")
        wrong = {name: share for name, share in self.preference.items() if not share >= 0}
        if wrong or (self.preference and not any(self.preference.values())):
            name, share = next(iter((wrong or self.preference).items()))
            raise ValueError(
                f"preference of task {name!r} is {share:g}, expected numbers >= 0, one of them > 0"
            )
        return self

    def option(self, name: str) -> float:
        """Return a number of the method, given or by default."""
        value = self.options.get(name, METHODS[self.method].options[name])
        number = float(value)
        assert math.isfinite(number)  # the model refuses others
        return number
