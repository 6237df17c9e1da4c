"""The house: who may import whom, nothing in circles, and quick starts."""

from __future__ import annotations

import ast
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("posmlp", "ablations", "analysis")
MAY_IMPORT = {
    "posmlp": {"posmlp"},
    "ablations": {"ablations", "posmlp"},
    "analysis": {"analysis", "posmlp"},
}
# The report draws what is stored; the plan says what effect the seeds can detect.
REPORT = ("ablations.report", "ablations.cli", "ablations.plan")


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path, *, lazy: bool) -> set[str]:
    """Our modules that a file imports; only at its top level unless `lazy`."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if lazy else ast.iter_child_nodes(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_rooms_import_only_what_they_may(module):
    allowed = set(MAY_IMPORT[module.split(".")[0]])
    if module.startswith(REPORT):
        allowed.add("analysis")
    for other in imports(MODULES[module], lazy=True):
        assert other.split(".")[0] in allowed, f"{module} imports {other}"


def test_no_file_imports_another_in_a_circle():
    graph = {
        name: {other for other in imports(path, lazy=False) if other != name}
        for name, path in MODULES.items()
        if path.name != "__init__.py"  # these export lazily
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", ["posmlp", "posmlp.cli", "posmlp.config", "ablations", "analysis"])
def test_import_needs_no_torch(name):
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_committed_is_large_or_names_a_machine_path():
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.split():
        path = ROOT / name
        if path.exists():
            assert path.stat().st_size < 3_000_000, name


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by bare name, so that two of one name stop the whole run."""
    names = sorted(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, other in pairwise(names) if name == other] == []
