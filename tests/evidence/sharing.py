"""Table 2: three tasks in one network against three networks, on sentences."""

from __future__ import annotations

from tests.evidence.training import Study, Trial

__all__ = ["TASKS", "sharing_studies"]

TASKS = ("domain", "polarity", "intensity")


def sharing_studies(*, epochs: int = 6, examples: int = 0) -> list[Study]:
    """Return one network with a sum and with IMTL-G, and one a task at a third of the steps and at all of them.

    Three networks with a third of the steps each take as much compute as the one with all tasks; with all of its steps
    they take three times as much.
    """
    settings = {"weight_decay": 1e-5, "clip_norm": 1.0}
    rates = (1.0, 2.0, 4.0)

    def study(name: str, epochs: int, tasks: tuple[str, ...] = (), method: str = "sum") -> Study:
        balancing = {} if method == "sum" else {"method": method}
        trial = Trial(
            "text", 0.1, epochs=epochs, settings=settings, tasks=tasks, balancing=balancing, examples=examples
        )
        return Study(name, trial, rates)

    return [
        study("one network, sum", epochs),
        study("one network, IMTL-G", epochs, method="imtl_g"),
        *(study(f"{task} alone, a third of the steps", max(1, epochs // 3), (task,)) for task in TASKS),
        *(study(f"{task} alone, all steps", epochs, (task,)) for task in TASKS),
    ]
