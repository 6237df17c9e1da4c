"""Public names are the documented objects, whatever was imported before them."""

from __future__ import annotations

import ast
import importlib
import os
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("posmlp", "ablations", "analysis")
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
