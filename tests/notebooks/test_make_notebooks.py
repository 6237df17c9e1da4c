"""The builder: the same bytes each time, and an error for whatever would break that."""

from __future__ import annotations

import base64
import copy
import io
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from lessons import make_notebooks, preflight
from lessons.compare_notebooks import differences, text_differences
from lessons.make_notebooks import BuildError

LESSON = """
# %% [markdown]
# # A title

# %%
from anywidget import AnyWidget
from ipywidgets import IntSlider
from matplotlib import pyplot as plt
import pandas as pd

# %%
heights = pd.Series([0.125, -0.5, 0.25], name="heights")
ax = heights.plot()

# %%
AnyWidget()

# %%
IntSlider()

# %% tags=["timed"]
import time
time.perf_counter()

# %%
print(f"{heights.std():.3f}")
pd.DataFrame({"a": [1.5, 2.0]})
"""


def write(folder: Path, text: str) -> Path:
    source = folder / "lessons/src/01_title.py"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(text.lstrip())
    return source


def grey_png() -> str:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), "grey").save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of a lesson that has been built twice, its first build beside it."""
    source = write(tmp_path_factory.mktemp("notebooks"), LESSON)
    target = make_notebooks.target_of(source)
    make_notebooks.build(source)
    target.rename(target.with_suffix(".first"))
    target.write_bytes(target.with_suffix(".first").read_bytes())
    make_notebooks.build(source)
    return source


@pytest.fixture
def stored(lesson: Path) -> nbformat.NotebookNode:
    return nbformat.read(make_notebooks.target_of(lesson), as_version=4)


def test_build_is_the_same_byte_for_byte(lesson):
    target = make_notebooks.target_of(lesson)
    assert target.read_bytes() == target.with_suffix(".first").read_bytes()


def test_build_keeps_words_in_place_of_live_widgets(stored):
    assert "widgets" not in stored.metadata
    for cell in stored.cells[3:5]:
        assert cell.outputs[0].data == {"text/plain": "interactive: run this cell"}


def test_first_figure_of_a_notebook_is_shown(stored):
    assert [list(output.data) for output in stored.cells[2].outputs][-1][0] == "image/png"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("object()", "shows a memory address"),
        ("import sys; print('no', file=sys.stderr)", "writes to stderr: no"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_build_refuses_what_differs_or_fails(tmp_path, kernel, code, message):
    source = write(tmp_path, f"# %%\n{code}\n")
    with pytest.raises(BuildError, match=message):
        make_notebooks.execute(source, kernel)


def test_lessons_of_one_kernel_share_no_names_and_what_is_printed_in_pieces_is_one_output(
    tmp_path, kernel
):
    code = (
        "import sys, time\nfor word in 'abc':\n    print(word, flush=True)\n    time.sleep(0.3)\n"
    )
    source = write(tmp_path, f"# %%\n{code}# %%\nprint(1)\n")
    outputs = [cell.outputs for cell in make_notebooks.execute(source, kernel).cells]
    assert [[output.text for output in each] for each in outputs] == [["a\nb\nc\n"], ["1\n"]]
    source = write(tmp_path, "# %%\nprint('word' in globals(), 'time' in globals(), 2)\n")
    (cell,) = make_notebooks.execute(source, kernel, lambda code: code.replace("2", "3")).cells
    assert cell.outputs[0].text == "False False 3\n"
    assert cell.source.endswith(" 2)")


def test_a_lesson_that_gives_no_answer_is_run_once_more(tmp_path, kernel, monkeypatch, capsys):
    monkeypatch.setattr(make_notebooks, "CELL_TIMEOUT_S", 2)
    tries = tmp_path / "tries"
    source = write(
        tmp_path,
        f"# %%\nimport time\ntries = {str(tries)!r}\nopen(tries, 'a').write('x')\n"
        "time.sleep(60 if len(open(tries).read()) <= 1 else 0)\nprint('here')\n",
    )
    cells = make_notebooks.execute(source, kernel).cells
    assert cells[0].outputs[0].text == "here\n"
    assert tries.read_text() == "xx"
    said = capsys.readouterr().err
    assert said.startswith("01_title.py: A cell timed out while it was being executed, after 2 sec")
    assert said.endswith("; once more\n")


def test_outputs_that_do_not_arrive_are_no_lesson(tmp_path, monkeypatch):
    """By default nbclient would go on without them."""
    monkeypatch.setattr(make_notebooks, "OUTPUT_TIMEOUT_S", 1)
    late = (
        "import ipykernel.kernelbase as base, time\n"
        "end = base.Kernel._publish_status\n"
        "def slow(self, status, *a, **k):\n"
        "    if status == 'idle':\n"
        "        time.sleep(2)\n"
        "    end(self, status, *a, **k)\n"
        "base.Kernel._publish_status = slow\n"
    )
    source = write(tmp_path, f"# %%\n{late}print('here')\n")
    with pytest.raises(BuildError, match=r"Timeout waiting for IOPub output"):
        make_notebooks.execute(source)


def test_a_kernel_that_dies_is_an_error_and_no_lesson(tmp_path, monkeypatch, capsys):
    """`make notebooks` fails by this exit code, and leaves what is stored as it was."""
    source = write(tmp_path, "# %%\nimport os\nos._exit(1)\n")
    target = make_notebooks.target_of(source)
    target.write_text("stored")
    monkeypatch.setattr(make_notebooks, "sources", lambda: [source])
    assert make_notebooks.main([]) == 2
    said = capsys.readouterr().err
    assert "01_title.py: Kernel died; once more" in said
    assert "01_title.py, run twice: Kernel died" in said
    assert target.read_text() == "stored"


def test_timed_cells_are_kept_until_one_of_them_changes(stored):
    built = copy.deepcopy(stored)
    built.cells[5].outputs[0].data["text/plain"] = "1.5"
    make_notebooks.keep_timed(built, stored)
    assert built.cells[5].outputs == stored.cells[5].outputs
    changed = copy.deepcopy(stored)
    changed.cells[5].source += "  # now"
    changed.cells[5].outputs[0].data["text/plain"] = "1.5"
    make_notebooks.keep_timed(changed, stored)
    assert changed.cells[5].outputs[0].data["text/plain"] == "1.5"


def test_unknown_lesson_is_one_line_and_exit_code_2(capsys):
    assert make_notebooks.main(["--only", "77"]) == 2
    assert capsys.readouterr().err.startswith("no lesson 77; use some of 01, ")


def test_comparison_finds_a_changed_number_word_picture_and_source(stored):
    assert differences(copy.deepcopy(stored), stored) == []

    changed = copy.deepcopy(stored)
    changed.cells[6].outputs[0].text = "0.9\n"
    (found,) = differences(changed, stored)
    assert found.startswith("cell-07: 0.9 was 0.")

    changed = copy.deepcopy(stored)
    changed.cells[2].outputs[-1].data["image/png"] = grey_png()
    (found,) = differences(changed, stored)
    assert found.startswith("cell-03: a picture ")
    changed.metadata.matplotlib = "1.0"  # it would draw differently
    assert differences(changed, stored) == []

    changed = copy.deepcopy(stored)
    changed.cells[6].outputs.pop()
    (found,) = differences(changed, stored)
    assert found.startswith("cell-07: outputs ['stream'] are not")

    changed = copy.deepcopy(stored)
    changed.cells[0].source += " more"
    assert "run `make notebooks`" in differences(changed, stored)[0]


def test_comparison_passes_over_what_is_timed(stored):
    changed = copy.deepcopy(stored)
    changed.cells[5].outputs[0].data["text/plain"] = "another day"
    assert differences(changed, stored) == []


@pytest.mark.parametrize(
    ("new", "old", "same"),
    [
        ("0.88 of 4,096", "0.88 of 4,096", True),
        ("0.88", "0.87", True),  # the last printed digit may tip
        ("0.88", "0.85", False),
        ("1.2e-05", "1.3e-05", True),
        ("1.2e-05", "1.9e-05", False),
        ("4,096", "4,097", True),  # one part in a thousand
        ("4,096", "4,196", False),
        ("3", "4", False),
        ("T 3", "S 3", False),
        ("3 4", "3", False),
        ("commit 7e99999", "commit 7e99999", True),  # which no float holds
    ],
)
def test_numbers_may_differ_by_rounding_words_may_not(new, old, same):
    assert (list(text_differences(new, old)) == []) == same


def test_preflight_is_ready_here_and_names_a_missing_package(capsys):
    preflight.check()
    assert capsys.readouterr().out == "ready\n"
    preflight.check("no_such_package")
    assert "no_such_package cannot be imported: `pip install" in capsys.readouterr().out


def test_preflight_runs_in_a_bare_python_elsewhere(tmp_path):
    (tmp_path / "preflight.py").write_text((make_notebooks.FOLDER / "preflight.py").read_text())
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; import preflight; preflight.check()"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stderr == ""
    ours, others = done.stdout.splitlines()
    assert ours.startswith("- posmlp, analysis, ablations cannot be imported: start JupyterLab by")
    assert others.startswith("- torch, matplotlib, ")
