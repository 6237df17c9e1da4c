"""The command line as a user meets it: real processes, one clear message, exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from posmlp import create_model, load, save
from posmlp.cli import _tell_lost_layout, main
from posmlp.released.names import released_name
from posmlp.settings import configs
from posmlp.train.run_folder import read_metrics

SMALL = [
    "depths=[1,1]", "dims=[8,16]", "num_groups=[2,4]", "windows=[4,2]", "downsample=true",
    "mlp_ratio=2.0", "image_size=16", "num_frames=4", "temporal_windows=4",
    "epochs=1", "batch_size=8", "num_val_clips=28", "num_test_clips=28", "num_clips=28",
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["layout=T+Q"], "'Q' where a branch should stand"),
        (["gate=lrp"], "Did you mean 'lrpe'"),
        (["num_frames=9", "temporal_windows=2"], "9 frames are not divisible by temporal window 2"),
        (["gates=lrpe"], "unknown config key 'gates'"),
        (["lr=fast"], "lr='fast' must be a number"),
        (["in_channels=1", "num_clips=28"], "in_channels=1, but clips have 3 colours"),
        (["--device", "gpu"], "device='gpu' is not here"),
        (["--device", "mps"], "device='mps' is not here (this package computes on cpu"),
        (["lr=.nan"], "lr=nan must be a number of at least 0"),
        (["lr=[1,2]"], "lr=[1, 2] must be a number of at least 0"),
        (["label_smoothing=abc"], "label_smoothing='abc' must be a number of at least 0 and less"),
        (["erase=high"], "erase='high' must be a probability, from 0 to 1"),
        (["mlp_ratio=.inf"], "mlp_ratio=inf must be a number above 0"),
        (["gate"], "'gate' is not key=value"),
        (["preset=toy"], "'preset=toy' is no setting; write --config toy"),
        (["gate=dense", "seed=3"], "'seed=3' is no setting; write --seed 3"),
        (["--data", "nowhere"], "no folder at 'nowhere'"),
        (["--data", "ssv3:nowhere"], "unknown layout 'ssv3'"),
        (["--data", "ssv2:nowhere"], "data folder nowhere does not exist"),
        (["min_crop_area=0"], "min_crop_area=0 must be a share above 0"),
        (["test_short_side=-1"], "test_short_side=-1 must be a number of pixels"),
        (["--seeds", "a,b"], "--seeds 'a,b' must be whole numbers"),
        (["--seeds", str(2**64)], "must be different whole numbers from 0 to 2**63 - 1"),
        (["init_from=5"], "no checkpoint at 5;"),
        (["init_from=yes"], "no checkpoint at yes;"),
        (["init_from=[a, b]"], "init_from=['a', 'b'] must be text"),
        (["--config", "s17"], "unknown preset 's17'"),
        (["--config", "missing.yaml"], "no file at missing.yaml"),
    ],
)
def test_train_refuses_bad_input_with_one_message(tmp_path, capsys, words, expected):
    assert main(["train", "--out", str(tmp_path / "run"), *words]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_settings_may_stand_on_both_sides_of_an_option(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", *SMALL, "--out", out, "gate=mean", "lr=1e-3", "--seeds", "3"]) == 0
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert (stored["model"]["gate"], stored["train"]["lr"], stored["seeds"]) == ("mean", 1e-3, [3])
    capsys.readouterr()
    for words in (["train", "--out", out, "lr=1", "--colour"], ["info", "toy", "gate=mean"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert f"unrecognized arguments: {words[-1]}" in capsys.readouterr().err


def test_package_runs_as_its_command_and_leaves_no_traceback(tmp_path):
    words = ["-m", "posmlp", "train", "--out", str(tmp_path / "run"), "gate=lrp"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("posmlp train: unknown gate 'lrp'")
    assert done.stderr.count("\n") == 1


def test_train_refuses_bad_folders(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    out = ["--out", str(tmp_path / "run")]
    assert main(["train", *out, "--data", str(tmp_path / "empty")]) == 2
    assert "empty" in capsys.readouterr().err
    for split in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / "bad" / split / name
            folder.mkdir(parents=True)
            (folder / "broken.mp4").write_bytes(b"this is not a video")
    assert main(["train", *out, "--data", str(tmp_path / "bad"), "num_classes=2"]) == 2
    message = capsys.readouterr().err
    assert "broken.mp4" in message
    assert "max_bad_share" in message


def test_checkpoint_of_another_model_is_refused(tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    save(create_model("toy"), path)
    assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 2
    message = capsys.readouterr().err
    assert "model.safetensors: the keys are of neither released model" in message
    assert "kept, with its config, by posmlp.save" in message
    path.write_bytes(b"junk")
    assert main(["eval", str(path), "--data", "moving-digits"]) == 2
    assert "not a readable safetensors file" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "nothing")]) == 2
    assert "no run at" in capsys.readouterr().err


def test_processes_that_would_all_train_one_run_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert main(["train", "--out", str(tmp_path / "run")]) == 2
    assert "4 processes would each train all of" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_make_train_eval_on_real_files(tmp_path, capsys):
    data, out = str(tmp_path / "data"), str(tmp_path / "run")
    make = ["data", "make", "moving-digits", data, "--train", "28", "--test", "28"]
    assert main([*make, "--frames", "4", "--size", "32", "--difficulty", "easy"]) == 0
    settings = [text for text in SMALL if text != "image_size=16"]
    settings += ["image_size=32", "depths=[1,1,1]", "dims=[8,8,16]", "num_groups=2", "windows=2"]
    assert main(["data", "check", data, "--frames", "4"]) == 0
    checked = capsys.readouterr().out
    assert f"28 train, 28 val, 28 test clips in {data}" in checked
    assert "(train): layout 'listed', as listed in train.csv: 28 videos of 14 of 14" in checked
    assert "84 files can be read (84 by decord)" in checked
    assert "0 problems" in checked
    assert main(["train", "--data", data, "--out", out, "--workers", "0", *settings]) == 0
    trained = capsys.readouterr().out
    assert main(["eval", out, "--workers", "0", "--device", "cpu"]) == 0
    scored, device = capsys.readouterr()
    assert "computed on: cpu\n" in device
    top1 = trained.split("on test clips:  top-1 ")[1].split()[0]
    assert f"top-1 {top1}" in scored
    assert main(["eval", out, "--workers", "0", "--split", "val"]) == 0
    (row,) = read_metrics(Path(out) / "metrics.csv")
    assert f"loss {row['val_loss']:.4f}" in capsys.readouterr().out
    assert json.loads((Path(out) / "config.json").read_text())["classes"][:2] == ["right", "left"]


def test_convert_writes_a_loadable_model(tmp_path):
    model = create_model("toy")
    state = {released_name(key, "video"): tensor for key, tensor in model.state_dict().items()}
    for key, tensor in state.items():
        if key.endswith("bias_table"):
            state[key] = tensor.flatten(1).T.contiguous()
        elif key.endswith("token_proj_n_bias"):
            state[key] = tensor[None]
        elif tensor.dim() == 4:
            state[key] = tensor[:, :, None]
    torch.save({"model_state": state}, tmp_path / "released.pth")
    target = tmp_path / "ours.safetensors"
    assert main(["convert", str(tmp_path / "released.pth"), str(target)]) == 0
    clips = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        assert torch.equal(load(target)(clips), model.eval()(clips))


def test_help_is_quick_and_needs_no_torch():
    code = (
        "import sys\nfrom posmlp.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_configs_from_yaml_and_settings(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("preset: toy\nlayout: T>S\nlr: 1e-3\n")
    model, train = configs(str(path), ["gate=none", "epochs=2"])
    assert (model.layout, model.gate) == ("T>S", "none")
    assert (train.lr, train.epochs) == (1e-3, 2)
    path.write_text("# nothing yet")
    assert configs(str(path), []) == configs("toy", [])


@pytest.mark.parametrize(
    ("setting", "file", "told"),
    [
        ("layout=T", "S", "layout=T-S"),
        ("layout=T+S", "ST", "layout=T+S-ST"),
        ("layout=S", "T+S", "layout=S-T+S"),
        ("layout=T", "log", None),
        ("gate=dense", "S", None),
    ],
)
def test_layout_that_a_shell_took_for_a_file_is_noticed(
    setting, file, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ST+S").touch()
    before = os.dup(1)
    with (tmp_path / file).open("w") as target:
        os.dup2(target.fileno(), 1)
        try:
            _tell_lost_layout([setting, "epochs=1"])
        finally:
            os.dup2(before, 1)
            os.close(before)
    said = capsys.readouterr().err
    assert told in said if told else not said
