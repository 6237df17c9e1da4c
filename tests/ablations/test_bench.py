"""The bench measures what it says, and names what it cannot run."""

from __future__ import annotations

import dataclasses

import pytest

from ablations import bench as command
from ablations.bench import bench, measure
from ablations.bench_peers import CONTENDERS


def test_bench_sees_the_time_that_jobs_take_and_the_workers_share_them() -> None:
    in_process, pooled = (measure(contender, 4, 0.4) for contender in CONTENDERS[:2])
    assert in_process.jobs_s >= 1.6
    assert 0.8 <= pooled.jobs_s < in_process.jobs_s  # two on each worker
    assert in_process.start_s > 0


def test_bench_names_what_is_not_installed_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dataclasses.replace(CONTENDERS[0], name="absent", needs=("no_such_module",))
    monkeypatch.setattr(command, "CONTENDERS", [absent, CONTENDERS[0]])
    *_, first, second = bench(2, 0.01)
    assert first.split() == ["absent", "not", "run:", "no", "no_such_module", "(extra:", "bench)"]
    assert second.startswith("ours, in-process")
    assert second.endswith("%")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "slurm"}, "only='slurm' is part of no name; there are: ours"),
        ({"num_jobs": 1}, "num_jobs=1 must be at least 2"),
    ],
)
def test_bench_refuses_what_it_cannot_measure(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(bench(**options))  # type: ignore[arg-type]
