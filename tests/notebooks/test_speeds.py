"""Stored times belong to the variants whose accuracies are stored."""

from __future__ import annotations

import pytest

from analysis import cost
from lessons import speeds


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


def test_missing_times_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(speeds, "PATH", tmp_path / "lesson09.csv")
    with pytest.raises(FileNotFoundError, match=r"python -m lessons\.speeds"):
        speeds.read()
