"""The house: who may import whom, nothing in circles, rooms of a size to live in, quick starts.

Each package stands on floors. A line of `HOUSE` is a room, which is a folder or a single file, and
the rooms of its package that it may import. A room names only rooms of lines below its own. Public
names are the documented objects, whatever was imported before them.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import pytest

HOUSE = {
    "ablations": {
        "__main__": "cli",
        "cli": "run repeat bench plan report engines progress store commands",
        "bench": "run plan report engines progress store grid",
        "run": "plan engines progress store grid commands",
        "repeat": "engines store grid",
        "plan": "engines progress store grid",
        "engines": "store grid commands",
        "report": "store grid commands",
        "progress": "store grid",
        "store": "grid commands",
        "grid": "",
        "commands": "",
    },
    "analysis": {
        "__main__": "cli",
        "cli": "cli_speed page attribution explorer bias results arguments",
        "cli_speed": "speed arguments",
        "page": "speed attribution inside interventions results cost explorer bias figures",
        "speed": "results cost figures borrow",
        "attribution": "results figures borrow",
        "explorer": "inside interventions bias figures",
        "inside": "results bias figures borrow",
        "interventions": "results bias figures borrow",
        "results": "cost figures",
        "cost": "bias borrow",
        "bias": "figures borrow",
        "figures": "",
        "arguments": "",
        "borrow": "",
    },
    "posmlp": {
        "__main__": "cli",
        "cli": "pictures predict clip_scores settings train data export checkpoint model presets "
        "config own shapes",
        "pictures": "clip_scores predict train data checkpoint config shapes",
        "clip_scores": "predict train data checkpoint",
        "predict": "train data checkpoint model config",
        "tasks": "settings train data checkpoint config config_checks",
        "settings": "data presets config own config_checks",
        "train": "data checkpoint model gating parts presets config own config_checks shapes",
        "data": "checkpoint model config own config_checks shapes",
        "export": "checkpoint model config_checks shapes",
        "checkpoint": "model released config own config_checks shapes",
        "model": "gates gating parts presets config config_checks",
        "gates": "parts gating positions config config_checks",
        "gating": "parts positions config_checks",
        "parts": "own config config_checks",
        "positions": "",
        "released": "presets config",
        "presets": "config config_checks",
        "config": "own config_checks",
        "own": "config_checks",
        "config_checks": "",
        "shapes": "",
    },
    "posmlp.data": {
        "cli": "show speed time_need charts check playback digits clips user_cache",
        "show": "sources augment layouts sampling",
        "speed": "sources datasets clips files layouts user_cache",
        "time_need": "sources charts check digits files layouts sampling user_cache",
        "sources": "datasets clips digits files augment user_cache",
        "datasets": "check clips files layouts user_cache",
        "check": "clips files layouts user_cache",
        "clips": "files sampling",
        "playback": "files layouts sampling",
        "digits": "files user_cache",
        "files": "layouts user_cache",
        "layouts": "",
        "augment": "mirror randaugment",
        "sampling": "",
        "mirror": "",
        "randaugment": "",
        "charts": "",
        "user_cache": "",
    },
}
# The report draws what is stored; the plan says what effect the seeds can detect.
OTHER_PACKAGES = {
    "posmlp": "",
    "analysis": "posmlp",
    "ablations": "posmlp",
    "ablations.plan": "posmlp analysis",
    "ablations.report": "posmlp analysis",
}
MOST_FILES = 14

ROOT = Path(__file__).parents[1]
PACKAGES = ("posmlp", "ablations", "analysis")
Modules = Mapping[str, Path]
parsed = cache(ast.parse)


def modules_of(root: Path, packages: tuple[str, ...] = PACKAGES) -> dict[str, Path]:
    found = {}
    for package in packages:
        for path in (root / package).rglob("*.py"):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def is_package(path: Path) -> bool:
    return path.name == "__init__.py"


def imports(name: str, modules: Modules, *, lazy: bool) -> set[str]:
    """Our modules that a file names in an import; those within functions too if `lazy`.

    A package's lazy imports are those of its stub, which its `__init__` is made from.
    """
    path = modules[name]
    texts = [path.read_text()]
    stub = path.with_suffix(".pyi")
    if lazy and stub.exists():
        texts.append(stub.read_text())
    package = name if is_package(path) else name.rpartition(".")[0]
    found = set()
    for tree in map(parsed, texts):
        for node in ast.walk(tree) if lazy else at_import(tree):
            if isinstance(node, ast.ImportFrom):
                home = node.module or ""
                if node.level:
                    up = package.split(".")[: len(package.split(".")) - node.level + 1]
                    home = ".".join([*up, home] if home else up)
                below = {alias.name: f"{home}.{alias.name}" for alias in node.names}
                found |= {full if full in modules else home for full in below.values()}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    return found & set(modules)


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What is run when a file is imported: all but functions, and what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from at_import(child)


def room_of(module: str, house: Mapping[str, object]) -> tuple[str, str]:
    """The package of the table and the room in it; the room of a package's `__init__` is ''."""
    table = max((p for p in house if f"{module}.".startswith(f"{p}.")), key=len)
    return table, module.removeprefix(table).removeprefix(".").partition(".")[0]


def faults(
    modules: Modules,
    house: Mapping[str, Mapping[str, str]] = HOUSE,
    others: Mapping[str, str] = OTHER_PACKAGES,
) -> list[str]:
    """What the imports do against the table, a sentence each."""
    found = []
    for name, path in modules.items():
        for other in sorted(imports(name, modules, lazy=True)):
            if is_package(modules[other]) and not is_package(path):
                found.append(f"{name} imports the room {other}; import from the file that has it")
            elif not may_import(name, other, house, others):
                found.append(f"{name} imports {other}, which stands above it or beside it")
    return found


def may_import(
    name: str,
    other: str,
    house: Mapping[str, Mapping[str, str]],
    others: Mapping[str, str],
) -> bool:
    packages = name.split(".")[0], other.split(".")[0]
    if packages[0] != packages[1]:
        longest = max((key for key in others if f"{name}.".startswith(f"{key}.")), key=len)
        return packages[1] in others[longest].split()
    (table, room), (other_table, other_room) = room_of(name, house), room_of(other, house)
    while table != other_table:  # what stands in a room of a room is judged by the larger house
        if len(table) > len(other_table):
            table, room = room_of_package(table)
        else:
            other_table, other_room = room_of_package(other_table)
    return room in ("", other_room) or other_room in house[table][room].split()


def room_of_package(package: str) -> tuple[str, str]:
    parent, _, room = package.rpartition(".")
    return parent, room


def circles(modules: Modules) -> list[str]:
    """Files that import each other in a circle, at import time.

    Who imports a file also runs the `__init__` of each folder above it that it does not share.
    """

    def needed(name: str) -> set[str]:
        direct = imports(name, modules, lazy=False)
        above = {
            parent
            for other in direct
            for parent in parents(other)
            if parent in modules and not f"{name}.".startswith(f"{parent}.")
        }
        return (direct | above) - {name}

    found: list[str] = []
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            found.append(" -> ".join((*trail[trail.index(name) :], name)))
        elif name not in done:
            for other in sorted(needed(name)):
                visit(other, (*trail, name))
            done.add(name)

    for name in modules:
        visit(name, ())
    return found


def parents(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


MODULES = modules_of(ROOT)
ROOMS = sorted(name for name, path in MODULES.items() if is_package(path))


def test_rooms_import_only_what_they_may() -> None:
    assert faults(MODULES) == []


def test_no_file_imports_another_in_a_circle() -> None:
    assert circles(MODULES) == []


@pytest.mark.parametrize("package", HOUSE)
def test_table_names_each_room_once_and_only_rooms_below(package: str) -> None:
    folder = ROOT.joinpath(*package.split("."))
    rooms = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    rooms |= {path.parent.name for path in folder.glob("*/__init__.py")}
    assert set(HOUSE[package]) == rooms
    lines = list(HOUSE[package])
    for number, (room, allowed) in enumerate(HOUSE[package].items()):
        assert set(allowed.split()) <= set(lines[number + 1 :]), room


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"low/file.py": "from home.high.file import x"}, "home.low.file imports home.high.file"),
        ({"low/file.py": "def f():\n    import home.high.file"}, "home.low.file imports"),
        ({"low/__init__.py": "from home.high.file import x"}, "home.low imports home.high.file"),
        ({"low/__init__.pyi": "from ..high.file import x as x"}, "home.low imports"),
        ({"low/file.py": "from home import high"}, "home.low.file imports the room home.high"),
        ({"high/other.py": "from home.low import x"}, "home.high.other imports the room home.low"),
        ({"high/other.py": "from home.low import file"}, None),
        ({"high/other.py": "from home.low.file import x"}, None),
    ],
)
def test_checker_sees_an_edge_wherever_it_hides(
    tmp_path: Path, files: dict[str, str], told: str | None
) -> None:
    found = faults(fake(tmp_path, files), {"home": {"high": "low", "low": ""}}, {"home": ""})
    assert len(found) == (told is not None)
    assert not told or found[0].startswith(told)


def test_checker_sees_a_circle_through_an_init(tmp_path: Path) -> None:
    files = {
        "high/file.py": "from home.low.file import x",
        "low/__init__.py": "import home.high.file",
    }
    assert circles(fake(tmp_path, files)) == ["home.high.file -> home.low -> home.high.file"]
    lazy = {"low/__init__.py": "def f():\n    import home.high.file"}
    assert circles(fake(tmp_path, files | lazy)) == []


def fake(root: Path, files: dict[str, str]) -> dict[str, Path]:
    empty = ("__init__.py", "high/__init__.py", "high/file.py", "low/__init__.py", "low/file.py")
    for name, text in ({name: "" for name in empty} | files).items():
        path = root / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return modules_of(root, ("home",))


@pytest.mark.parametrize("room", ROOMS)
def test_room_is_of_a_size_to_live_in_and_says_what_to_read_first(room: str) -> None:
    folder = MODULES[room].parent
    code = [path for suffix in ("py", "js") for path in folder.glob(f"*.{suffix}")]
    assert len(code) - 1 <= MOST_FILES  # but for `__init__.py`
    said = ast.get_docstring(ast.parse(MODULES[room].read_text())) or ""
    first = re.search(r"[Rr]ead (?:it first|`([\w./]+)`)", said.replace("\n", " "))
    assert first, said
    for name in re.findall(r"`(\w+\.(?:py|js)|[\w/]+/)`", said):
        assert (folder / name).exists(), name


HEAVY = ("torch", "pandas", "matplotlib", "scipy", "fvcore")


@pytest.mark.parametrize("name", ["posmlp.presets", *(f"{each}.cli" for each in PACKAGES), "rooms"])
def test_import_needs_nothing_heavy(name: str) -> None:
    names = ROOMS if name == "rooms" else [name]
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
    found = {set(HEAVY)} & set(sys.modules)
    assert not found, f"{{name}} imports {{found}}"
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


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


# Public names

STUBS = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.pyi"))
ORDERS = (
    "import ablations, analysis, posmlp",
    "import ablations.plan, ablations.run, analysis.cost, posmlp.train",
    "import ablations.plan.planned, ablations.plan.probe, ablations.cli",
    "import analysis.cost.costs, analysis.cost.count, analysis.bias.draw_bias",
    "import posmlp.train.fitting, posmlp.train.loop, posmlp.cli",
    "from ablations import run, plan; from analysis import cost; from posmlp import fit",
    "from ablations.plan import plan, probe; from ablations.run import run, part",
    "from analysis.cost import count, cost, memory; from posmlp.train import fit, loop",
)


NAMES = """
import ablations.plan.prediction, analysis.cost.memory, posmlp.train.loop
from ablations.plan.planned import plan
from ablations.run import run
from analysis.cost.costs import cost
from posmlp.train.fitting import fit
assert ablations.plan is plan and ablations.run is run
assert analysis.cost is cost and posmlp.fit is fit
from ablations.plan import plan as from_room
assert from_room is plan
from analysis.cost import cost as from_room
assert from_room is cost
from posmlp.train import fit as from_room
assert from_room is fit
from ablations import plan as from_package, run as other
assert from_package is plan and other is run
from analysis import cost as from_package
assert from_package is cost
"""


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_every_public_name_is_that_of_its_file(stub: Path) -> None:
    package = ".".join(stub.parent.relative_to(ROOT).parts)
    room = importlib.import_module(package)
    names = []
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            home = importlib.import_module(f"{package}.{node.module}")
            for alias in node.names:
                assert alias.asname == alias.name  # else it is not public to a type checker
                assert getattr(room, alias.name) is getattr(home, alias.name)
                names.append(alias.name)
    assert sorted(names) == room.__all__
    with pytest.raises(AttributeError, match="kost"):
        room.kost  # noqa: B018


def import_in_order(first: str) -> None:
    """Import ours anew; what takes the time stays as the tests above have imported it."""
    for name in list(sys.modules):
        if name.partition(".")[0] in PACKAGES:
            del sys.modules[name]
    exec(first + NAMES, {})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process for each order")
@pytest.mark.parametrize("first", ORDERS)
def test_a_function_wins_over_a_room_and_a_file_of_its_name(first: str) -> None:
    process = get_context("fork").Process(target=import_in_order, args=(first,))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_names_of_the_contract_are_there() -> None:
    train = "fit evaluate TrainConfig score predict metrics normalise learning_rate Optimiser"
    assert set(train.split()) < set(importlib.import_module("posmlp.train").__all__)
    assert importlib.import_module("ablations").__all__ == [
        *("Cell", "Grid", "GridError", "compare", "load", "plan", "read_grid", "run"),
    ]
