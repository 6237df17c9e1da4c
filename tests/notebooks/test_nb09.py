"""Lesson 09: its stored times, and what its checks say of likely answers."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import cost
from lessons import speeds
from lessons.checks import nb09


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda t: (float(np.mean(t)), float(np.std(t))), "steady at [0] it gives 5.04"),
        (lambda t: (sorted(t)[len(t) // 2], max(t) - min(t)), "steady at [1] it gives 0.3"),
        (lambda t: (t[len(t) // 2], float(np.subtract(*np.percentile(t, [75, 25])))), "steady at"),
    ],
)
def test_median_and_spread_says_where_an_answer_is_wrong(answer, where):
    assert where in nb09.median_and_spread(answer).where


def _pairs(first, second, opposite):
    n = len(first)
    return sum(opposite(first[i] - first[j], second[i] - second[j]) for i in range(n) for j in range(n))  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda a, b: _pairs(a, b, lambda x, y: x * y < 0), "one pair turned it gives 2"),
        (lambda a, b: _pairs(a, b, lambda x, y: x * y <= 0) // 2, "same order it gives 2"),
        (lambda a, b: sum(np.argsort(a) != np.argsort(b)), "one pair turned it gives 2"),
    ],
)
def test_num_inversions_says_where_an_answer_is_wrong(answer, where):
    assert where in nb09.num_inversions(answer).where


def _weakly(costs, scores):
    """Drops only what is beaten in both."""
    n = range(len(costs))
    kept = [i for i in n if not any(costs[j] < costs[i] and scores[j] > scores[i] for j in n)]
    return sorted(kept, key=lambda i: costs[i])


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda costs, scores: list(range(len(costs))), "one beats all the shape is (3,)"),
        (lambda costs, scores: sorted(_weakly(costs, scores)), "not sorted at [0] it gives 0"),
        (_weakly, "equal cost the shape is (3,), it must be (2,)"),
    ],
)
def test_pareto_front_says_where_an_answer_is_wrong(answer, where):
    assert where in nb09.pareto_front(answer).where


def test_every_variant_with_an_accuracy_has_its_time_and_cost():
    times, scores = speeds.read(), speeds.accuracies()
    assert set(times.variant) == set(scores.variant) == set(speeds.configs())
    assert not times.variant.duplicated().any()
    assert not scores.duplicated(["variant", "seed"]).any()
    assert (times.latency_q1_ms <= times.latency_ms).all()
    assert (times.latency_ms <= times.latency_q3_ms).all()
    assert times[["device", "num_threads", "load", "torch", "cpu"]].notna().all(axis=None)


@pytest.mark.parametrize("variant", ["T+S", "ST", "attention"])
def test_stored_costs_are_what_the_package_counts(variant):
    row = speeds.read().set_index("variant").loc[variant]
    found = cost(speeds.configs()[variant])
    assert row.params == found["params"]
    assert row.gmacs == pytest.approx(found["gmacs"])


def test_the_count_misleads_both_ways_as_the_lesson_says():
    costs = speeds.read().set_index("variant")[["gmacs", "latency_ms"]]
    ratios = costs / costs.loc["T+S"]
    assert 0.9 < ratios.gmacs["conv"] < 1 < ratios.latency_ms["conv"]
    assert ratios.gmacs["ST"] > ratios.latency_ms["ST"]


def test_missing_times_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(speeds, "PATH", tmp_path / "lesson09.csv")
    with pytest.raises(FileNotFoundError, match=r"python -m lessons\.speeds"):
        speeds.read()
