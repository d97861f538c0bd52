"""Times and sizes as people read them: three significant figures with the unit that suits them."""

from __future__ import annotations

__all__ = ["milliseconds", "size"]


def milliseconds(value: float) -> str:
    """Three significant figures with the unit: ``"46.3 µs"``, ``"0.123 ms"``, ``"12.3 ms"``, ``"1.23 s"``."""
    if 0.0 < value < 0.1:
        return f"{value * 1000.0:.3g} µs"
    if value >= 1000.0:
        return f"{value / 1000.0:.3g} s" if value < 1e6 else f"{value / 1000.0:,.0f} s"
    return f"{value:.3g} ms"


def size(value: int) -> str:
    """Binary units with three significant figures: ``"512 B"``, ``"1.5 KiB"``, ``"23.1 GiB"``."""
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1000.0 or unit == "GiB":
            return f"{amount:.3g} {unit}"
        amount /= 1024.0
    raise AssertionError
