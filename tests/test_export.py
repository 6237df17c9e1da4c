"""Exported models give the model's logits, at any batch size, without this package."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from posmlp.checkpoint import save
from posmlp.cli import main
from posmlp.export import _EXPORTERS, LARGEST_DIFFERENCE, example_clips, export
from posmlp.model import create_model
from posmlp.presets import resolve
from tests.test_model import randomise
from tests.train.test_population import TINY

ONE_BLOCK = resolve(TINY, depths=(1,), layout="T")
IMAGE = resolve(ONE_BLOCK, kind="image", layout="S", num_frames=1)

RUN_WITHOUT_US = """
import sys, torch, onnxruntime
clips = torch.load("clips")
found = [torch.export.load("model.pt2").module()(clips)]
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
found.append(torch.from_numpy(session.run(["logits"], {"clips": clips.numpy()})[0]))
torch.save(found, "logits")
assert "posmlp" not in sys.modules
"""


def test_exported_files_give_the_models_logits_in_another_process(tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX is an extra: pip install -e '.[export]'")
    model = randomise(create_model(ONE_BLOCK, layout="T>S+ST")).train()
    paths = [tmp_path / "model.onnx", tmp_path / "model.pt2"]
    assert all(export(model, path) <= LARGEST_DIFFERENCE for path in paths)
    assert model.training
    clips = example_clips(model, 5)
    torch.save(clips, tmp_path / "clips")
    subprocess.run([sys.executable, "-c", RUN_WITHOUT_US], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = model.eval()(clips.double()).float()
    for found in torch.load(tmp_path / "logits"):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert sorted(tmp_path.glob("*.*")) == paths, "scraps were left"


@pytest.mark.parametrize("gate", ["gqpe", "attention"])
def test_every_gate_can_be_exported(gate, tmp_path):
    """To ONNX, which is made of what goes into a .pt2."""
    pytest.importorskip("onnxruntime", reason="ONNX is an extra: pip install -e '.[export]'")
    model = randomise(create_model(ONE_BLOCK, gate=gate))
    assert export(model, tmp_path / "model.onnx") <= LARGEST_DIFFERENCE


def _deny(*_args, **_more):
    raise PermissionError(errno.EACCES, "Permission denied")


def _full(*_args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_places_that_cannot_be_written_to_are_named_before_the_work(tmp_path, capsys, monkeypatch):
    source = tmp_path / "model.safetensors"
    save(create_model(ONE_BLOCK), source)
    (tmp_path / "folder.pt2").mkdir()
    monkeypatch.setattr("posmlp.export._program", lambda _model: pytest.fail("it was exported"))
    cases = {
        "model.pth": "model.pth, '.pth'. Did you mean '.pt2'? Use one of: .pt2, .onnx",
        "model": "model, ''. Use one of: .pt2, .onnx",
        "folder.pt2": "is a folder; name a file, for example",
        "model.safetensors/model.pt2": "model.safetensors is a file; give another folder",
    }
    before = sorted(tmp_path.rglob("*"))
    for name, message in cases.items():
        assert main(["export", str(source), str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    monkeypatch.setattr(Path, "touch", _deny)
    assert main(["export", str(source), str(tmp_path / "model.pt2")]) == 2
    assert f"you may not write to {tmp_path}; give a folder" in capsys.readouterr().err
    assert main(["export", str(tmp_path), str(tmp_path / "model.pt2")]) == 2
    assert "is a folder; give a file, such as a run's model-" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setitem(_EXPORTERS, ".pt2", lambda model: (bytes(1_200_000), model))
    monkeypatch.setattr(Path, "write_bytes", _full)
    assert main(["export", str(source), str(tmp_path / "model.pt2")]) == 2
    assert re.search(r"model.pt2 cannot .* full \(.* free, 1.2 MB wanted", capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before


def test_command_exports_an_image_model_and_says_how_close(tmp_path, capsys):
    model, target = create_model(IMAGE), tmp_path / os.fsdecode(b"caf\xe9.pt2")
    save(model, tmp_path / "model.safetensors")
    assert main(["export", str(tmp_path / "model.safetensors"), str(target)]) == 0
    assert "largest difference" in capsys.readouterr().out
    images = example_clips(model, 2)
    assert images.shape == (2, 3, 8, 8)
    with target.open("rb") as file:
        assert torch.export.load(file).module()(images).shape == (2, 3)
