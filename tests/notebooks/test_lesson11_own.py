"""Lesson 11 with a path in each of its two places: a user's file, and a user's folder of clips."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from lessons import make_notebooks
from lessons.videos import write_film
from tests.notebooks.lab import pictures, printed, source_of

STEM = "11_your_own_video"


def film(path: Path, *, num_frames: int, height: int, width: int, frames_per_s: int = 25) -> Path:
    """A bright square that crosses a grey picture from left to right."""
    frames = np.full((num_frames, height, width, 3), 90, dtype=np.uint8)
    for t, frame in enumerate(frames):
        left = t * (width - 16) // num_frames
        frame[20:36, left : left + 16] = 230
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_film(path, frames, frames_per_s=frames_per_s)


def test_lesson_11_takes_a_users_file_and_folder(tmp_path: Path) -> None:
    mine = film(tmp_path / "holiday.mkv", num_frames=50, height=64, width=96, frames_per_s=30)
    clips = tmp_path / "clips"
    for kind in ("cats", "dogs"):
        for i in range(5):
            film(clips / kind / f"{i}.mp4", num_frames=20 + i, height=48, width=64)
    root = tmp_path / "notebooks"
    shutil.copytree(make_notebooks.FOLDER.parent, root)
    source = source_of(root, STEM)
    text = source.read_text()
    for name, path in (("VIDEO", mine), ("FOLDER", clips)):
        assert f'\n{name} = ""' in text
        text = text.replace(f'\n{name} = ""', f"\n{name} = {str(path)!r}")
    source.write_text(text)

    code = [cell for cell in make_notebooks.execute(source).cells if cell.cell_type == "code"]
    said = "".join(printed(cell) for cell in code)
    assert "holiday.mkv: " in said
    assert "50 frames at 30.0 a second, read by decord" in said
    assert "2 test videos of 2 classes" in said
    assert "right: 0 of 2" in said  # cats and dogs are no words of the toy model's
    assert "guessing among 2 would be 0.69" in said
    explained = [cell for cell in code if "draw_attribution(" in cell.source]
    assert len(explained) == 2
    assert all(pictures(cell) for cell in explained)
