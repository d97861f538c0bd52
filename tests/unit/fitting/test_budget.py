"""Limits from the command line."""

from __future__ import annotations

import pytest

from nagedge.errors import ConfigurationError
from nagedge.fitting.budget import Budget, excess, parse_budgets, printed


@pytest.mark.parametrize(
    ("text", "cost", "limit"),
    [
        ("macs=20M", "macs", 20e6),
        ("params=200k", "params", 200e3),
        ("memory=32MB", "memory", 32e6),
        ("memory=1.5 MiB", "memory", 1.5 * 2**20),
        ("memory=4096", "memory", 4096),
        ("instructions=5e7", "instructions", 5e7),
    ],
)
def test_sizes_have_units(text: str, cost: str, limit: float) -> None:
    assert parse_budgets([text]) == (Budget(cost, limit),)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], "no budget was given, expected at least one of macs, params, memory, instructions"),
        (
            ["mac=3"],
            "there is no cost 'mac', expected one of macs, params, memory, instructions. Did you mean 'macs'?",
        ),
        (["macs"], "'' is no size, expected a number above 0 with one of the units k, M, G, or none"),
        (["macs=20MB"], "'20MB' is no size"),
        (["macs=-1"], "'-1' is no size"),
        (["macs=0"], "'0' is no size"),
        (["macs=1e999"], "'1e999' is no size"),
        (
            ["memory=3 parsecs"],
            "'3 parsecs' is no size, expected a number above 0 with one of the units B, kB",
        ),
        (["macs=1", "macs=2"], "budget 'macs' was given more than once"),
    ],
)
def test_what_is_no_budget_is_refused(texts: list[str], expected: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse_budgets(texts)
    assert expected in str(error.value)


def test_the_worst_limit_decides() -> None:
    budgets = parse_budgets(["macs=10", "params=100"])
    assert excess({"macs": 5, "params": 200}, budgets) == pytest.approx(2)
    assert excess({"macs": 5}, budgets) == pytest.approx(0.5)


def test_values_are_printed_with_three_digits() -> None:
    assert [printed("macs", 1234567), printed("memory", 45600), printed("params", 12)] == [
        "1.23 M",
        "45.6 kB",
        "12",
    ]
