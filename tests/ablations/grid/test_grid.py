"""The grid file: what becomes a cell, what its id depends on, and what is refused, and where."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ablations
import posmlp
from ablations import GridError, plan, read_grid
from ablations.grid.costs import costs
from ablations.grid.datasets import describe
from ablations.grid.matching import matched
from ablations.grid.settings import content_hash, identity, meant
from ablations.store.store import Store
from analysis.cost.costs import cost
from posmlp import PRESETS, PosMLPConfig, TrainConfig
from posmlp.config_checks import GATE_NAMES
from posmlp.settings import configs

GRID: dict[str, Any] = {
    "base": {"preset": "toy", "train": {"epochs": 2}},
    "axes": {"gate": ["lrpe", "dense", "mean"], "layout": ["T+S", "S"]},
    "seeds": [3, 5],
    "baseline": {"gate": "dense", "layout": "T+S"},
}


def names(grid: dict[str, Any]) -> list[str]:
    return [cell.name for cell in read_grid(grid).cells]


def test_full_design_is_every_combination() -> None:
    grid = read_grid(GRID)
    assert {(c.config.gate, c.config.layout) for c in grid.cells} == {
        (gate, layout) for gate in ("lrpe", "dense", "mean") for layout in ("T+S", "S")
    }
    assert all(cell.train == TrainConfig(epochs=2) for cell in grid.cells)
    assert grid.baseline.name == "gate=dense layout=T+S"


def test_jobs_are_the_baseline_then_seed_major() -> None:
    jobs = read_grid(GRID).jobs
    assert [(job.cells[0].name, job.seeds[0]) for job in jobs[:2]] == [
        ("gate=dense layout=T+S", 3),
        ("gate=dense layout=T+S", 5),
    ]
    assert (jobs[2].cells, jobs[2].seeds, jobs[2].repeat) == (jobs[0].cells, (3,), 1)
    assert [job.seeds for job in jobs[3:]] == [(3,)] * 5 + [(5,)] * 5
    assert len({(job.cells, job.seeds) for job in jobs}) == 12
    assert not any(job.repeat for job in read_grid(GRID | {"repeat": False}).jobs)


def test_one_at_a_time_leaves_the_baseline_in_one_factor() -> None:
    assert names(GRID | {"design": "one-at-a-time"}) == [
        "gate=dense layout=T+S",
        "gate=lrpe layout=T+S",
        "gate=mean layout=T+S",
        "gate=dense layout=S",
    ]


def test_zipped_axes_move_together() -> None:
    together = {"num_frames": [8, 16], "train.lr": [2e-3, 1e-3]}
    cells = read_grid({"axes": {"gate": ["lrpe", "mean"]}, "zip": [together]}).cells
    assert [(c.config.gate, c.config.num_frames, c.train.lr) for c in cells] == [
        ("lrpe", 8, 2e-3),
        ("lrpe", 16, 1e-3),
        ("mean", 8, 2e-3),
        ("mean", 16, 1e-3),
    ]
    assert cells[1].config.temporal_windows == (16,) * 4


def test_random_axes_draw_the_same_values_everywhere_and_more_keep_fewer() -> None:
    rates = {"log_uniform": [1e-4, 1e-2], "n": 4}
    both = {"train.lr": rates, "train.batch_size": {"int_uniform": [8, 11], "n": 4}}
    cells = read_grid({"zip": [both]}).cells
    found = [cell.train.lr for cell in cells]
    assert found == [0.0008014, 0.002678, 0.00185, 0.0007816]
    assert sorted(cell.train.batch_size for cell in cells) == [8, 9, 10, 11]
    assert cells[0].id == "4207d1510b1b"
    more = [c.train.lr for c in read_grid({"axes": {"train.lr": rates | {"n": 400}}}).cells]
    assert more[:4] == found
    assert 1e-4 <= min(more) < 1.1e-4
    assert 0.009 < max(more) <= 1e-2
    assert 0.4 < sum(lr < 1e-3 for lr in more) / 400 < 0.6, "half of the decades"
    shares = {"drop_path": {"uniform": [0, 1e-4], "n": 50}}
    assert all(0 <= cell.config.drop_path <= 1e-4 for cell in read_grid({"axes": shares}).cells)


def test_exclude_and_include_change_the_product() -> None:
    grid = GRID | {
        "exclude": [{"gate": "mean"}],
        "include": [{"gate": "conv", "conv_size": 5}],
    }
    cells = read_grid(grid).cells
    assert [cell.name for cell in cells[:-1]] == [n for n in names(GRID) if "mean" not in n]
    assert cells[-1].name == "gate=conv layout=T+S conv_size=5"
    assert cells[0].axes == {"gate": "lrpe", "layout": "T+S", "conv_size": 3}


def test_values_a_stage_are_one_value_of_an_axis() -> None:
    cells = read_grid({"axes": {"num_groups": [2, [1, 2, 4, 8]]}}).cells
    assert [cell.config.num_groups for cell in cells] == [(2,) * 4, (1, 2, 4, 8)]
    assert cells[1].name == "num_groups=1,2,4,8"


def test_an_included_cell_with_something_more_is_not_the_baseline() -> None:
    grid = read_grid({"axes": {"gate": ["lrpe", "mean"]}, "include": [{"drop_path": 0.5}]})
    assert grid.baseline is grid.cells[0]
    assert [cell.config.drop_path for cell in grid.cells] == [0.0, 0.0, 0.5]


def test_seeds_may_be_a_count() -> None:
    assert read_grid({"seeds": 3}).seeds == (0, 1, 2)


def test_mapping_and_file_give_the_same_ids(tmp_path: Path) -> None:
    text = """
    seeds: [3, 5]
    axes: {layout: [S, T+S], gate: [mean, dense, lrpe]}
    base: {train: {epochs: 2, lr: 2e-3}, preset: toy, gate_form: multiply}
    question: another one
    """
    (tmp_path / "renamed.yaml").write_text(text)
    other = read_grid(tmp_path / "renamed.yaml")
    assert {cell.id for cell in other.cells} == {cell.id for cell in read_grid(GRID).cells}


@pytest.mark.parametrize(
    "change",
    [
        {"gate_form": "add"},
        {"train": {"epochs": 3}},
        {"train": {"epochs": 2, "lr": 1e-3}},
        {"data": "moving-digits:hard"},
        {"preset": "toy-16"},
    ],
)
def test_id_changes_with_what_changes_the_result(change: dict[str, Any]) -> None:
    changed = read_grid({"base": GRID["base"] | change}).cells[0]
    assert changed.id != read_grid({"base": GRID["base"]}).cells[0].id


def test_id_changes_with_the_models_code(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = read_grid({}).cells[0]
    before = content_hash(cell.identity)
    monkeypatch.setattr("ablations.grid.settings.MODEL_VERSION", "next")
    assert content_hash(cell.identity) != before


@dataclass(frozen=True)
class _WithNewField(PosMLPConfig):
    novelty: Any = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        values = self.novelty if isinstance(self.novelty, tuple) else (self.novelty,) * 4
        object.__setattr__(self, "novelty", values[: self.num_stages])


def test_a_base_may_start_from_a_recipe_and_say_more() -> None:
    (cell,) = read_grid({"base": {"recipe": "steady", "train": {"lr": 1e-3}}}).cells
    config, train = configs("steady", ["lr=1e-3"])
    assert (cell.config, cell.train) == (config, train)
    assert (cell.train.balanced, cell.config.init) == (True, "contrast")


@pytest.mark.parametrize("preset", ["toy", "toy-16", "s16", "image-t"])
def test_a_new_field_with_a_default_changes_no_id(preset: str) -> None:
    config = PRESETS[preset]
    extended = _WithNewField(**config.to_dict())
    assert identity(extended, TrainConfig(), "d") == identity(config, TrainConfig(), "d")
    assert identity(replace(extended, novelty=8), TrainConfig(), "d") != identity(
        config, TrainConfig(), "d"
    )


def test_default_with_fewer_stages_is_left_out_of_the_identity() -> None:
    small = {"depths": [1], "dims": [8], "num_groups": 1, "windows": 4, "mlp_ratio": 2}
    small |= {"downsample": True, "temporal_windows": 8}
    cell = read_grid({"base": small}).cells[0]
    assert set(cell.identity["model"]) == {"depths", "dims", "num_groups", "windows"}


def test_yaml_is_read_as_meant(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(
        "base: {token_bias: off, drop_path: 0, train: {lr: 1e-3, epochs: 1e1}}\n"
        "axes: {gqpe_softmax: [yes, no], gate: [none, mean]}\n"
    )
    cell = read_grid(tmp_path / "g.yaml").cells[-1]
    assert (cell.config.token_bias, cell.config.gqpe_softmax) == (False, False)
    assert (cell.train.lr, cell.train.epochs, cell.config.gate) == (0.001, 10, "mean")


@given(st.floats(1e-6, 1e3), st.integers(1, 3))
def test_meant_rounding_forgets_how_a_number_was_computed(value: float, factor: int) -> None:
    assert meant("train.lr", value * factor / factor) == meant("train.lr", value)
    assert meant("train.lr", 1) == 1.0
    assert type(meant("train.lr", 1)) is float


BAD = {
    "bse: {}": ("1:1", "unknown key 'bse'. Did you mean 'base'?"),
    "axes:\n  gaet: [lrpe]": ("2:3", "unknown axis 'gaet'. Did you mean 'gate'?"),
    "axes:\n  gate: [lrpe, lrep]": ("2:16", "unknown gate 'lrep'. Did you mean 'lrpe'?"),
    "axes: {gate: lrpe}": ("1:14", "needs a list of values"),
    "axes: {gate: []}": ("1:14", "axis gate needs a list of values. Nothing"),
    "axes: {lr: [1e-3]}": ("1:8", "unknown axis 'lr'. Did you mean 'train.lr'?"),
    "base: {epochs: 3}": ("1:8", "unknown setting 'epochs'. Did you mean 'train.epochs'?"),
    "axes: {train.lr: [fast]}": ("1:19", "train.lr='fast' must be a number"),
    "axes: {train.lrr: [1]}": ("1:8", "Did you mean 'train.lr'?"),
    "axes: {layout: [T+S, off, no]}": ("1:22", "layout 'off' has 'off' where a branch"),
    "axes: {gate: [true]}": ("1:15", "gate=True must be text"),
    "axes: {gate: {uniform: [0, 1], n: 2}}": ("1:14", "random axis gate takes no number"),
    "axes: {train.lr: {uniform: [0, 1]}}": ("1:18", "n=None of random axis train.lr must be"),
    "axes: {train.lr: {n: 2}}": ("1:18", "needs one of uniform, log_uniform, int_uniform, and n"),
    "axes: {train.lr: {lognormal: [1, 2], n: 2}}": ("1:19", "Did you mean 'log_uniform'?"),
    "axes: {train.lr: {uniform: [1, 0], n: 2}}": ("1:28", "uniform=[1, 0] must be two numbers,"),
    "axes: {train.lr: {log_uniform: [0, 1], n: 2}}": ("1:32", "must be two numbers above 0"),
    "axes: {num_groups: {int_uniform: [1, 2.5], n: 2}}": ("1:34", "must be two whole numbers"),
    "axes: {num_groups: {int_uniform: [1, 2], n: 3}}": ("1:45", "n=3 is more than there are"),
    "axes: {train.lr: {uniform: [1, 2], n: 100000}}": ("1:39", "a number of values, 20,000 at"),
    "axes: {train.lr: {uniform: [0, 1], n: 300}, train.min_lr: {uniform: [0, 1], n: 100}}": (
        "1:1",
        "the axes make 30,000 cells, and a grid has 20,000 at most",
    ),
    "seeds: 1000000000": ("1:8", "must be a count, 20,000 at most"),
    "axes: {num_groups: {uniform: [1, 2], n: 3}}": ("1:20", "must be a whole number"),
    "base: {train: {epoch: 3}}": (
        "1:16",
        "unknown training field 'train.epoch'. Did you mean 'train.epochs'? Use one of: train.",
    ),
    "base: {preset: toi}": ("1:16", "unknown preset 'toi'. Did you mean 'toy'?"),
    "base: {recipe: stedy}": ("1:16", "unknown recipe 'stedy'. Did you mean 'steady'?"),
    "base: {recipe: [steady]}": ("1:16", "unknown recipe ['steady']"),
    "base: {depths: 2}": ("1:16", "must be a list"),
    "base: {num_frames: 8.5}": ("1:20", "num_frames=8.5 must be a whole number"),
    "axes: {windows: [1, 3]}": ("1:21", "window 3"),
    "base: {depths: [1], dims: [8, 8]}": ("1:16", "the same number of stages"),
    "base: {depths: [1, 1, 1, 1, 1], dims: [8, 8, 8, 8, 8]}": ("1:7", "for 5 places"),
    "base: {data: nowhere/at/all}": ("1:14", "data='nowhere/at/all' is no folder"),
    "base: {data: moving-digits:eazy}": ("1:14", "Did you mean 'easy'?"),
    "axes: {gate: [lrpe, lrpe]}": ("1:21", "are the same configuration"),
    "axes: {gate: [lrpe, mean]}\nexclude: [{gate: dense}]": ("2:11", "excludes no cell"),
    "axes: {gate: [lrpe, mean]}\nbaseline: {gate: conv}": ("2:1", "is no cell"),
    "axes: {gate: [lrpe], layout: [S, T]}\nbaseline: {gate: lrpe}": ("2:1", "is 2 cells"),
    "zip:\n- {gate: [lrpe, mean], layout: [S]}": ("2:3", "gate 2, layout 1"),
    "axes: {gate: [lrpe]}\nzip: [{gate: [mean]}]": ("2:1", "gate is declared twice"),
    "seeds: [0, 0]": ("1:8", "different whole numbers"),
    "design: fractional": ("1:9", "unknown design 'fractional'"),
    "macth: params": ("1:1", "unknown key 'macth'. Did you mean 'match'?"),
    "match: flops": ("1:8", "unknown match 'flops'"),
    "stop: {failed_alike: -1}": ("1:22", "failed_alike=-1 must be a number of trainings, or 0"),
    "stop: {failed_alike: yes}": ("1:22", "failed_alike='yes' must be a number of trainings"),
    "stop: {alike: 3}": ("1:8", "unknown key of stop 'alike'"),
    "stop: 3": ("1:7", "stop needs a mapping"),
    "match_within: 1%": ("1:15", "beside match: params or gmacs"),
    "match: params\nmatch_within: 110%": ("2:15", "must be a share such as 1%"),
    "match: params\naxes: {dims: [[8]]}": ("1:8", "they cannot be an axis"),
    "budget: 30": ("1:9", "must be a time such as 30min (units: s, min, h, d)"),
    "repeat: 3": ("1:9", "repeat=3 must be true or false"),
    "seeds: 1\nseeds: 2": ("2:1", "'seeds' stands twice"),
    "axes: [gate": ("1:12", "this is not YAML"),
    "just text": ("1:1", "a grid is a mapping"),
    "base: {train.lr: 5e-3, train: {lr: 1e-3}}": ("1:32", "train.lr is said twice"),
    "axes: {gate: [lrpe, mean]}\nexpect: [{gate: lrpe, verdict: worse}]": (
        "2:10",
        "no cell beside the baseline has gate=lrpe worse",
    ),
}


@pytest.mark.parametrize("text", BAD)
def test_grid_error_names_the_place_and_the_mend(text: str, tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(text)
    with pytest.raises(GridError) as caught:
        read_grid(path)
    place, problem = BAD[text]
    message = str(caught.value)
    assert message.startswith(f"{path}:{place}: ")
    assert problem in message
    assert message.endswith("Nothing was run.")


@pytest.mark.parametrize(
    ("base", "problem"),
    [
        ({"train": {"batch_size": 9, "num_clips": 8}}, "batch_size=9 is more than the 8"),
        ({"num_classes": 5}, "num_classes=5 but moving-digits has 14"),
        ({"image_size": [32, 64]}, "is not square"),
        ({"num_frames": 1, "temporal_windows": 1}, "num_frames=1 cannot show motion"),
    ],
)
def test_data_that_cannot_be_are_refused(base: dict[str, Any], problem: str) -> None:
    with pytest.raises(GridError, match=problem):
        read_grid({"base": base}).check_data()


def test_a_deciding_metric_that_the_labels_cannot_give_is_refused(tmp_path: Path) -> None:
    base = {"recipe": "steady"}
    with pytest.raises(GridError, match="metric=test_map decides, and moving-digits has labels"):
        read_grid({"base": base, "metric": "test_map"}).check_data()
    read_grid({"base": base, "metric": "test_within_pair"}).check_data()
    train = {"batch_size": 3}
    unpaired = {"base": {"data": str(folder_of_videos(tmp_path)), "train": train}}
    with pytest.raises(GridError, match=r"metric=test_within_pair decides, and .* labels without"):
        read_grid(unpaired | {"metric": "test_within_pair"}).check_data()
    read_grid(unpaired | {"metric": "test_top1"}).check_data()


@pytest.mark.parametrize(
    ("name", "direction"),
    [("error", "lower"), ("edit_distance", "lower"), ("sureness", "higher")],
)
def test_own_metric_is_better_the_way_that_its_name_says(
    name: str, direction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(f"def {name}(outputs, labels):\n    return 0.5\n")
    grid = read_grid({"metrics": [f"own.py:{name}"], "metric": f"test_{name}"})
    assert grid.options.metrics[0].direction == direction
    said = {"name": f"test_{name}", "direction": "higher"}
    told = read_grid({"metrics": [f"own.py:{name}"], "metric": said})
    assert told.options.metrics[0].sign == 1


def folder_of_videos(root: Path) -> Path:
    for split in ("train", "test"):
        for name in ("left", "right", "up"):
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                (root / split / name / f"{i}.mp4").write_bytes(b"not a video")
    return root


def test_folder_identity_follows_its_clips_not_its_place(tmp_path: Path) -> None:
    first = describe(str(folder_of_videos(tmp_path / "a")))
    moved = describe(str(folder_of_videos(tmp_path / "elsewhere" / "b")))
    assert (first.num_classes, first.num_train) == (3, 9)
    assert moved.identity == first.identity
    (tmp_path / "a/test/up/2.mp4").unlink()
    assert describe(str(tmp_path / "a")).identity != first.identity


def test_number_of_classes_comes_from_the_data(tmp_path: Path) -> None:
    data = str(folder_of_videos(tmp_path / "a"))
    assert read_grid({"base": {"preset": "s16"}}, data).cells[0].config.num_classes == 3


def test_reading_a_grid_imports_no_torch() -> None:
    code = "import sys, ablations; ablations.read_grid({'axes': {'gate': ['mean', 'conv']}}); "
    code += "sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ('question: "\x1b[31mred"\naxes: {gate: [lrpe, dense]}\n', "1:12", "control character"),
        ("axes: {gate: [lrpe, dense]}\n\x00", "2:1", r"the control character '\\x00'; delete"),
        ("axes: {gate: [lrpe, dense\x07]}\n", "1:26", r"the control character '\\x07'; delete"),
        ("question: &a [x, *a]\n", "1:11", "an anchor stands within itself; write the values"),
        ("axes: &a {gate: *a}\n", "1:7", "an anchor stands within itself"),
        ("axes: {gate: &a [[b, *a]]}\n", "1:14", "an anchor stands within itself"),
        ("axes: {? [gate] : [lrpe]}\n", "1:10", "a key must be a single word"),
        ("axes: {<<: {gate: [lrpe]}}\n", "1:8", "'<<'"),
    ],
)
def test_a_grid_that_is_not_plain_yaml_is_refused_with_its_place(
    text: str, place: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(text)
    with pytest.raises(GridError, match=rf"g\.yaml:{place}: .*{message}"):
        read_grid(path)


def test_a_grid_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text("axes: " + "[" * 1500 + "]" * 1500)
    with pytest.raises(GridError, match=r"g\.yaml: this is nested too deeply to be read"):
        read_grid(tmp_path / "g.yaml")


@pytest.mark.parametrize(
    "text",
    [
        'axes: {data: ["moving-digits:easy", "moving-digits:hard"]}\n',
        "zip: [{data: [moving-digits, 'moving-digits:hard'], gate: [lrpe, mean]}]\n",
        "axes: {gate: [lrpe, mean]}\ninclude: [{data: 'moving-digits:hard'}]\n",
    ],
)
def test_data_in_place_of_the_grids_is_refused_where_the_grid_varies_data(
    text: str, tmp_path: Path
) -> None:
    (tmp_path / "g.yaml").write_text(text)
    with pytest.raises(GridError, match="data='moving-digits:medium' is asked for, but the grid"):
        read_grid(tmp_path / "g.yaml", "moving-digits:medium")


@pytest.mark.parametrize("seed", [2**63, 2**64, -1])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(GridError, match=r"different whole numbers from 0, each below 2\*\*63"):
        read_grid(GRID | {"seeds": [0, seed]})


# Grid files, ours and stored


FILES = sorted(Path(ablations.__file__).with_name("grids").glob("*.yaml"))
QUESTIONS = ("gates", "layouts", "groups", "windows", "gate_form", "relation_matched_params")


def test_every_question_has_its_grid():
    assert {path.stem for path in FILES} >= set(QUESTIONS)


@pytest.fixture
def films(tmp_path, monkeypatch):
    """Where the grids of speaking mouths look for their clips."""
    monkeypatch.chdir(tmp_path)
    for letter, speaker, take in product("FM", range(10), range(3)):
        split = "test" if take == 2 else "train"
        for place in (f"six/{letter}/s{speaker}", f"speakers/{letter}/s{speaker}", ""):
            folder = tmp_path / "runs/lips" / (place or f"letters/{split}/{letter}")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"s{speaker}_{take}.mp4").write_bytes(bytes(speaker + 1))
    start = tmp_path / "runs/clips/cells/35226a582333/seed0/model-seed0.safetensors"
    start.parent.mkdir(parents=True)
    posmlp.save(posmlp.create_model("toy"), start)


@pytest.mark.usefixtures("films")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_grid_can_be_run_and_its_head_tells_its_cost(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("make demo" in line or "ablations run" in line or "bench" in line for line in head)
    (cost,) = [line for line in head if line.startswith("# Cost: ")]
    data = "moving-digits" if path.stem == "demo" else None  # make demo makes its files first
    grid = read_grid(path, data)
    grid.check_data()
    assert grid.question
    assert grid.prediction
    counts = re.search(r"(\d+) variants(?: x (\d+) films)? x (\d+) seed|(\d+) trainings", cost)
    assert counts
    num_trainings = prod(int(number) for number in counts.groups() if number)
    assert num_trainings == len(grid.cells) * len(grid.seeds)


@pytest.mark.parametrize("name", ["groups", "windows"])
def test_ids_of_stored_results_are_those_of_their_grid(name, monkeypatch):
    """What changes them, new clips aside, would have every stored result trained again."""
    folder = Path(ablations.__file__).parent / "results" / name
    plan = Store(folder).plan()
    (version,) = re.findall(
        r'"data": "moving-digits:\w+:(\d+)"', (folder / "cells.json").read_text()
    )[:1]
    monkeypatch.setattr("ablations.grid.datasets.GENERATOR_VERSION", int(version))
    cells = read_grid(folder / "grid.yaml").cells
    assert {cell["id"] for cell in plan["cells"]} == {cell.id for cell in cells}


# ---- Variants at equal cost ----

TOY = PRESETS["toy"]
SMALL = PosMLPConfig(depths=(1, 1), dims=(16, 32), num_groups=2, windows=4)


ONE_TOKEN = {"windows": 1, "temporal_windows": 1}
OTHER_PARTS: list[dict[str, Any]] = [
    *({"gate": gate} for gate in GATE_NAMES),
    *(ONE_TOKEN | {"gate": gate} for gate in ("lrpe", "attention")),
    {"layout": ("T>ST", "S"), "gate_form": "mix", "token_bias": False, "stem_convs": 3},
    {"gate": "gqpe", "gqpe_spread": "scalar", "downsample_depthwise": True, "num_classes": 0},
    {"gate": "conv", "conv_size": 5, "layout": "ST", "image_size": (32, 64), "mlp_ratio": 3.5},
    {"kind": "image", "num_frames": 1, "temporal_windows": None, "layout": "S", "depths": (2, 1)},
    {"dims": (16, 16), "downsample": False, "stem_norm": "layer", "temporal_windows": 2},
]


@pytest.mark.parametrize("parts", OTHER_PARTS, ids=str)
def test_costs_by_formula_are_those_that_the_analysis_counts(parts: dict[str, Any]) -> None:
    config = replace(SMALL, **parts)
    counted = cost(config, memory=False)
    assert costs(config) == {name: counted[name] for name in ("params", "gmacs", "relation_params")}


@pytest.mark.parametrize("by", ["params", "gmacs"])
@pytest.mark.parametrize("gate", ["attention", "dense"])
def test_a_variant_costs_what_the_baseline_does_and_nothing_else_changes(
    by: str, gate: str
) -> None:
    config = replace(SMALL, gate=gate)
    resized, match = matched(config, SMALL, by, 0.02)
    assert match.reached == costs(resized)[by]
    assert match.asked == costs(SMALL)[by]
    assert abs(match.difference) <= 0.02
    assert match.dims == resized.dims
    assert (resized.dims != config.dims) == (costs(config)[by] > 1.02 * match.asked)
    assert replace(resized, dims=config.dims) == config


def test_a_variant_of_equal_cost_is_left_alone() -> None:
    config = replace(SMALL, gate="gqpe")
    assert matched(config, SMALL, "gmacs", 0.01)[0] is config


def test_matched_grid_resizes_all_but_the_baseline_and_plans_what_is_left() -> None:
    grid: dict[str, Any] = {"axes": {"gate": ["lrpe", "attention"]}, "match": "params"}
    found = plan(grid, probe_s=0)
    lrpe, attention = found.grid.cells
    assert (lrpe.match, lrpe.config.dims) == (None, TOY.dims)
    unmatched = read_grid({"axes": grid["axes"]}).cells
    assert (lrpe.id == unmatched[0].id, attention.id == unmatched[1].id) == (True, False)
    assert attention.match is not None
    factors = [
        after / before for after, before in zip(attention.config.dims, TOY.dims, strict=True)
    ]
    assert max(factors) / min(factors) < 1.4  # narrower, and much the same shape
    said = str(found)
    assert "match: params of the baseline, within 1.0%" in said
    assert f"gate=attention: {attention.match}" in said
    assert "dims 16,32,64,128 -> " in said


def test_a_variant_that_cannot_be_brought_near_fails_with_its_reason() -> None:
    grid = {
        "base": {
            "depths": [1],
            "dims": [64],
            "num_groups": 64,
            "windows": 4,
            "temporal_windows": 8,
            "mlp_ratio": 2,
            "downsample": [],
        },
        "axes": {"gate": ["lrpe", "attention"]},
        "match": "params",
    }
    with pytest.raises(GridError, match="gate=attention is impossible: match: params asks for"):
        read_grid(grid)
