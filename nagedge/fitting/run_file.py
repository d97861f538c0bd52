"""The run file of the chosen model: the original's keys with another model, resolution and output folder."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from nagedge.errors import ConfigurationError
from nagedge.files import write_file
from nagedge.fitting.candidates import Candidate

__all__ = ["check_out", "fitted_name", "to_toml", "write_fitted"]


def fitted_name(path: Path) -> Path:
    """Return ``RUN.fitted.toml`` beside ``RUN.toml``."""
    return path.with_name(f"{path.stem}.fitted.toml")


def check_out(original: Path, out: Path) -> None:
    """Raise :class:`~nagedge.errors.ConfigurationError` if the new run file would replace the original."""
    if out.resolve() == original.resolve():
        raise ConfigurationError(
            f"the new run file {str(out)!r} is the run file itself. Name another one with --out."
        )


def write_fitted(original: Path, candidate: Candidate, out: Path, *, note: str = "") -> Path:
    """Write the run file of a candidate; return its path.

    Relative paths stay relative where both files share a folder, and are made absolute otherwise. The checkpoint goes
    to the original's folder with ``-fitted`` at its end.

    Args:
        original: the run file that the candidate varies. candidate: the model.
        out: the new file; one that exists is replaced, but not the original.
        note: a line for its head.

    Raises:
        ConfigurationError: ``out`` is the original.
    """
    check_out(original, out)
    document = tomllib.loads(original.read_text(encoding="utf-8"))
    here, there = original.resolve().parent, out.resolve().parent

    def path_of(value: object) -> object:
        return value if here == there or Path(str(value)).is_absolute() else str(here / str(value))

    output = str(document.get("output", "checkpoint")).rstrip("/" + os.sep) + "-fitted"
    data = dict(document["data"])
    for key in ("path", "cache"):
        if key in data:
            data[key] = path_of(data[key])
    if candidate.size:
        data["preprocessing"] = {**data.get("preprocessing", {}), "resize": list(candidate.size)}
    changed = {
        **document,
        "output": path_of(output),
        "data": data,
        "model": candidate.model.model_dump(mode="json", exclude_unset=True),
    }
    head = f"# Written by `nagedge fit-device` from {original.name}.\n" + (f"# {note}\n" if note else "")
    return write_file(out, head + to_toml(changed))


def to_toml(document: Mapping[str, object]) -> str:
    """Return a document of tables, lists, strings, numbers and truth values as TOML 1.0."""
    lines: list[str] = []
    _table(lines, document, ())
    return "\n".join(lines).strip() + "\n"


def _table(lines: list[str], table: Mapping[str, object], path: tuple[str, ...]) -> None:
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    plain = {key: value for key, value in table.items() if key not in inner}
    if path and (plain or not inner):
        lines += ["", f"[{'.'.join(map(_key, path))}]"]
    lines += [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, value in inner.items():
        _table(lines, value, (*path, key))


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(key))} = {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, (int, float)):
        return repr(value)
    return str(value)  # dates and times, as tomllib reads them
