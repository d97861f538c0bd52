"""The learning rate of each step."""

from __future__ import annotations

import itertools

import pytest

from nagedge.training.schedule import learning_rate


def test_warmup_rises_linearly_to_the_top_and_the_cosine_falls_towards_zero() -> None:
    rates = [learning_rate(step, lr=0.8, steps=20, warmup_steps=3) for step in range(20)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[3:]))
    assert 0 < rates[-1] < 0.01
    assert learning_rate(20, lr=0.8, steps=20, warmup_steps=3) == pytest.approx(0.0)


def test_the_middle_of_the_cosine_is_half() -> None:
    assert learning_rate(5, lr=1.0, steps=10) == pytest.approx(0.5)
    assert learning_rate(0, lr=1.0, steps=10) == pytest.approx(1.0)


def test_a_run_of_one_step_has_the_full_rate() -> None:
    assert learning_rate(0, lr=0.3, steps=1) == pytest.approx(0.3)
