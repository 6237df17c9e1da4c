"""Make the lessons from their percent sources: run every cell and store what it shows.

`make notebooks` builds all, `make notebooks ONLY='02 05'` some. Built twice on one machine a lesson
is the same byte for byte: nothing of the time, the machine or the kernel is kept. Two tags tell
what differs all the same. `trained`: numbers that come out of training, which another processor
rounds otherwise; a comparison looks only at what kind of output there is. `timed`: besides, the
output holds seconds; the cell runs, but what it showed when its lesson's timed cells were last
changed is kept, unless `--retime` is given.

What answers a guess is folded until its cell is run, and so are the imports. JupyterLab reads that
from the cells' metadata; `--html DIR` writes the stored lessons as pages that fold the same.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jupytext
import matplotlib
import matplotlib.font_manager  # makes its cache here, not in a kernel, which would tell of it
import nbformat
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode

from posmlp.checkpoint import write_atomically

FOLDER = Path(__file__).resolve().parent
ARGUMENTS = ["--IPKernelApp.log_level=40"]  # it would warn of its own transport
FORGET = "%reset -f\nimport gc\ngc.freeze()  # packages need no second look\ndel gc"
START_TIMEOUT_S = 300
CELL_TIMEOUT_S = 300
OUTPUT_TIMEOUT_S = 60  # for a cell's last output, once it has ended
# a kernel that gives no answer; one that died, or did not start
LOST_KERNEL = (CellTimeoutError, RuntimeError)
MOST_BYTES = 1_000_000
WIDGET = "application/vnd.jupyter.widget-view+json"
INTERACTIVE = "interactive: run this cell"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
    # differing versions draw differently: figures are compared only where this agrees
    "matplotlib": matplotlib.__version__,
}


GUESS = "**Your guess"
HIDE_OUTPUTS = {"jupyter": {"outputs_hidden": True}}
HIDE_SOURCE = {"jupyter": {"source_hidden": True}}
# nbconvert's own page shows what the metadata folds
PAGE = """
{%- extends "lab/index.html.j2" -%}
{%- macro folded(cell, part, words, inner) -%}
{%- if cell.metadata.get("jupyter", {}).get(part) -%}
<details><summary>{{ words }}</summary>{{ inner }}</details>
{%- else -%}{{ inner }}{%- endif -%}
{%- endmacro -%}
{%- block input_group -%}
{{ folded(cell, "source_hidden", "imports", super()) }}
{%- endblock -%}
{%- block output_group -%}
{{ folded(cell, "outputs_hidden", "what it gives", super()) }}
{%- endblock -%}
"""


class BuildError(ValueError):
    """A lesson that cannot be built, or whose output would differ from one build to the next."""


def sources(folder: Path = FOLDER) -> list[Path]:
    """The lessons' percent sources in their order."""
    return sorted((folder / "src").glob("[0-9][0-9]_*.py"))


def target_of(source: Path) -> Path:
    """The notebook that is built from a source."""
    return source.parents[2] / f"{source.stem}.ipynb"


def read(source: Path) -> NotebookNode:
    """A source as a notebook without outputs, with stable cell ids, and metadata: tags, folds."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for i, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{i:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
    _fold(notebook.cells)
    return notebook


def _fold(cells: list[NotebookNode]) -> None:
    """Fold the imports, and the outputs of the cells between a guess and the next words."""
    guessed = False
    for cell in cells:
        if cell.cell_type == "markdown":
            guessed = GUESS in cell.source.rpartition("**Reading.**")[2]
        elif guessed:
            cell.metadata.update(nbformat.from_dict(HIDE_OUTPUTS))
        elif cell.source.startswith(("import ", "from ")) and "preflight" not in cell.source:
            cell.metadata.update(nbformat.from_dict(HIDE_SOURCE))


def execute(
    source: Path,
    kernel: SharedKernel | None = None,
    changed: Callable[[str], str] = str,
) -> NotebookNode:
    """Run a source's cells from top to bottom and clean what they show.

    One thread, so that numbers are the same however many cores there are. In a fresh kernel, or in
    a `SharedKernel`, from which names are removed first. What runs is `changed` of each
    cell's source, which is kept as it was. A lesson whose kernel is lost is run once more:
    ipykernel 7 now and then loses a cell's reply, after which its client waits in vain
    (https://github.com/ipython/ipykernel/issues/1471). Raises BuildError, naming the cell, for an
    error, for a kernel lost twice, for output that is not the same each time or does not arrive,
    and for one too large.
    """
    try:
        notebook = _run(source, kernel, changed)
    except LOST_KERNEL as error:
        print(f"{source.name}: {_first_line(error)}; once more", file=sys.stderr)
        try:
            if kernel:
                kernel.renew()
            notebook = _run(source, kernel, changed)
        except LOST_KERNEL as again:
            raise BuildError(f"{source.name}, run twice: {again}") from again
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = [_cleaned(output, source, cell) for output in _joined(cell.outputs)]
            if not cell.outputs and "outputs_hidden" in cell.metadata.get("jupyter", {}):
                del cell.metadata["jupyter"]
    if (size := len(text_of(notebook).encode())) > MOST_BYTES:
        raise BuildError(f"{source.name}: {size:,} bytes are more than {MOST_BYTES:,}")
    return notebook


class SharedKernel:
    """A kernel in which several lessons run one after another: packages are imported once."""

    def __init__(self) -> None:
        self._private = tempfile.TemporaryDirectory()
        self.manager = self._started()

    def _started(self) -> AsyncKernelManager:
        client = _client(nbformat.v4.new_notebook(), FOLDER.parent)
        client.create_kernel_manager()
        client.start_new_kernel(env=_environment(self._private.name))
        return client.km

    def renew(self) -> None:
        """A fresh kernel in place of one that was lost."""
        run_sync(self.manager.shutdown_kernel)(now=True)
        self.manager = self._started()

    def stop(self) -> None:
        run_sync(self.manager.shutdown_kernel)(now=True)
        self._private.cleanup()


def _client(
    notebook: NotebookNode, folder: Path, manager: AsyncKernelManager | None = None
) -> NotebookClient:
    return NotebookClient(
        notebook,
        km=manager,
        timeout=CELL_TIMEOUT_S,
        startup_timeout=START_TIMEOUT_S,
        iopub_timeout=OUTPUT_TIMEOUT_S,
        raise_on_iopub_timeout=True,  # by default a cell's late outputs are left out with a log
        kernel_name="python3",
        record_timing=False,
        extra_arguments=ARGUMENTS,
        resources={"metadata": {"path": str(folder)}},
    )


def _run(source: Path, kernel: SharedKernel | None, changed: Callable[[str], str]) -> NotebookNode:
    """A source's cells with what they show. Raises BuildError for one that raises."""
    notebook = read(source)
    if kernel:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(FORGET))
    sources = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = changed(cell.source)
    with tempfile.TemporaryDirectory() as private:
        manager = kernel.manager if kernel else None
        client = _client(notebook, target_of(source).parent, manager)
        try:
            client.execute(env=_environment(private))
        except CellExecutionError as error:
            trace = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback).strip().splitlines()
            raise BuildError("\n".join([f"{source.name}:", *trace[-12:]])) from error
    for cell, text in zip(notebook.cells, sources, strict=True):
        cell.source = text
    if kernel:
        del notebook.cells[0]
    return notebook


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def text_of(notebook: NotebookNode) -> str:
    """The notebook as it is stored."""
    return nbformat.writes(notebook).rstrip() + "\n"


def build(source: Path, *, retime: bool = False) -> float:
    """Build and store one lesson; returns the seconds that it took."""
    started = time.perf_counter()
    notebook, target = execute(source), target_of(source)
    if target.exists() and not retime:
        keep_timed(notebook, nbformat.read(target, as_version=4))
    write_atomically(target, text_of(notebook).encode())
    return time.perf_counter() - started


def keep_timed(notebook: NotebookNode, stored: NotebookNode) -> None:
    """Give timed cells the outputs they had, if none of them has changed since."""
    new, old = (
        [cell for cell in each.cells if "timed" in cell.metadata.get("tags", [])]
        for each in (notebook, stored)
    )
    if [cell.source for cell in new] == [cell.source for cell in old]:
        for cell, before in zip(new, old, strict=True):
            cell.outputs = before.outputs


def _environment(private: str) -> dict[str, str]:
    """One thread, our packages, and nothing of the user's own settings."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(FOLDER.parents[1]),
        "IPYTHONDIR": private,
        "MATPLOTLIBRC": str(Path(matplotlib.get_data_path()) / "matplotlibrc"),
    }


def _joined(outputs: list[Any]) -> list[Any]:
    """The outputs; what was printed in pieces, as the kernel happened to send it, in one."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _cleaned(output: Any, source: Path, cell: Any) -> Any:
    """One output, words in place of a live widget; BuildError if it cannot be the same again."""
    where = f"{source.name}, {cell.id} ({cell.source.strip().splitlines()[-1]})"
    if output.output_type == "stream" and output.name == "stderr":
        raise BuildError(f"{where} writes to stderr: {output.text.strip()[:300]}")
    data = output.get("data", {})
    if WIDGET in data:  # its static twin stands in the cell above
        output.data = data = nbformat.from_dict({"text/plain": INTERACTIVE})
    shown = output.get("text", "") + "".join(v for k, v in data.items() if k.startswith("text/"))
    if re.search(r"\bat 0x[0-9a-f]+", shown):
        raise BuildError(
            f"{where} shows a memory address, which differs each time; end it with plt.show()"
        )
    return output


def write_html(source: Path, folder: Path) -> Path:
    """Write a stored lesson as one HTML page, answers and imports folded; returns its path."""
    from nbconvert import HTMLExporter  # comes with JupyterLab; a second to import

    page, _ = HTMLExporter(raw_template=PAGE).from_filename(str(target_of(source)))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{source.stem}.html"
    write_atomically(target, page.encode())
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the lessons from notebooks/lessons/src.")
    parser.add_argument("--only", nargs="*", default=[], help="numbers, for example 02 05")
    parser.add_argument("--jobs", type=int, default=1, help="lessons at once")
    parser.add_argument("--retime", action="store_true", help="replace stored timings")
    parser.add_argument("--html", type=Path, help="write the stored lessons as pages, run nothing")
    options = parser.parse_args(arguments)
    chosen = [path for path in sources() if not options.only or path.name[:2] in options.only]
    if unknown := set(options.only) - {path.name[:2] for path in chosen}:
        numbers = ", ".join(path.name[:2] for path in sources())
        print(f"no lesson {', '.join(sorted(unknown))}; use some of {numbers}", file=sys.stderr)
        return 2
    if options.html:
        for path in chosen:
            print(write_html(path, options.html))
        return 0
    with ThreadPoolExecutor(options.jobs) as pool:
        running = {path: pool.submit(build, path, retime=options.retime) for path in chosen}
        failed = False
        for path, future in running.items():
            try:
                print(f"{target_of(path).name}: {future.result():.0f} s", flush=True)
            except BuildError as error:
                print(error, file=sys.stderr)
                failed = True
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
