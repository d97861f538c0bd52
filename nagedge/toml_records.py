"""Flat TOML files as frozen dataclasses: one file a record, every key a field, the file's name its name."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from nagedge.errors import ConfigurationError, nearest_name

__all__ = ["RecordTexts", "read_record"]

Record = TypeVar("Record")

_TYPES: dict[str, tuple[type, str]] = {
    "str": (str, "a string"),
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "int | None": (int, "a whole number"),
    "float": (float, "a number"),
    "tuple[str, ...]": (list, "a list of strings"),
}


@dataclass(frozen=True)
class RecordTexts:
    """What the errors of one kind of file say.

    Args:
        kind: the file, such as ``"target file"``.
        stated_by: who states a key without a default: ``"every target"``.
        unreadable: remedy for a file that cannot be read. malformed: for one that is not TOML.
    """

    kind: str
    stated_by: str
    unreadable: str
    malformed: str


def read_record(record_type: type[Record], path: Path, texts: RecordTexts) -> Record:
    """Return the record of a file; its field ``name`` is the file's name without its suffix.

    Ranges are the caller's to check.

    Raises:
        ConfigurationError: for a missing or malformed file, an unknown or missing key, a value of another type than
            its field's.
    """
    table = _read(path, texts)
    known: dict[str, Field[Any]] = {
        field.name: field
        for field in fields(record_type)  # type: ignore[arg-type] # a dataclass, by contract
        if field.name != "name"
    }
    for key in table:
        if key not in known:
            raise ConfigurationError(
                f"{texts.kind} {path}: unknown key {key!r}; expected {', '.join(known)}."
                + nearest_name(key, known)
            )
    values: dict[str, object] = {"name": path.stem}
    for key, field in known.items():
        if key in table:
            values[key] = _value(f"{texts.kind} {path}: {key}", str(field.type), table[key])
        elif field.default is MISSING:
            raise ConfigurationError(f"{texts.kind} {path}: {key!r} is missing; {texts.stated_by} states it.")
    return record_type(**values)


def _read(path: Path, texts: RecordTexts) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"{texts.kind} {path}: cannot be read ({error.strerror}); {texts.unreadable}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{texts.kind} {path}: not valid TOML ({error}); {texts.malformed}."
        ) from error


def _value(what: str, type_name: str, value: object) -> object:
    """Return ``value`` as the field's type; TOML's ``1`` is also a float, but ``true`` is no number."""
    expected, words = _TYPES[type_name]
    if expected is float and type(value) is int:
        value = float(value)
    wrong = type(value) is not expected
    if not wrong and isinstance(value, list):
        wrong = not all(isinstance(item, str) for item in value)
        value = tuple(value)
    if wrong:
        raise ConfigurationError(f"{what} is {value!r}, expected {words}.")
    return value
