"""Train one stored cell again, in another folder, and compare what comes out."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ablations.engines.dispatch import Engine
from ablations.engines.job import Training
from ablations.engines.worker import Place
from ablations.grid import weights
from ablations.grid.datasets import describe
from ablations.grid.description import described_cell
from ablations.grid.grid import Cell, Job
from ablations.store.files import write_json
from ablations.store.status import find_cell
from ablations.store.store import Store
from posmlp.own.code import admit


def repeat(
    out: str | Path,
    cell: str,
    seed: int,
    *,
    device: str = "cpu",
    num_threads: int = 1,
    to: str | Path | None = None,
) -> tuple[str, bool]:
    """Train a stored cell again; a comparison in words, and whether all metrics are the same bits.

    `cell`: id, start of an id, or name. `to`: a folder that keeps the run. Raises ValueError if
    there is no such cell, what is stored of it is lost, or its data, or the model file that it
    starts from, have changed.
    """
    place = Place(0, Engine(device=device, num_threads=num_threads).here(), num_threads)
    store = Store(out)
    plan = store.plan()
    if not 0 <= seed < 2**63:
        seeds = ", ".join(map(str, plan["seeds"]))
        raise ValueError(
            f"seed={seed} must be at least 0 and below 2**63; the seeds of this run are {seeds}"
        )
    cell_id = find_cell(plan, cell)["id"]
    job = Job((_cell(store, cell_id, seed),), (seed,))
    if to is not None:
        return _repeat(store, job, place, Path(to))
    with tempfile.TemporaryDirectory() as folder:
        return _repeat(store, job, place, Path(folder))


def _cell(store: Store, cell_id: str, seed: int) -> Cell:
    stored, (config, train) = store.cell(cell_id), store.configs(cell_id)
    admit(config.code | train.code, f"{store.root}, cell {stored['name']},")
    data = describe(stored["data"]["spec"], train.code)
    if data.identity != stored["data"]["identity"]:
        raise ValueError(f"{data.spec} holds other clips than those that this run was trained on")
    init_sha256 = stored.get("init_sha256") or store.trained_from(cell_id, seed)
    weights.check_unchanged(train.init_from, init_sha256)
    return Cell(stored["name"], config, train, data, stored["axes"], init_sha256=init_sha256)


def _repeat(store: Store, job: Job, place: Place, to: Path) -> tuple[str, bool]:
    if to.is_file() or (to.exists() and any(to.iterdir())):
        raise ValueError(f"{to} is no empty folder; give a new one")
    ((cell, seed),) = job.trainings
    with Store(to).written():
        write_json(Store(to).cell_path(cell.id), described_cell(cell))
    (new,) = Training(to)(job, place)
    old = store.result(cell.id, seed)
    if new["status"] == "failed":
        return f"{job} failed: {new['reason']}\n{new['traceback'] or ''}", False
    if old is None or old["status"] == "failed":
        return f"{job}: {new['metrics']}; there is no finished result to compare with", True
    lines = [
        f"{name}: {old['metrics'].get(name)!r} stored, {value!r} now"
        for name, value in new["metrics"].items()
    ]
    same = new["metrics"] == old["metrics"]
    verdict = "the same to the last bit" if same else "not the same"
    return "\n".join([*lines, f"{job}: {verdict}"]), same
