"""The search of the core against every combination of its items."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from layerlens.budget.core import Item
from layerlens.budget.search import search


def items_of(rng: np.random.Generator, num_items: int, num_rows: int) -> list[Item]:
    items = []
    for number in range(num_items):
        size = int(rng.integers(1, 4))
        deltas = rng.integers(-20, 21, (num_rows, size))
        items.append(Item(rng.random(size), deltas, np.array([number]), np.arange(1, size + 1)[:, None]))
    return items


def named(number: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([number]), np.array([[1], [2]])


def least_total(items: list[Item], slack: np.ndarray, prices: np.ndarray, is_equality: np.ndarray, delta: float) -> float:
    best = np.inf
    for picks in itertools.product(*[range(-1, len(item.losses)) for item in items]):
        taken = [(item, pick) for item, pick in zip(items, picks, strict=True) if pick >= 0]
        loss = sum(float(item.losses[pick]) for item, pick in taken)
        left = slack - sum((item.deltas[:, pick] for item, pick in taken), np.zeros(len(slack), np.int64))
        rests = np.where(is_equality, left == 0, left >= 0).all()
        if rests and loss <= delta:
            best = min(best, loss + float((np.where(is_equality, 0, prices) * left).sum()))
    return best


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("has_equality", [False, True])
def test_an_exhausted_search_has_found_the_least_total(seed: int, has_equality: bool) -> None:
    rng = np.random.default_rng(seed)
    num_rows = int(rng.integers(1, 4))
    items, slack = items_of(rng, 6, num_rows), rng.integers(-30, 30, num_rows)
    prices = rng.uniform(0, 0.05, num_rows)
    is_equality = np.zeros(num_rows, bool)
    is_equality[-1] = has_equality
    delta = float(rng.uniform(0.3, 3.0))
    found = search(items, slack, prices, is_equality, delta=delta, work_limit=10**6, noise=0.0)
    assert found.is_exhausted
    expected = least_total(items, slack, prices, is_equality, delta)
    if expected <= delta or found.total <= delta:
        assert found.total == pytest.approx(expected, abs=1e-12)


def least_by_tabulation(items: list[Item], slack: np.ndarray, prices: np.ndarray, is_equality: np.ndarray, delta: float) -> float:
    """Every slack that can be reached, with its least loss: no pruning, no bounds."""
    losses = {tuple(slack.tolist()): 0.0}
    for item in items:
        for left, loss in list(losses.items()):
            for pick in range(len(item.losses)):
                reached = tuple((np.array(left) - item.deltas[:, pick]).tolist())
                total = loss + float(item.losses[pick])
                if total <= delta and total < losses.get(reached, np.inf):
                    losses[reached] = total
    ends = [
        loss + float((np.where(is_equality, 0, prices) * np.array(left)).sum())
        for left, loss in losses.items()
        if all(rest == 0 if equal else rest >= 0 for rest, equal in zip(left, is_equality, strict=True))
    ]
    return min(ends, default=np.inf)


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("kind", ["one budget", "two budgets", "one budget and an equality"])
def test_merging_and_bounding_thousands_of_states_loses_nothing(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_rows, step = (1, 50) if kind == "one budget" else (2, 1)
    items = [
        Item(rng.uniform(0, 0.2, 2), step * rng.integers(-5, 6, (num_rows, 2)) + rng.integers(0, step, 2), *named(number))
        for number in range(13)
    ]
    slack, prices = step * rng.integers(-12, -5, num_rows), rng.uniform(0.001, 0.05, num_rows) / step
    is_equality = np.arange(num_rows) == (1 if "equality" in kind else 9)
    found = search(items, slack, prices, is_equality, delta=1.2, work_limit=10**7, noise=0.0)
    assert found.is_exhausted
    expected = least_by_tabulation(items, slack, prices, is_equality, 1.2)
    assert np.isfinite(expected)
    if found.total <= 1.2 or expected <= 1.2:
        assert found.total == pytest.approx(expected, abs=1e-12)


def test_what_it_reports_adds_up_to_its_total() -> None:
    rng = np.random.default_rng(3)
    items, slack, prices = items_of(rng, 60, 2), np.array([-35, -20]), np.array([0.01, 0.02])
    found = search(items, slack, prices, np.zeros(2, bool), delta=np.inf, work_limit=10**6, noise=0.0)
    chosen = dict(found.changes)
    loss = sum(float(items[group].losses[option - 1]) for group, option in chosen.items())
    left = slack - sum(items[group].deltas[:, option - 1] for group, option in chosen.items())
    assert (left >= 0).all()
    assert found.total == pytest.approx(loss + float((prices * left).sum()))


def test_a_search_that_is_stopped_says_so() -> None:
    items = items_of(np.random.default_rng(0), 200, 2)
    found = search(
        items, np.array([-500, -500]), np.array([1e-6, 1e-6]), np.zeros(2, bool), delta=50.0, work_limit=500, noise=0.0
    )
    assert not found.is_exhausted
    assert found.work <= 1000


def test_a_thin_search_proves_nothing_but_finds_a_plan() -> None:
    items = items_of(np.random.default_rng(0), 100, 2)
    found = search(
        items, np.array([-40, -40]), np.array([0.01, 0.01]), np.zeros(2, bool), delta=5.0, work_limit=10**7, noise=0.0, width=64
    )
    assert not found.is_exhausted
    assert np.isfinite(found.total)
