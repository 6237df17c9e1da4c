"""Exported models give the model's logits, at any batch size, without this package."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from posmlp.checkpoint import save
from posmlp.cli import main
from posmlp.export import LARGEST_DIFFERENCE, example_clips, export
from posmlp.model import create_model
from posmlp.presets import resolve
from tests.test_model import randomise
from tests.train.test_population import TINY

ONE_BLOCK = resolve(TINY, depths=(1,), layout="T")
IMAGE = resolve(ONE_BLOCK, kind="image", layout="S", num_frames=1)

RUN_WITHOUT_US = {
    ".pt2": """
import sys, torch
module = torch.export.load(sys.argv[1]).module()
torch.save(module(torch.load(sys.argv[2])), sys.argv[3])
assert "posmlp" not in sys.modules
""",
    ".onnx": """
import sys, torch, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
found = session.run(["logits"], {"clips": torch.load(sys.argv[2]).numpy()})[0]
torch.save(torch.from_numpy(found), sys.argv[3])
assert "posmlp" not in sys.modules
""",
}


@pytest.mark.parametrize("suffix", RUN_WITHOUT_US)
def test_exported_file_gives_the_models_logits_in_another_process(suffix, tmp_path):
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    model = randomise(create_model(TINY, layout=("T>S", "ST"))).train()
    path = tmp_path / f"model{suffix}"
    assert export(model, path) <= LARGEST_DIFFERENCE
    assert model.training
    clips = example_clips(model, 5)
    torch.save(clips, tmp_path / "clips")
    files = [str(path), str(tmp_path / "clips"), str(tmp_path / "logits")]
    subprocess.run([sys.executable, "-c", RUN_WITHOUT_US[suffix], *files], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = model.eval()(clips.double()).float()
    torch.testing.assert_close(torch.load(tmp_path / "logits"), expected, rtol=1e-5, atol=1e-5)
    assert [each.name for each in tmp_path.glob("*.*")] == [path.name], "scraps were left"


@pytest.mark.parametrize("gate", ["gqpe", "attention", "conv", "none"])
def test_every_gate_can_be_exported(gate, tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX is an extra: pip install -e '.[export]'")
    model = randomise(create_model(ONE_BLOCK, gate=gate))
    for suffix in RUN_WITHOUT_US:
        assert export(model, tmp_path / f"model{suffix}") <= LARGEST_DIFFERENCE


def _deny(*_args, **_more):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_places_that_cannot_be_written_to_are_named_before_the_work(tmp_path, capsys, monkeypatch):
    source = tmp_path / "model.safetensors"
    save(create_model(ONE_BLOCK), source)
    (tmp_path / "folder.pt2").mkdir()
    monkeypatch.setattr("posmlp.export._program", lambda _model: pytest.fail("it was exported"))
    cases = {
        "model.pth": "model.pth, '.pth'. Did you mean '.pt2'? Use one of: .pt2, .onnx",
        "model": "model, ''. Use one of: .pt2, .onnx",
        os.fsdecode(b"caf\xe9.pt2"): r"caf\udce9.pt2 is no name in UTF-8",
        "folder.pt2": "is a folder; name a file, for example",
        "model.safetensors/model.pt2": "model.safetensors (File exists); name a file in another",
    }
    before = sorted(tmp_path.rglob("*"))
    for name, message in cases.items():
        assert main(["export", str(source), str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    monkeypatch.setattr(Path, "touch", _deny)
    assert main(["export", str(source), str(tmp_path / "model.pt2")]) == 2
    assert f"nothing can be written to {tmp_path} (Permission denied)" in capsys.readouterr().err
    assert main(["export", str(tmp_path), str(tmp_path / "model.pt2")]) == 2
    assert "is a folder; give a file, such as a run's model-" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_command_exports_an_image_model_and_says_how_close(tmp_path, capsys):
    model, target = create_model(IMAGE), tmp_path / "model.pt2"
    save(model, tmp_path / "model.safetensors")
    assert main(["export", str(tmp_path / "model.safetensors"), str(target)]) == 0
    assert "largest difference" in capsys.readouterr().out
    images = example_clips(model, 2)
    assert images.shape == (2, 3, 8, 8)
    assert torch.export.load(target).module()(images).shape == (2, 3)
