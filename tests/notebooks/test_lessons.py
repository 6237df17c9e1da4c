"""Every lesson runs from top to bottom unanswered, and shows what the stored one shows."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from lessons import make_notebooks
from lessons.compare_notebooks import differences

Built = dict[Path, "Future[NotebookNode]"]


@pytest.fixture(scope="module")
def built(request: pytest.FixtureRequest) -> Iterator[Built]:
    """The lessons that are asked for, two at once."""
    here = [item for item in request.session.items if item.path == Path(__file__)]
    asked = {item.callspec.params["source"]: None for item in here if hasattr(item, "callspec")}
    pool = ThreadPoolExecutor(2)
    yield {source: pool.submit(make_notebooks.execute, source) for source in asked}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("source", make_notebooks.sources(), ids=lambda path: path.stem)
def test_lesson_runs_and_shows_what_is_stored(source: Path, built: Built) -> None:
    notebook = built[source].result()
    for cell in notebook.cells:
        if "exercise" in cell.metadata.get("tags", []):
            answers = [output.get("data", {}).get("text/plain", "") for output in cell.outputs]
            assert any(text.startswith("not answered yet") for text in answers), cell.source
    stored = nbformat.read(make_notebooks.target_of(source), as_version=4)
    assert not differences(notebook, stored)
