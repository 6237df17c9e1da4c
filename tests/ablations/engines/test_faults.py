"""A few kills at random moments; `faults.py` does many."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import inject


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes through /proc")
def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    faults = inject(tmp_path, times=3, seed=1, num_seeds=6, epochs=4)
    assert sum(faults.kills.values()) == 3
    assert faults.wrong == []
