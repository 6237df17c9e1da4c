"""The live table in a notebook, by a real kernel."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from ablation_tasks import TINY

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra: notebooks)")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra: notebooks)")


def test_a_notebook_shows_one_table_that_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    code = (
        "import json, ablations\n"
        f"grid = json.loads({json.dumps(json.dumps(TINY))})\n"
        f"table = ablations.run(grid, {str(tmp_path / 'run')!r}, device='cpu')"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs
    shown = [output for output in outputs if output.output_type != "stream"]
    assert [output.output_type for output in shown] == ["display_data"]
    table = shown[0].data["text/html"]
    assert [table.count(name) for name in ("gate=lrpe", "gate=mean", "done, top-1 on")] == [
        2,
        2,
        4,
    ]
    streams = "".join(output.text for output in outputs if output.output_type == "stream")
    assert streams.splitlines() == ["4 trainings, 0 finished before", "4 of 4"]
