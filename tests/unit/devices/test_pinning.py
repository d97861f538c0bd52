"""Which cores are fast, and their mask."""

from __future__ import annotations

import pytest

from nagedge.devices import pinning
from nagedge.devices.pinning import Pinning, choose_cores, parse_cores

# Four small cores, two middle and two big ones, as a Pixel 6 has them: number, capacity, highest clock, on.
PIXEL = [
    *(f"{core} 160 1803000 1" for core in range(4)), "4 498 2253000 1", "5 498 2253000 1", "6 1024 2802000 1",
    "7 1024 2802000 1",
]  # fmt: skip


def test_capacity_tells_cores_apart_and_else_the_highest_clock() -> None:
    assert parse_cores(PIXEL) == ((0, 1, 2, 3), (4, 5), (6, 7))
    assert parse_cores([line.replace(" 498 ", " - ") for line in PIXEL]) == ((0, 1, 2, 3), (4, 5), (6, 7))
    assert parse_cores([f"{core} - - 1" for core in range(4)]) == ((0, 1, 2, 3),)
    assert parse_cores([*PIXEL[:7], "7 1024 2802000 0"])[-1] == (6,), "one that is off cannot be used"
    assert parse_cores(["* - - 1"]) == ()


@pytest.mark.parametrize(
    ("wanted", "programs", "cores", "mask", "text"),
    [
        ("big", "/system/bin/taskset\n", (6, 7), "c0", "6-7, the fastest of 3 kinds"),
        ("little", "/system/bin/taskset\n", (0, 1, 2, 3), "f", "0-3, the slowest of 3 kinds"),
        ("all", "/system/bin/taskset\n", (), "", "any: as its system schedules them"),
        ("big", "", (), "", "any: it has no taskset"),
    ],
)
def test_what_is_wanted_becomes_a_mask(
    wanted: str, programs: str, cores: tuple[int, ...], mask: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        pinning, "shell", lambda serial, command: programs if "taskset" in command else "\n".join(PIXEL)
    )
    found = choose_cores("A1", wanted)
    assert (found.cores, found.mask, found.text) == (cores, mask, text)
    assert found.prefix == (f"taskset {mask} " if mask else "")


def test_cores_that_are_alike_are_not_chosen_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinning, "shell", lambda serial, command: "0 - 1500000 1\n1 - 1500000 1")
    assert choose_cores("A1", "big") == Pinning((), "it does not tell one core from another")
    assert Pinning((0, 2, 3, 10), "x").text == "0, 2-3, 10, x"
    assert Pinning((0, 2, 3, 10), "x").mask == "40d"
