"""The commands that results and plans name, as they hold for a folder."""

from __future__ import annotations

import shlex
from pathlib import Path


def command(*words: str | Path) -> str:
    """A command of ours that can be pasted into a shell, whatever its folders are called."""
    return shlex.join(["ablations", *(shown(w) if isinstance(w, Path) else w for w in words)])


def shown(path: Path) -> str:
    """A path as a command reads it: one that begins with a dash would be taken for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def repeat_command(root: Path, cell_id: str, seed: int, device: str, num_threads: int) -> str:
    """What trains this cell and seed again in another folder, and compares."""
    words = ["ablations", "repeat", shown(root), cell_id, "--seed", str(seed)]
    return shlex.join([*words, "--device", device, "--threads", str(num_threads)])


def for_folder(command: str, root: Path) -> str:
    """A command of a run's folder as it holds where the folder now lies, which may have moved.

    The grid is the folder's own copy where that was its file, or its file is no longer there.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # no command of ours
        return command
    if words[:2] == ["ablations", "repeat"]:
        return shlex.join([*words[:2], shown(root), *words[3:]])
    if words[:2] == ["ablations", "run"] and "--out" in words[:-1]:
        place = words.index("--out") + 1
        grid, old = Path(words[2]), Path(words[place])
        has_moved = old.resolve() != root.resolve()
        if has_moved:
            words[place] = shown(root)
        if not grid.is_file() or (has_moved and grid == old / "grid.yaml"):
            words[2] = shown(root / "grid.yaml")
    return shlex.join(words)
