"""The preflight names what is missing, in any Python, and says how to mend it."""

from __future__ import annotations

import subprocess
import sys

from lessons import preflight
from lessons.make_notebooks import FOLDER


def test_preflight_is_ready_here_and_names_a_missing_package(capsys):
    preflight.check()
    assert capsys.readouterr().out == "ready\n"
    preflight.check("no_such_package")
    assert "no_such_package cannot be imported: `pip install" in capsys.readouterr().out


def test_preflight_runs_in_a_bare_python_elsewhere(tmp_path):
    (tmp_path / "preflight.py").write_text((FOLDER / "preflight.py").read_text())
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; import preflight; preflight.check()"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stderr == ""
    ours, others = done.stdout.splitlines()
    assert ours.startswith("- posmlp, analysis, ablations cannot be imported: start JupyterLab by")
    assert others.startswith("- torch, matplotlib, ")
