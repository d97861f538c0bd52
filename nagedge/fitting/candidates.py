"""The models to choose from: a run's own, with other trunks, widths, resolutions and normalisations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from nagedge.errors import ConfigurationError
from nagedge.models.config import KEYS_OF, ModelConfig, family_of
from nagedge.models.norms import Norm
from nagedge.specs import TensorSpec
from nagedge.training.run import Run

__all__ = ["Candidate", "Choices", "applied", "candidates_of"]

_WIDTHS = (0.25, 0.5, 1.0, 2.0)
_SCALES = (1.0, 0.5)
_WIDTH_KEYS = {
    "cnn": "channels", "ds_cnn": "channels", "tokens": "channels", "mlp": "hidden", "bc_resnet": "width",
}  # fmt: skip
_NORMS: tuple[Norm, ...] = ("batch", "group")


@dataclass(frozen=True)
class Choices:
    """What may be chosen; an empty tuple leaves it to NagEdge.

    Attributes:
        trunks: as in a run file; else the run's own and, for sound, ``ds_cnn`` and ``bc_resnet``.
        widths: factors of the run's channels, above 0; else 0.25, 0.5, 1 and 2.
        resolutions: heights in pixels, the width in proportion; else the run's and half of it. Of images only.
        norms: else both.
    """

    trunks: tuple[str, ...] = ()
    widths: tuple[float, ...] = ()
    resolutions: tuple[int, ...] = ()
    norms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """One model.

    Attributes:
        model: its table.
        size: height and width of the input in pixels, where it is to be resized; else empty.
        factor: of the run's width.
    """

    model: ModelConfig
    size: tuple[int, int] | tuple[()] = ()
    factor: float = 1.0

    @property
    def name(self) -> str:
        """Say what it is in a few words: its key in a store, too."""
        key = _WIDTH_KEYS.get(family_of(self.model.trunk))
        width = "" if key is None else f" {key} {_short(getattr(self.model, key))}"
        size = f" at {self.size[0]}x{self.size[1]}" if self.size else ""
        norm = f" {self.model.norm}-norm" if _has_norm(self.model.trunk) else ""
        return f"{self.model.trunk}{width}{size}{norm}"


def candidates_of(run: Run, input_spec: TensorSpec, choices: Choices) -> tuple[Candidate, ...]:
    """Return every combination of the choices once.

    Args:
        run: whose model is varied.
        input_spec: of its input without a change.
        choices: what may be chosen.

    Raises:
        ConfigurationError: a choice means nothing for this run, or a table would be wrong.
    """
    is_sound = run.data.preprocessing.log_mel is not None
    trunks = choices.trunks or tuple(
        dict.fromkeys([run.model.trunk, *(("ds_cnn", "bc_resnet") if is_sound else ())])
    )
    if choices.widths and min(choices.widths) <= 0:
        raise ConfigurationError(f"width is {min(choices.widths):g}, expected factors above 0.")
    for norm in choices.norms:
        if norm not in _NORMS:
            raise ConfigurationError(f"norm is {norm!r}, expected one of {', '.join(_NORMS)}.")
    found: dict[str, Candidate] = {}
    for trunk, size in itertools.product(trunks, _sizes(run, input_spec, choices)):
        widths = (choices.widths or _WIDTHS) if family_of(trunk) in _WIDTH_KEYS else (1.0,)
        norms: Sequence[str | None] = (choices.norms or _NORMS) if _has_norm(trunk) else (None,)
        for factor, chosen in itertools.product(widths, norms):
            candidate = Candidate(_varied(run.model, trunk, factor, chosen), size, factor)
            found.setdefault(candidate.name, candidate)
    return tuple(found.values())


def applied(run: Run, candidate: Candidate) -> Run:
    """Return the run with the candidate's model and resolution."""
    data = run.data
    if candidate.size:
        steps = data.preprocessing.model_copy(update={"resize": candidate.size})
        data = data.model_copy(update={"preprocessing": steps})
    return run.model_copy(update={"model": candidate.model, "data": data})


def _sizes(run: Run, spec: TensorSpec, choices: Choices) -> list[tuple[int, int] | tuple[()]]:
    """Return heights and widths; an empty one leaves the run as it is."""
    is_image = len(spec.shape) == 4 and spec.dtype == "float32" and run.data.preprocessing.log_mel is None
    if not is_image:
        if choices.resolutions:
            raise ConfigurationError(
                f"resolution {choices.resolutions[0]} means nothing for input {spec.name!r} {list(spec.shape)}, which"
                " is no image. Leave it out."
            )
        return [()]
    height, width = int(spec.shape[2]), int(spec.shape[3])
    heights = choices.resolutions or tuple(max(1, round(scale * height)) for scale in _SCALES)
    if min(heights) < 1:
        raise ConfigurationError(f"resolution is {min(heights)}, expected pixels >= 1.")
    return [
        () if pixels == height else (pixels, max(1, round(pixels * width / height))) for pixels in heights
    ]


def _varied(model: ModelConfig, trunk: str, factor: float, norm: str | None) -> ModelConfig:
    """Return the table with another trunk, width and norm; keys that mean nothing for the trunk go."""
    family = family_of(trunk)
    document: dict[str, Any] = {
        key: value
        for key, value in model.model_dump(exclude_unset=True).items()
        if family in KEYS_OF.get(key, (family,)) and (key != "options" or trunk == model.trunk)
    }
    document["trunk"] = trunk
    key = _WIDTH_KEYS.get(family)
    if key == "width":
        document[key] = max(1, round(8 * model.width * factor)) / 8
    elif key is not None:
        document[key] = [max(1, round(factor * width)) for width in getattr(model, key)]
    if norm is not None:
        document["norm"] = norm
    try:
        return ModelConfig.model_validate(document)
    except ValidationError as error:
        text = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        end = "" if text.endswith(("?", ".")) else "."
        raise ConfigurationError(f"trunk {trunk!r} cannot be tried with this run: {text}{end}") from None


def _has_norm(trunk: str) -> bool:
    return family_of(trunk) in KEYS_OF["norm"]


def _short(value: object) -> str:
    return "-".join(str(part) for part in value) if isinstance(value, list) else f"{value:g}"
