"""Pre-training: an image model trains on a folder of images, and a video model starts from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from posmlp.checkpoint import load, save, start_from
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.augment import normalise
from posmlp.data.layouts.layouts import list_videos
from posmlp.data.sources import open_clips
from posmlp.model import PosMLP, create_model
from posmlp.train.fitting import fit
from posmlp.train.scoring import evaluate
from tests.train.test_population import TINY

IMAGE = replace(
    TINY, kind="image", layout="S", num_frames=1, temporal_windows=1, image_size=16,
    windows=(4, 2), num_classes=2,
)  # fmt: skip
VIDEO = replace(IMAGE, kind="video", layout="T>S", num_frames=4, temporal_windows=4)
TRAIN = TrainConfig(epochs=6, batch_size=8, lr=1e-2, min_crop_area=0.5, ema_decay=0.9, mixup=0.2)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Stripes across and stripes down, in jpg and png, and one file that is no image."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for name in ("across", "down"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                wave = 127 + 100 * np.sin(np.arange(32) * 0.8 + rng.uniform(0, 6))
                frame = (
                    np.repeat(wave[:, None], 40, 1)
                    if name == "across"
                    else np.tile(np.resize(wave, 40), (32, 1))
                )
                picture = Image.fromarray(np.repeat(frame[..., None], 3, 2).astype(np.uint8))
                picture.save(folder / split / name / f"{i}.{'jpg' if i % 2 else 'png'}")
    (folder / "train" / "across" / "notes.txt").write_text("not an image")
    return folder


def test_image_folder_is_recognised_and_listed(root):
    listing = list_videos(root, "train")
    assert listing.layout == "image-folders"
    assert listing.classes == ("across", "down")
    assert len(listing.paths) == 44  # two of each class are val
    assert listing.num_other_files == 1
    assert len(list_videos(f"image-folders:{root}", "test").paths) == 16


def test_images_are_clips_of_one_frame(root):
    clips = open_clips(str(root), "test", IMAGE, train=TRAIN, num_workers=0)
    (batch,) = clips.batches([torch.tensor([0])])
    assert batch.shape == (1, 1, 16, 16, 3)
    with Image.open(clips.paths[0]) as picture:
        expected = picture.convert("RGB").resize((20, 16), Image.Resampling.BILINEAR)
    centre = np.asarray(expected)[:, 2:18].astype(int)
    assert np.abs(batch[0, 0].numpy().astype(int) - centre).max() <= 1


def test_image_model_learns_and_its_video_model_starts_as_its_average(root, tmp_path):
    rows = fit(IMAGE, TRAIN, root, out=tmp_path / "run", num_workers=0, progress=False)
    assert rows[-1]["test_top1"] > 0.8
    path = tmp_path / "run" / "model-seed0.safetensors"
    image = load(path)
    assert isinstance(image, PosMLP)
    assert evaluate(image, root, num_workers=0)["top1"] == rows[-1]["test_top1"]

    video = start_from(path, VIDEO).eval()
    clips = normalise(torch.randint(0, 256, (2, 4, 16, 16, 3), dtype=torch.uint8))
    with torch.no_grad():
        frames = torch.stack([image(clips[:, :, t]) for t in range(4)])
        torch.testing.assert_close(video(clips), frames.mean(0), rtol=1e-4, atol=1e-5)


def moving_config(**change: Any) -> PosMLPConfig:
    return replace(VIDEO, **{"num_classes": 14} | change)


def test_training_starts_from_the_file_and_each_seed_has_its_own_new_parts(tmp_path):
    image = create_model(IMAGE)
    save(image, tmp_path / "image.safetensors")
    path = str(tmp_path / "image.safetensors")
    train = TrainConfig(epochs=1, batch_size=8, num_clips=8, lr=1e-9, min_lr=0, init_from=path)
    train = replace(train, num_val_clips=28, num_test_clips=28)
    fit(moving_config(), train, "moving-digits:easy", [0, 1], tmp_path / "run", progress=False)
    first, second = (load_file(tmp_path / f"run/model-seed{k}.safetensors") for k in (0, 1))
    name = "stem.convs.0.weight"
    torch.testing.assert_close(first[name], image.state_dict()[name], atol=1e-6, rtol=0)
    assert not torch.equal(first["head.weight"], second["head.weight"])
    save(create_model(IMAGE), tmp_path / "image.safetensors")
    with pytest.raises(ValueError, match="init_sha256"):
        fit(moving_config(), train, "moving-digits:easy", [0, 1], tmp_path / "run", progress=False)


def test_starting_from_another_model_says_what_differs(tmp_path):
    save(create_model(moving_config(dims=(8, 32))), tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match=r"dims=\[8, 32\], not \[8, 16\]"):
        start_from(tmp_path / "wide.safetensors", moving_config())
    save(create_model(moving_config(num_classes=5)), tmp_path / "other.safetensors")
    model = start_from(tmp_path / "other.safetensors", moving_config())
    assert model.head.out_features == 14
