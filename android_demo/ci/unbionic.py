"""Make a library of Android loadable by a JVM on Linux: the 100 KB between ONNX Runtime's Java API and the runtime.

Both are ELF. What differs is the C library: Android's library asks for ``libc.so`` (Linux has ``libc.so.6``, which the
JVM has loaded already) and for versions of its symbols that no other system has. Without those requests the same code
runs. Format: System V ABI, chapters 4 and 5.
"""

from __future__ import annotations

import struct

__all__ = ["unbionic"]

_DYNAMIC_SECTION, _DYNAMIC_SYMBOLS = 6, 11  # section types
_NEEDED = 1  # tags of the dynamic section
_VERSIONS = {0x6FFFFFF0, 0x6FFFFFFE, 0x6FFFFFFF}
_OF_BIONIC = {b"libc.so", b"libm.so", b"libdl.so"}
_WEAK = 2


def unbionic(library: bytes) -> bytes:
    """Return a copy that asks for no library of Android and no symbol version.

    Functions of NNAPI, which the runtime for Linux does not have, become weak: they are never called.

    Args:
        library: ELF, 64 bits, little-endian.
    """
    image = bytearray(library)
    if image[:6] != b"\x7fELF\x02\x01":
        raise ValueError("this is no 64-bit little-endian ELF library")
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, count = struct.unpack_from("<HH", image, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, table + index * size) for index in range(count)]
    dynamic = next(section for section in sections if section[1] == _DYNAMIC_SECTION)
    symbols = next(section for section in sections if section[1] == _DYNAMIC_SYMBOLS)
    strings = sections[dynamic[6]][4]

    def text(offset: int) -> bytes:
        return bytes(image[strings + offset : image.index(0, strings + offset)])

    for offset in range(symbols[4], symbols[4] + symbols[5], 24):
        name, info = struct.unpack_from("<IB", image, offset)
        if text(name).endswith(b"ExecutionProvider_Nnapi"):
            image[offset + 4] = _WEAK << 4 | info & 15
    entries = list(struct.iter_unpack("<qQ", image[dynamic[4] : dynamic[4] + dynamic[5]]))
    kept = [
        (tag, value)
        for tag, value in entries
        if tag not in _VERSIONS and not (tag == _NEEDED and text(value) in _OF_BIONIC)
    ]
    kept += [(0, 0)] * (len(entries) - len(kept))
    for index, (tag, value) in enumerate(kept):
        struct.pack_into("<qQ", image, dynamic[4] + 16 * index, tag, value)
    return bytes(image)
