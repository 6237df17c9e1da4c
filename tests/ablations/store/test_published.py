"""A published folder: what is packed comes out again, damage is named, every command reads it."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ablation_tasks import TINY, facts
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

import ablations
import analysis.cli
from ablations.cli import main
from ablations.report.data import Study
from ablations.report.publish import publish
from ablations.store.files import read_json, write_json
from ablations.store.published import Published, pack
from ablations.store.store import Store, StoreError
from analysis.results.curves import gather_curves

STORED = Path(ablations.__file__).with_name("results")
PLAIN = st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f\x85")
WORDS = st.text(PLAIN, min_size=1, max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.just("")
CONFIGS = st.dictionaries(WORDS, st.integers() | WORDS | st.none(), max_size=3)


@st.composite
def trainings(draw: st.DrawFn) -> list[tuple[dict[str, Any], dict[str, Any] | None, str | None]]:
    """Of two cells: results, their config.json and metrics.csv, some of them without either."""
    places = st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 3), st.integers(0, 1))
    found = []
    for cell, seed, repeat in draw(st.lists(places, unique=True, max_size=6)):
        config = draw(st.none() | CONFIGS)
        names = draw(st.lists(st.sampled_from(["lr", "top1", "loss"]), unique=True))
        epochs = draw(st.integers(0, 3))
        rows = [[str(e + 1), str(seed), *(draw(NUMBERS) for _ in names)] for e in range(epochs)]
        text = io.StringIO()
        csv.writer(text).writerows([["epoch", "seed", *names], *rows])
        result = {"cell": cell, "seed": seed, "repeat": repeat, "reason": draw(WORDS)}
        result |= {"metrics": {"top1": draw(st.floats(0, 1))}, "environment": draw(CONFIGS)}
        own = None if config is None else config | {"seeds": [seed]}
        found.append((result, own, text.getvalue() if rows else None))
    return found


def rows_of(text: str | None) -> list[dict[str, str]]:
    """The values that a table has, whichever columns are empty."""
    return [{k: v for k, v in row.items() if v} for row in csv.DictReader(io.StringIO(text or ""))]


@given(trainings(), WORDS)
def test_what_is_packed_is_what_is_read(tmp_path_factory, found, name):
    root = tmp_path_factory.mktemp("packed")
    cells = {key: {"name": f"{name} {key}", "axes": {}} for key in ("a", "b")}
    classes = "variant,seed,class,top1\nx,0,left,0.25\n"
    for file, content in pack({"seeds": [0]}, cells, found, classes).items():
        (root / file).write_bytes(content)
    (root / "grid.yaml").touch()
    published = Published(root)
    assert published.json(root / "plan.json") == {"seeds": [0]}
    assert {key: published.json(root / f"cells/{key}/cell.json") for key in cells} == cells
    assert published.table(root / "classes.csv") == classes
    for result, config, metrics in found:
        run = Store(root).run_folder(result["cell"], result["seed"], result["repeat"])
        read = published.json(run / "result.json")
        assert read == result if result["environment"] else read | {"environment": {}} == result
        assert rows_of(published.table(run / "metrics.csv")) == rows_of(metrics)
        if config is None:
            with pytest.raises(FileNotFoundError):
                published.json(run / "config.json")
        else:
            assert published.json(run / "config.json") == config


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ablation") / "out"
    ablations.run(TINY, out, device="cpu", progress=False)
    return out


@pytest.fixture(scope="module")
def kept(ablation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(ablation, tmp_path_factory.mktemp("published") / "kept")


@pytest.fixture
def copied(kept: Path, tmp_path: Path) -> Path:
    shutil.copytree(kept, tmp_path / "kept")
    return tmp_path / "kept"


def without(key: str) -> Callable[[bytes], bytes]:
    def left(content: bytes) -> bytes:
        return json.dumps({k: v for k, v in json.loads(content).items() if k != key}).encode()

    return left


def with_training(**wrong: Any) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        value = json.loads(content)
        value["trainings"][1] |= wrong
        return json.dumps(value).encode()

    return changed


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "no cells": ("cells.json", lambda _: None, "cells.json is missing"),
    "cut": ("cells.json", lambda content: content[:99], "cells.json is not JSON"),
    "list": ("cells.json", lambda _: b"[]", "cells.json holds no JSON object"),
    "no plan": ("cells.json", without("plan"), "cells.json is damaged (plan is missing)"),
    "config": ("cells.json", with_training(config=9), "damaged (trainings[1].config is 9)"),
    "cell": ("cells.json", with_training(cell="no"), "damaged (trainings[1].cell is 'no')"),
    "no curves": ("curves.csv", lambda _: None, "curves.csv is missing"),
    "no grid": ("grid.yaml", lambda _: None, "grid.yaml is missing"),
}
COMMANDS = {
    "status": [],
    "why": ["gate=lrpe"],
    "report": [],
    "repeat": ["gate=lrpe", "--seed", "0"],
    "publish": ["elsewhere"],
}


def damage(path: Path, change: Callable[[bytes], bytes | None]) -> None:
    content = change(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(("kind", "command"), list(zip(DAMAGE, cycle(COMMANDS))))
def test_damage_is_one_line_with_file_and_mend(
    kind: str, command: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, change, said = DAMAGE[kind]
    damage(copied / name, change)
    assert main([command, str(copied), *COMMANDS[command]]) == 2
    told = capsys.readouterr().err
    assert str(copied / name) in told
    assert said in told
    assert "put back what was published there, or publish the run again" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("command", ["report", "publish"])
def test_curves_that_lost_a_line_are_not_taken_for_whole(
    command: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copied / "curves.csv", lambda content: content[: content.rindex(b"\n", 0, -1) + 1])
    assert main([command, str(copied), *COMMANDS[command]]) == 2
    told = capsys.readouterr().err
    assert f"{copied / 'curves.csv'} is not the one that cells.json was published with; put" in told
    grid = TINY | {"seeds": 1}
    with pytest.raises(StoreError, match=r"curves\.csv is not the one"):
        ablations.run(grid, copied.parent / "run", device="cpu", reuse=copied, progress=False)


def histories(folder: Path) -> pd.DataFrame:
    study = Study.open(folder, 2.0)
    return study.histories(study.labels.values())


def test_ends_of_lines_may_change(copied: Path) -> None:
    before = histories(copied)
    for name in ("curves.csv", "cells.json"):
        damage(copied / name, lambda content: content.replace(b"\n", b"\r\n"))
    pd.testing.assert_frame_equal(histories(copied), before)


def test_damage_inside_a_training_or_cell_is_named(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_json(copied / "cells.json")
    cell_id = content["plan"]["baseline"]
    content["trainings"][0] |= {"metrics": {"test_top1": "high"}}
    del content["cells"][cell_id]["axes"]
    write_json(copied / "cells.json", content)
    assert main(["status", str(copied)]) == 0
    said = capsys.readouterr().out
    assert "4 trainings: 3 done, 1 damaged" in said
    assert f"cells.json (cells/{cell_id}/seed0/result.json) is no whole result" in said
    assert main(["repeat", str(copied), cell_id, "--seed", "0"]) == 2
    assert f"(cells/{cell_id}/cell.json) is damaged (axes is missing)" in capsys.readouterr().err


def test_status_and_why_of_a_published_folder(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(copied)]) == 0
    assert capsys.readouterr().out == f"{copied}: 4 trainings: 4 done\n"
    content = read_json(copied / "cells.json")
    failed = {"status": "failed", "failure": "exception", "reason": "bad luck", "metrics": {}}
    content["trainings"][0] |= failed
    write_json(copied / "cells.json", content)
    assert main(["status", str(copied)]) == 0
    said = capsys.readouterr().out
    assert f"again: {content['plan']['command']} --reuse {copied}" in said
    assert main(["why", str(copied), "gate=lrpe", "--seed", "0"]) == 0
    said = capsys.readouterr().out
    assert "bad luck" in said
    assert f"repeat it with: ablations repeat {copied} " in said


def test_status_of_a_published_folder_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ablations.cli import main\nmain(sys.argv[1:])\n"
        "heavy = {'torch', 'pandas', 'numpy', 'yaml', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    for words in (["status", str(STORED / "gates")], ["why", str(STORED / "gates"), "gate=mean"]):
        subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)


def test_trainings_are_taken_over_from_a_published_folder(
    ablation: Path, kept: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    table = ablations.run(TINY, out, device="cpu", reuse=kept, progress=False)
    assert set(table["reused_from"]) == {str(kept)}
    before = facts(ablations.load(ablation)).drop(columns="reused_from")
    pd.testing.assert_frame_equal(facts(table).drop(columns="reused_from"), before)
    of_runs = [histories(folder) for folder in (out, ablation)]
    pd.testing.assert_frame_equal(*of_runs)
    pd.testing.assert_frame_equal(gather_curves(out), gather_curves(ablation))


def test_no_run_writes_to_a_published_folder(kept: Path) -> None:
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    with pytest.raises(
        StoreError, match=r"published grid, .* take its trainings over with --reuse"
    ):
        ablations.run(TINY, kept, progress=False)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


def test_repeat_of_a_published_training_finds_the_same_bits(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["repeat", str(kept), "gate=lrpe", "--seed", "1"]) == 0
    assert "the same to the last bit" in capsys.readouterr().out


def test_curves_of_a_published_folder_are_those_of_its_runs(
    ablation: Path,
    kept: Path,
    tmp_path: Path,
    rendered: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Figure, "savefig", rendered)
    keys = ["variant", "seed", "epoch"]
    run, published = (gather_curves(folder).sort_values(keys) for folder in (ablation, kept))
    pd.testing.assert_frame_equal(
        published.reset_index(drop=True)[list(run)], run.reset_index(drop=True)
    )
    assert analysis.cli.main(["curves", str(kept), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "learning-curves.png").stat().st_size > 1000


@pytest.mark.parametrize("kind", ["cut", "no plan", "columns"])
def test_analysis_names_the_damaged_file(
    kind: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, change = {
        "cut": ("cells.json", lambda content: content[:99]),
        "no plan": ("cells.json", without("cells")),
        "columns": ("curves.csv", lambda content: content.replace(b"repeat", b"again")),
    }[kind]
    damage(copied / name, change)
    assert analysis.cli.main(["curves", str(copied)]) == 2
    told = capsys.readouterr().err
    assert f"{copied / name} is damaged (" in told
    assert told.count("\n") == 1


def test_what_needs_weights_says_that_a_published_folder_has_none(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["learned", str(kept), "--out", str(tmp_path)], ["classes", str(kept)]):
        assert analysis.cli.main(words) == 2
        assert (
            "is a published grid without models; give its run's folder" in capsys.readouterr().err
        )
