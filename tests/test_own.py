"""Own code: named by a file, kept with its source, run once trusted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import posmlp
from analysis.bias.maps import bias_maps, units
from analysis.cost.costs import cost
from analysis.inside.activations import activations
from analysis.interventions.interventions import Intervention, changed_tables, free_tables
from analysis.interventions.run_clips import run_clips
from posmlp import cli
from posmlp.checkpoint import save
from posmlp.clip_scores import clip_features
from posmlp.config import PosMLPConfig
from posmlp.data.files.clip_files import encode_clip
from posmlp.data.sources import open_clips
from posmlp.gates import registry
from posmlp.own import code
from posmlp.own.names import NONE, Options
from posmlp.parts.own_parts import check
from posmlp.predict import open_run
from posmlp.train.optimisation import relation_parameters
from posmlp.train.population import Population, seeded_model
from posmlp.train.run_folder import RunFolder, read_config
from posmlp.train.variants import members

GATE = """import torch


class Shift(torch.nn.Module):
    def __init__(self, dim, window, num_groups, step=1):
        super().__init__()
        self.step, self.scale = step, torch.nn.Parameter(torch.ones(dim))

    def forward(self, h):
        u, v = h.chunk(2, dim=-1)
        return u.roll(self.step, dims=1) * self.scale * v
"""
TABLE = """import torch
from posmlp.positions import relative_position_index


class Table(torch.nn.Module):
    def __init__(self, dim, window, num_groups):
        super().__init__()
        self.index = relative_position_index(window)
        sides = [2 * side - 1 for side in window]
        self.weights = torch.nn.Parameter(torch.randn(1, *sides))

    def bias_table(self):
        return self.weights

    def forward(self, h):
        u, v = h.chunk(2, dim=-1)
        return self.weights.flatten()[self.index] @ u * v
"""
OTHERS = """import torch


class Recurrent(torch.nn.Module):
    def __init__(self, dim, window):
        super().__init__()
        self.over_time = torch.nn.GRU(dim, dim, batch_first=True)

    def forward(self, x):
        places = x.transpose(1, 2).flatten(0, 1)
        return self.over_time(places)[0].unflatten(0, (len(x), -1)).transpose(1, 2)


class Peer(torch.nn.Module):
    def __init__(self, num_classes, num_frames, width=4):
        super().__init__()
        self.conv = torch.nn.Conv3d(3, width, (num_frames, 4, 4), stride=4)
        self.head = torch.nn.Linear(width, num_classes)

    def forward(self, clips):
        return self.head(self.conv(clips).relu().mean((2, 3, 4)))
"""
README = (Path(__file__).parents[1] / "posmlp/README.md").read_text()
BARS = next(b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "class Bars" in b)
OWN = {"metrics": ("my_bars.py:sureness",), "augment": "my_bars.py:darker"}
SMALL = {"epochs": 2, "batch_size": 8, "num_clips": 16, "num_val_clips": 2, "num_test_clips": 4}
TINY: dict[str, Any] = {
    **{"depths": (1, 1), "dims": (8, 8), "num_groups": 2, "windows": 2, "layout": "T+S"},
    **{"image_size": 16, "num_frames": 4, "num_classes": 5},
}
CLIPS = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with the files, in a process that trusts none of them."""
    files = {"my_gates": GATE, "my_tables": TABLE, "my_others": OTHERS, "my_bars": BARS}
    for name, source in files.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(code, "_TRUSTED", set())
    return tmp_path


def config_of(**values: Any) -> PosMLPConfig:
    return posmlp.create_model("toy", **TINY | values).config


def forget() -> None:
    """Trust as little as another process does."""
    code._TRUSTED.clear()


@pytest.mark.parametrize("name", ["my_gates.py:Shift", "my_gates:Shift", "there/my_gates.py:Shift"])
def test_own_gate_computes_what_its_file_says_wherever_that_lies(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "my_gates:Shift":  # on Python's path, not here
        monkeypatch.syspath_prepend(folder)
        monkeypatch.chdir(folder.parent)
    elif "/" in name:
        (folder / "there").mkdir()
        (folder / "my_gates.py").rename(folder / name.partition(":")[0])
    config = config_of(gate=name, gate_options={"step": 2})
    assert config.gate == "my_gates.py:Shift"
    assert config.code == {"my_gates.py": GATE}
    stored = json.loads(json.dumps(config.to_dict()))
    assert PosMLPConfig.from_dict(stored) == config
    assert hash(PosMLPConfig.from_dict(stored)) == hash(config)
    gate: Any = next(units(posmlp.create_model(config))).unit
    h = torch.randn(3, 4, 16)
    assert torch.equal(gate(h), h[..., :8].roll(2, dims=1) * h[..., 8:])
    assert registry.make_gate(config, 8, (4,), 2)(h).shape == (3, 4, 8)


def test_model_file_brings_its_code_which_runs_once_trusted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = posmlp.create_model("toy", **TINY, gate="my_gates.py:Shift").eval()
    save(model, "model.safetensors")
    (folder / "my_gates.py").write_text(GATE.replace("roll(self.step", "roll(-self.step"))
    forget()
    with pytest.raises(
        ValueError, match=r"model.safetensors brings code, my_gates.py .*11 lines"
    ) as e:
        posmlp.load("model.safetensors")
    assert "class Shift(torch.nn.Module)" in str(e.value)
    assert "--trust-code" in str(e.value)
    with pytest.raises(ValueError, match="does not run unasked"):
        posmlp.create_model(model.config)
    loaded = posmlp.load("model.safetensors", trust_code=True)
    assert "model.safetensors runs its own copy of my_gates.py" in capsys.readouterr().err
    assert torch.equal(loaded(CLIPS), model(CLIPS))
    edited = config_of(gate="my_gates.py:Shift")
    assert edited != model.config
    assert replace(loaded.config, gate="./my_gates.py:Shift") == edited, "named anew, read anew"


def test_parts_that_are_called_as_wrappers_call_theirs_are_saved(folder: Path) -> None:
    text = GATE.replace("self.step, self", "self.module, self.step, self")
    text = text.replace("= step,", "= torch.nn.Linear(dim, dim), step,").replace(
        "u.r", "self.module(u).r"
    )
    (folder / "my_gates.py").write_text(text)
    model = posmlp.create_model("toy", **TINY, gate="my_gates.py:Shift").eval()
    save(torch.nn.DataParallel(model), "model.safetensors")
    assert torch.equal(posmlp.load("model.safetensors")(CLIPS), model(CLIPS))


def test_stored_settings_name_no_file_of_this_folder() -> None:
    """Else a folder from elsewhere would run what lies where the user happens to be."""
    values = config_of(gate="my_gates.py:Shift").to_dict() | {"code": {}}
    with pytest.raises(ValueError, match="without the source of its file"):
        PosMLPConfig.from_dict(values)
    with pytest.raises(ValueError, match="no plain name"):
        PosMLPConfig.from_dict(
            values | {"gate": "../my_gates.py:Shift", "code": {"../my_gates.py": GATE}}
        )


@pytest.mark.parametrize(
    ("edit", "values", "told"),
    [
        (("h.chunk", "h[:, 1:].chunk"), {}, ["my_gates.py:Shift gives", "(2, 3, 8)", "(2, 4, 8)"]),
        (("return u.roll", "return u.numpy().roll"), {}, ["my_gates.py:Shift fails", "(line 11)"]),
        (("* self.scale", ""), {}, ["my_gates.py:Shift", "'scale' gets no gradient", "buffer"]),
        (("return ", "with torch.no_grad(): return "), {}, ["no gradient comes through"]),
        (("import torch", "import torch, absent"), {}, ["my_gates.py", "'absent'", "(line 1)"]),
        (("super()", "super)("), {}, ["my_gates.py", "SyntaxError", "(line 6)"]),
        (("(torch.nn.Module)", ""), {}, ["my_gates.py:Shift"]),
        (("    def f", "    get_extra_state = str\n    def f"), {}, ["'_extra_state' is a str"]),
        (("", ""), {"gate_options": {"stop": 2}}, ["step=1", "'stop'", "__init__"]),
        (("", ""), {"gate_options": {"step": {1}}}, ["gate_options", "JSON"]),
        (("", ""), {"gate": "my_gates.py:Shfit"}, ["'Shfit'", "Did you mean 'Shift'?"]),
        (("", ""), {"gate": "my_gates.py"}, ["names no class", "my_gates.py:CLASS"]),
        (("", ""), {"gate": "my_gate.py:Shift"}, ["my_gate.py", "names no file"]),
        (("", ""), {"gate": "lrpe", "gate_options": {"step": 2}}, ["gate='lrpe'", "leave"]),
        (("", ""), {"gate_form": "add"}, ["gate_form"]),
        (("", ""), {"layout": "T+R"}, ["'R'", "branches"]),
        (("", ""), {"branches": {"T": "my_others.py:Recurrent"}}, ["'T'", "capital letters"]),
        (("", ""), {"model": "my_others.py:Peer", "kind": "image"}, ["my_others.py:Peer", "clips"]),
        (("", ""), {"model": "resnet"}, ["'resnet'", "posmlp"]),
        (
            ("", ""),
            {"model": "my_others.py:Peer", "model_options": {"depth": 2}},
            ["my_others.py:Peer", "'depth'", "width=4"],
        ),
        (
            ("", ""),
            {"branches": {"R": "my_others.py:Peer"}, "layout": "R"},
            ["my_others.py:Peer", "fails"],
        ),
    ],
)  # fmt: skip
def test_errors_name_file_class_and_mend(
    folder: Path, edit: tuple[str, str], values: dict[str, Any], told: list[str]
) -> None:
    (folder / "my_gates.py").write_text(GATE.replace(*edit, 1) if edit[0] else GATE)

    with pytest.raises(ValueError, match=re.escape(told[0])) as error:
        check(config_of(**{"gate": "my_gates.py:Shift"} | values))
    assert [words for words in told if words not in str(error.value)] == [], str(error.value)


def test_gate_with_a_table_gets_maps_and_interventions_and_one_without_is_told() -> None:
    model = posmlp.create_model("toy", **TINY, gate="my_tables.py:Table").eval()
    first = bias_maps(model).query("stage == 1 and branch == 'T'")
    learned = next(units(model)).unit.weights
    assert np.allclose(first["bias"], learned.detach().flatten())
    assert first["dt"].tolist() == [*range(-3, 4)]
    assert len(free_tables(model)) == 4
    changed = changed_tables(Intervention("knock_out", stage=1, branch="T"), model)
    assert [bool(values.any()) for values in changed.values()] == [False]
    tables = {table.name for table in free_tables(model)}
    assert relation_parameters(model) == tables, "their rate is what the recipe gives to tables"
    assert cost(model)["relation_params"] == sum(t.values.numel() for t in free_tables(model))
    shift = posmlp.create_model("toy", **TINY, gate="my_gates.py:Shift")
    for show in (bias_maps, free_tables):
        with pytest.raises(ValueError, match=r"gate Shift \(stage 1\) has no "):
            show(shift)
    unit: Any = next(units(shift)).unit
    type(unit).relation = lambda self: torch.ones(2, 3, 3)
    with pytest.raises(ValueError, match=r"gives \[2, 3, 3\]; it must give \(G, 4, 4\)"):
        bias_maps(shift)
    del type(unit).relation


def test_own_branch_stands_in_a_layout() -> None:
    both = {"branches": {"R": "my_others.py:Recurrent"}, "layout": "T+R"}
    config = config_of(**both, temporal_windows=2)
    check(config)
    assert config_of(**both | {"layout": "T+S"}) == config_of(), "code that is not used is left out"
    model = posmlp.create_model(config).eval()
    assert [place.branch for place in units(model)] == ["T", "T"]
    found = activations(model, CLIPS, "stage1.block1.step1.R.*")
    assert {name[-4:]: tuple(x.shape) for name, x in found.items()} == dict.fromkeys(
        ("norm", ".out"), (2, 4, 4, 4, 8)
    )
    block: Any = model.stages[0]
    branch, x = block.blocks[0].steps[0]["R"], torch.randn(2, 4, 4, 4, 8)
    one = branch(x)  # windows of 2 frames: what comes later in one reaches no earlier frame
    x[:, :, 3] += 1.0
    assert [bool((branch(x) != one)[:, :, t].any()) for t in range(4)] == [False] * 3 + [True]


def test_whole_model_of_its_own_is_trained_saved_and_told_apart(folder: Path) -> None:
    config = config_of(model="my_others.py:Peer", model_options={"width": 6}, drop_path=0.1)
    check(config)
    train = posmlp.TrainConfig(**SMALL | {"epochs": 1})
    rows = posmlp.fit(
        replace(config, num_classes=14), train, seeds=[0, 1], out="run", progress=False
    )
    assert len(rows) == 2
    assert (folder / "run/my_others.py").read_text() == OTHERS
    loaded = posmlp.load("run/model-seed1.safetensors")
    assert type(loaded.net.conv.weight) is torch.nn.Parameter
    assert loaded(CLIPS).shape == (2, 14)
    assert cost(loaded)["params"] == sum(p.numel() for p in loaded.parameters())
    with pytest.raises(ValueError, match=r"my_others\.py:Peer is a whole model of your own"):
        bias_maps(loaded)
    other = members(config_of(), train, [0], None)[0]
    with pytest.raises(ValueError, match=r"my_others\.py:Peer"):
        RunFolder("run", {"model": other.config.to_dict(), "data": {}, "train": {}, "classes": []})


def test_whole_model_of_its_own_is_frozen_by_its_own_parts_and_has_no_features(
    folder: Path,
) -> None:
    config = config_of(model="my_others.py:Peer", num_classes=14)
    kept = seeded_model(config, 0).state_dict()
    train = posmlp.TrainConfig(**SMALL | {"epochs": 1, "freeze": "conv"})
    posmlp.fit(config, train, seeds=[0], out="run", progress=False)
    found = posmlp.load("run").state_dict()
    same = {name: torch.equal(found[name], kept[name]) for name in kept}
    assert same == {name: name.startswith("net.conv") for name in kept}
    for part, said in (
        ("stem", "unknown part in freeze 'stem'"),
        ("conv,head", "nothing to train"),
    ):
        with pytest.raises(ValueError, match=said):
            Population(config, [0], freeze=part)
    clip = folder / "clip.mp4"
    encode_clip(clip, np.zeros((4, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"my_others\.py:Peer is a whole model .* has no stages"):
        clip_features(open_run("run"), clip)
    (folder / "my_others.py").write_text(
        OTHERS.replace("self.head =", "self.requires_grad_(False)  #")
    )
    with pytest.raises(ValueError, match=r"my_others\.py:Peer has no parameter to train"):
        Population(config_of(model="my_others.py:Peer"), [0])


def test_population_says_that_vmap_does_not_take_a_gate(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = GATE.replace("return ", "h.sum().item(); return ")
    (folder / "my_gates.py").write_text(text)
    config = config_of(gate="my_gates.py:Shift")
    labels = torch.zeros(2, 2, dtype=torch.int64)
    both = torch.stack([CLIPS, CLIPS])
    found = [
        Population(config, [0, 1], vectorised=v).gradients(both, labels) for v in (True, False)
    ]
    assert "members are trained one after another, as vmap says" in capsys.readouterr().err
    for name, gradient in found[0][0].items():
        torch.testing.assert_close(gradient, found[1][0][name])


def test_own_data_metric_and_augmentation_stay_with_their_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(num_classes=2)
    train = posmlp.TrainConfig(**SMALL | OWN)
    both = [
        posmlp.fit(config, each, "./my_bars.py:Bars", out=out, progress=False)
        for each, out in ((train, "run"), (replace(train, augment=""), "plain"))
    ]
    assert both[0][0]["train_loss"] != both[1][0]["train_loss"], "clips are changed"
    assert 0.5 <= both[0][-1]["val_sureness"] == both[0][-1]["test_sureness"] < 1
    assert (folder / "run/my_bars.py").read_text() == BARS
    again = posmlp.fit(config, train, "my_bars.py:Bars", out="run", progress=False)
    assert [row["val_sureness"] for row in again] == [row["val_sureness"] for row in both[0]]
    (folder / "my_bars.py").write_text("raise ValueError('edited')")
    forget()
    assert cli.main(["eval", "run"]) == 2
    assert "'my_bars.py:Bars' brings code, my_bars.py" in capsys.readouterr().err
    assert cli.main(["eval", "run", "--trust-code"]) == 0
    assert f"sureness {both[0][-1]['test_sureness']:.4f}" in capsys.readouterr().out
    assert run_clips("run", 4).clips.shape == (4, 4, 16, 16, 3)
    code.trust_all(False)
    stored = read_config("run")
    brought = posmlp.TrainConfig.from_dict(stored["train"])
    assert brought == replace(train, code=Options({"my_bars.py": BARS}))
    lost = replace(brought, code=NONE, metrics=(), augment="")
    with pytest.raises(ValueError, match=r"'my_bars.py:Bars' comes without the source"):
        open_clips(stored["source"], "test", config, train=lost)
    with pytest.raises(ValueError, match="without the source of its file"):
        posmlp.TrainConfig.from_dict(stored["train"] | {"code": {}})


@pytest.mark.parametrize(
    ("edit", "values", "told"),
    [
        (("return logits", "return labels, logits"), {}, ["my_bars.py:sureness gives", "a number"]),
        (("(logits, labels)", "(logits)"), {}, ["my_bars.py:sureness takes (logits)", "(20, 5)"]),
        (("its, labels):", "its, labels):\n    1 / 0"), {}, ["ZeroDivision", "(line 18)"]),
        (("clip // ", "clip / "), {}, ["my_bars.py:darker gives", "torch.float32", "torch.uint8"]),
        (("", ""), {"augment": "my_bars.py:lighter"}, ["'lighter'", "Use one of", "darker"]),
        (("", ""), {"augment": "mirror"}, ["augment='mirror'", "file.py:function"]),
        (("", ""), {"metrics": ["top1"]}, ["metrics='top1'", "file.py:function"]),
        (("def sureness", "def loss"), {"metrics": "my_bars.py:loss"}, ["another score 'loss'"]),
        (('("left", "right")', "'left'"), {}, ["my_bars.py:Bars has classes='left'"]),
        (("% 2", "% 3"), {}, ["my_bars.py:Bars gives clips", "labels (96,)", "from 0 to 1"]),
        (("uint8", "int32"), {}, ["my_bars.py:Bars gives clips (1, 4, 16, 16, 3)", "torch.uint8"]),
        (("__init__", "load"), {}, ["my_bars.py:Bars takes ()", "('train', 4, 16)"]),
    ],
)  # fmt: skip
def test_errors_of_own_training_code_name_it_and_the_mend(
    folder: Path, edit: tuple[str, str], values: dict[str, Any], told: list[str]
) -> None:
    (folder / "my_bars.py").write_text(BARS.replace(*edit, 1) if edit[0] else BARS)
    with pytest.raises(ValueError, match=re.escape(told[0])) as error:
        posmlp.fit(config_of(), posmlp.TrainConfig(**SMALL | OWN | values), "my_bars.py:Bars")
    assert [words for words in told if words not in str(error.value)] == [], str(error.value)
