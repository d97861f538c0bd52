"""Names in a Core ML model: reversible, because Core ML takes identifiers only.

``params.head.weight`` becomes ``params__head__weight``: a dot is two underscores, an underscore between letters or
digits stays, and any other character is ``_x<hexadecimal code point>_``. So names made of dots, letters, digits and
single underscores read as before, and no two names meet. A word of the program's own language has its last letter
written so (``stat_x65_``). No name made here starts with ``_v`` or ``_c``: these are the tensors inside the program.
"""

from __future__ import annotations

import re

__all__ = ["feature_name", "original_name"]

_PLAIN = re.compile(r"[A-Za-z0-9]")
_ESCAPED = re.compile(r"_x([0-9a-f]+)_")
_LIKE_ESCAPED = re.compile(
    r"_x[0-9a-f]+[^A-Za-z0-9]"
)  # what follows begins with an underscore when it is written

_RESERVED = frozenset({
    "any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "state", "bf16",
    "fp16", "fp32", "fp64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
})  # fmt: skip
"""Words that coremltools 9.0 renames (``NameSanitizer`` in mil/passes/defs/preprocess.py)."""


def feature_name(name: str) -> str:
    """Return the identifier by which Core ML knows ``name``."""
    if name in _RESERVED:
        return name[:-1] + _escape(name[-1])
    return "".join(_encoded(name, i) for i in range(len(name)))


def _encoded(name: str, i: int) -> str:
    character = name[i]
    if _PLAIN.fullmatch(character):
        return character if i or not character.isdigit() else _escape(character)
    if character == ".":
        return "__"
    between = 0 < i < len(name) - 1 and _PLAIN.fullmatch(name[i - 1]) and _PLAIN.fullmatch(name[i + 1])
    if character == "_" and between and not _LIKE_ESCAPED.match(name, i):
        return character
    return _escape(character)


def _escape(character: str) -> str:
    return f"_x{ord(character):x}_"


def original_name(feature: str) -> str:
    """Return the name that :func:`feature_name` turned into ``feature``."""
    parts: list[str] = []
    i = 0
    while i < len(feature):
        escaped = _ESCAPED.match(feature, i)
        if escaped:
            parts.append(chr(int(escaped[1], 16)))
            i = escaped.end()
        elif feature.startswith("__", i):
            parts.append(".")
            i += 2
        else:
            parts.append(feature[i])
            i += 1
    return "".join(parts)
