"""Table 1: optimizers on three tasks of 4,000 digits, at equal steps."""

from __future__ import annotations

from tests.evidence.training import Study, Trial

__all__ = ["STATE", "optimizer_studies"]

STATE = {"SGD": 0, "heavy ball": 1, "Nesterov": 1, "Nesterov, scheduled restart (SRSGD)": 1,
         "Nesterov, k/(k+3), gradient restart": 1, "Adam": 2, "NAdam": 2}  # fmt: skip
"""Numbers kept for each parameter."""


def optimizer_studies(*, epochs: int = 4, examples: int = 0) -> list[Study]:
    """Return the rows; learning rates start a factor of two apart."""

    def study(name: str, rates: tuple[float, ...], optimizer: str, **settings: object) -> Study:
        return Study(
            name,
            Trial("digits", 0.1, epochs=epochs, optimizer=optimizer, settings=settings, examples=examples),
            rates,
        )

    slow, fast, adaptive = (0.05, 0.1, 0.2), (0.01, 0.02, 0.04), (0.002, 0.004, 0.008)
    return [
        study("SGD", slow, "sgd"),
        study("heavy ball", fast, "heavy_ball"),
        study("Nesterov", fast, "nesterov", momentum=0.9),
        study(
            "Nesterov, scheduled restart (SRSGD)", fast, "nesterov", momentum=0.97, momentum_schedule="nesterov",
            restart="scheduled", restart_every=40,
        ),
        study(
            "Nesterov, k/(k+3), gradient restart", fast, "nesterov", momentum=0.97, momentum_schedule="nesterov",
            restart="gradient",
        ),
        study("Adam", adaptive, "adam"),
        study("NAdam", adaptive, "nadam"),
    ]  # fmt: skip
