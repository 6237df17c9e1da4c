"""A gate in a file of the user's own, from the command line to the report; its source in ids."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ablation_tasks import TINY, changed, facts, wait_until
from pandas.testing import assert_frame_equal

import posmlp
from ablations import cli, read_grid, run
from ablations.grid.costs import costs
from ablations.grid.grid import Grid
from ablations.store.store import Store
from analysis.bias.maps import bias_maps
from analysis.cost.costs import counts
from posmlp import cli as posmlp_cli
from posmlp.export import export
from posmlp.own import code
from posmlp.train.population import Population

pytestmark = pytest.mark.usefixtures("forks")

GATE = """from torch import nn, zeros
from posmlp.positions import relative_position_index
class Mine(nn.Module):
    def __init__(self, dim, window, num_groups, start=0.0):
        super().__init__()
        self.table = nn.Parameter(start + zeros(1, *(2 * w - 1 for w in window)))
        self.index = relative_position_index(window, "cpu")
    def relation(self):
        return self.table.flatten(1)[:, self.index]
    def forward(self, h):
        return self.relation()[0] @ h[..., : h.shape[-1] // 2] * h[..., h.shape[-1] // 2 :]
"""
PEER = """from torch import nn
class Peer(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(3, num_classes)
    def forward(self, clips):
        return super().forward(clips.mean((2, 3, 4)))
"""
NAME = "my_gates.py:Mine"
ROOT = Path(__file__).parents[2]
PEERS = ROOT / "ablations/grids/peers.yaml"
README = (ROOT / "posmlp/README.md").read_text()
BARS = next(b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "class Bars" in b)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the gate, in a process that trusts no code."""
    (tmp_path / "my_gates.py").write_text(GATE)
    (tmp_path / "my_bars.py").write_text(BARS)
    monkeypatch.setattr(code, "_TRUSTED", set())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def grid_of(**base: Any) -> dict[str, Any]:
    gates = {"gate": ["lrpe", "dense", NAME]}
    return changed(gate_options={"start": 0.5}, **base) | {"axes": gates, "seeds": 1}


def ids(grid: Grid) -> list[str]:
    return [cell.id for cell in grid.cells]


def test_own_gate_data_metric_and_augmentation_go_from_files_to_the_report(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = folder / "there/grid.yaml", folder / "out"
    path.parent.mkdir()
    gates = {"gate": ["lrpe", "dense", f"../{NAME}"]}
    expected = {"expect": [{"gate": f"../{NAME}", "verdict": "worse"}]}
    expected |= {"metrics": ["../my_bars.py:sureness"], "metric": ["test_sureness", "test_top1"]}
    grid = grid_of(
        data="../my_bars.py:Bars", train={"epochs": 8, "augment": "../my_bars.py:darker"}
    )
    path.write_text(json.dumps(grid | {"axes": gates} | expected))
    words = [sys.executable, "-m", "ablations.cli", "run", str(path), "--out", str(out)]
    runner = subprocess.Popen([*words, "--workers", "2", "--device", "cpu", "--quiet"])
    mine = read_grid(path).cells[2]
    begun = Store(out).run_folder(mine.id, 0)
    wait_until(lambda: (begun / "state.safetensors").exists() or runner.poll() is not None)
    runner.kill()
    runner.wait()
    table = run(path, out, workers=2, device="cpu", progress=False)  # goes on in the middle
    assert table.status.tolist() == ["done"] * 3
    assert table.gate.tolist() == ["lrpe", "dense", NAME]
    assert table.test_sureness.between(0.5, 1).all()
    assert (begun / "my_gates.py").read_text() == (out / "my_gates.py").read_text() == GATE
    code._TRUSTED.clear()
    assert cli.main(["repeat", str(out), mine.id, "--seed", "0"]) == 2
    assert "brings code, my_gates.py" in capsys.readouterr().err
    assert cli.main(["repeat", str(out), mine.id, "--seed", "0", "--trust-code"]) == 0
    assert "the same to the last bit" in capsys.readouterr().out
    assert cli.main(["report", str(out), "--trust-code"]) == 0
    page = (out / "report.html").read_text()
    assert "learned temporal bias" in page
    assert "sureness on test clips" in page
    assert (out / "my_bars.py").read_text() == (begun / "my_bars.py").read_text() == BARS
    assert cli.main(["publish", str(out), "kept"]) == 0
    assert ids(read_grid("kept/grid.yaml")) == table.id.tolist()
    code._TRUSTED.clear()
    assert posmlp_cli.main(["export", str(begun / "model-seed0.safetensors"), "mine.pt2"]) == 2
    assert "class Mine(nn.Module):" in capsys.readouterr().err
    loaded = posmlp.load(begun, trust_code=True)
    assert loaded.config.gate_options == {"start": 0.5}
    assert export(loaded, "mine.pt2") <= 1e-5
    learned = bias_maps(loaded)["bias"]
    assert (learned != 0.5).all()
    assert counts(mine.config)["params"] == table.params[2] == costs(mine.config)["params"]


def test_source_is_in_the_id_and_its_place_is_not(folder: Path) -> None:
    at = folder / "elsewhere"
    at.mkdir()
    grid = grid_of()
    before = ids(read_grid(grid))
    plain = TINY | {"axes": {"gate": ["lrpe", "dense"]}, "seeds": 1}
    assert before[:2] == ids(read_grid(plain)), "built-in gates beside an own one keep their ids"
    shutil.copy("my_gates.py", at)
    (at / "grid.yaml").write_text(json.dumps(grid))
    assert ids(read_grid(at / "grid.yaml")) == before
    mine = read_grid(grid).cells[2].config
    assert read_grid({"base": mine.to_dict()}).cells[0].config == mine
    (at / "my_gates.py").write_text(GATE + "# another\n")
    edited = ids(read_grid(at / "grid.yaml"))
    own = [grid_of(data="my_bars.py:Bars"), grid_of() | {"metrics": ["my_bars.py:sureness"]}]
    before_edit = [ids(read_grid(each)) for each in own]
    assert not set(before).intersection(*before_edit)
    (folder / "my_bars.py").write_text(BARS + "# another\n")
    assert all(not {*ids(read_grid(e))} & {*b} for e, b in zip(own, before_edit, strict=True))
    assert [a == b for a, b in zip(edited, before, strict=True)] == [True, True, False]
    both = grid | {"axes": {"gate": [NAME, "elsewhere/my_gates.py:Mine"]}}
    with pytest.raises(ValueError, match=r"grid:\d+:\d+: .*two files are called my_gates.py"):
        read_grid(both)


def test_own_gate_is_matched_and_a_whole_model_is_a_cell(folder: Path) -> None:
    (folder / "peers.py").write_text(PEER)
    match = {"axes": {"gate": ["lrpe", NAME]}, "match": "gmacs", "baseline": {"gate": NAME}}
    lrpe, mine = read_grid(changed() | match).cells
    assert lrpe.match.asked == costs(mine.config)["gmacs"] > 0
    assert abs(lrpe.match.difference) < 1e-9, "mixing by a relation costs what it does in lrpe"
    cells = read_grid(TINY | {"axes": {"model": ["posmlp", "peers.py:Peer"]}}).cells
    assert [cell.name for cell in cells] == ["model=posmlp", "model=peers.py:Peer"]
    assert costs(cells[1].config) == {"params": 14 * 4, "gmacs": 14 * 3e-9, "relation_params": 0}


@pytest.mark.parametrize(
    ("base", "gate", "told"),
    [
        ({}, "absent.py:Mine", r"grid:\d+:\d+: .*names no file"),
        ({"gate_options": {"stop": 1}}, NAME, r"cell .* is impossible: .*start=0.0.*'stop'"),
        ({"gate_options": 3}, NAME, r"grid:\d+:\d+: gate_options=3 must be a mapping"),
        ({"code": {"my_gates.py": "0"}}, NAME, "code holds not what my_gates.py does"),
        ({"data": "my_bars.py:Bar"}, NAME, r"cell .* is impossible: .*'Bar'.*Did you mean 'Bars'"),
        ({"train": {"metrics": "my_bars.py:sureness"}}, NAME, r"metrics=.* must be a list"),
    ],
)
def test_grid_says_where_an_own_gate_cannot_be(base: dict[str, Any], gate: str, told: str) -> None:
    grid = changed(**base) | {"axes": {"gate": ["lrpe", gate]}}
    with pytest.raises(ValueError, match=told):
        read_grid(grid).check_data()


def test_options_are_an_axis_and_seeds_advance_together(folder: Path) -> None:
    grid = changed(gate=NAME) | {"axes": {"gate_options": [{}, {"start": 1.0}]}, "seeds": 2}
    alone = run(grid, "alone", device="cpu", progress=False)
    assert alone["gate_options"].tolist() == ["", "", "start:1", "start:1"]
    together = run(grid, "together", device="cpu", together=2, progress=False)
    same = ["id", "seed", "params", "test_loss", "test_top1"]
    assert_frame_equal(facts(alone)[same], facts(together)[same])
    (copied,) = {p.read_text() for p in Path("together").glob("cells/*/seed*/my_gates.py")}
    assert copied == GATE


def test_peers_are_of_the_toys_size_and_learn_in_a_population() -> None:
    grid = read_grid(PEERS)
    size = sum(p.numel() for p in posmlp.create_model(grid.baseline.config).parameters())
    for cell in grid.cells:
        model = posmlp.create_model(cell.config)
        assert abs(sum(p.numel() for p in model.parameters()) / size - 1) < 0.15, cell.name
    shift = next(cell for cell in grid.cells if "Shift" in cell.name)
    both = Population(shift.config, [0, 1], vectorised=True)
    gradients, _, logits = both.gradients(torch.randn(2, 3, 3, 8, 32, 32), torch.ones(2, 3).long())
    assert both.vectorised
    assert logits.shape == (2, 3, 14)
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
