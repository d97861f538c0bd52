"""What a search found so far, in a file, so that it can go on after an interruption."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from nagedge.errors import ConfigurationError
from nagedge.files import write_file
from nagedge.fitting.short_run import Score
from nagedge.training.run import Run

__all__ = ["Store"]


@dataclass(frozen=True)
class Store:
    """Costs and scores by the candidates' names; written anew whenever one is added.

    Attributes:
        path: the file; ``None`` keeps nothing.
        search: what the figures belong to: the run, the steps, the batch, the core.
    """

    path: Path | None
    search: dict[str, object]
    _costs: dict[str, dict[str, float]] = field(default_factory=dict)
    _scores: dict[str, Score] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path | None, run: Run, *, steps: int, batch: int, core: str) -> Store:
        """Return what the file holds; an empty store where there is none.

        Raises:
            ConfigurationError: the file is no store, or that of another search.
        """
        search: dict[str, object] = {
            "run": run.model_dump(mode="json", exclude={"output", "checkpoint_steps"}),
            "steps": steps, "batch": batch, "core": core,
        }  # fmt: skip
        if path is None or not Path(path).exists():
            return cls(None if path is None else Path(path), search)
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            costs = {
                str(name): {str(c): float(v) for c, v in row.items()}
                for name, row in document["costs"].items()
            }
            scores = {str(name): Score(**row) for name, row in document["scores"].items()}
            stored = document["search"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"the file {str(path)!r} cannot be gone on with: {type(error).__name__}: {error}. Give one that"
                " `nagedge fit-device --storage` wrote, or a new one."
            ) from None
        if stored != json.loads(json.dumps(search)):
            raise ConfigurationError(
                f"the file {str(path)!r} belongs to another search: run file, --steps, --batch or --core differ. Give"
                " the same ones, or another file."
            )
        return cls(Path(path), search, costs, scores)

    def costs(self, name: str) -> dict[str, float]:
        """Return what is known of a candidate's costs."""
        return dict(self._costs.get(name, {}))

    def score(self, name: str) -> Score | None:
        """Return the candidate's score, if there is one."""
        return self._scores.get(name)

    def keep_costs(self, name: str, costs: dict[str, float]) -> None:
        """Remember a candidate's costs."""
        self._costs[name] = {cost: value for cost, value in costs.items() if math.isfinite(value)}
        self._write()

    def keep_score(self, name: str, score: Score) -> None:
        """Remember a candidate's score."""
        self._scores[name] = score
        self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        scores = {
            name: {"loss": one.loss, "metrics": one.metrics, "steps": one.steps}
            for name, one in self._scores.items()
        }
        document = {"search": self.search, "costs": self._costs, "scores": scores}
        write_file(self.path, json.dumps(document, indent=1) + "\n")
