"""Real small disks: one that fills up, and one that cannot be written to."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ablation_tasks import ONE, facts
from pandas.testing import assert_frame_equal

from ablations import load, run
from ablations.cli import main

pytestmark = pytest.mark.usefixtures("forks")

MANY = ONE | {"seeds": 6, "repeat": False}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 130 KB, about three trainings."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=130k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_full_disk_keeps_what_is_finished_and_goes_on_when_there_is_room(
    disk: Path, tmp_path: Path, workers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, out = tmp_path / "grid.yaml", disk / "run"
    grid.write_text(json.dumps(MANY))
    words = ["run", str(grid), "--out", str(out), "--device", "cpu", "--workers", workers]
    assert main([*words, "--quiet"]) == 1
    said = capsys.readouterr().err
    assert f"ablations: {'base seed ' if workers == '2' else str(out)}" in said
    assert f"cannot be written: the disk of {out}" in said
    assert " free, " in said
    assert "what is finished is kept" in said
    assert said.count("\n") == 1
    before = load(out)
    assert 0 < len(before) < 6
    assert (before.status == "done").all()
    results = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*/result.json")}
    remount(disk, "size=4m")
    table = run(grid, out, device="cpu", progress=False)
    expected = run(grid, tmp_path / "roomy", device="cpu", progress=False)
    assert_frame_equal(facts(table), facts(expected), check_exact=True)
    assert all(path.stat().st_mtime_ns == time for path, time in results.items())


def test_read_only_folder_is_one_line_and_can_still_be_read(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, out = tmp_path / "grid.yaml", disk / "run"
    grid.write_text(json.dumps(ONE))
    run(grid, out, device="cpu", progress=False)
    remount(disk, "ro")
    try:
        assert main(["run", str(grid), "--out", str(out), "--device", "cpu"]) == 2
        said = capsys.readouterr().err
        assert re.search(
            rf"{out}/\S+ cannot be written: {out} is read-only; give a folder that", said
        )
        assert said.count("\n") == 1
        assert main(["status", str(out)]) == 0
        assert "1 done" in capsys.readouterr().out
        assert len(load(out)) == 1
    finally:
        remount(disk, "rw")
