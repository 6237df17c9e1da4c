"""Moving digits as a data set: clips on the fly (`MovingDigits`), or as video files on disk.

The folder that `write_dataset` makes is read like any user's videos:

    ROOT/dataset.json                      classes, which class reverses which, what made the clips
    ROOT/{train,val,test}.csv              path, label, class, index, pair
    ROOT/{train,val,test}/CLASS/00000.mp4  named by the clip's index
    ROOT/test-truth.npz                    masks and moving frames of the test clips, bits packed
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from posmlp.data.digits.catalogue import CLASSES, GENERATOR_VERSION, REVERSE_OF
from posmlp.data.digits.moving_digits import MovingDigits
from posmlp.data.files.clip_files import check_width, encode_clip, whole_folder
from posmlp.data.user_cache import NUM_WORKERS

RENDER_BATCH = 64
CSV_HEADER = ("path", "label", "class", "index", "pair")
TRUTH_FILE = "test-truth.npz"


def write_dataset(
    root: str | Path,
    *,
    num_train: int,
    num_test: int,
    num_val: int | None = None,
    seed: int = 0,
    difficulty: str = "medium",
    num_frames: int = 8,
    image_size: int = 32,
    progress: bool = True,
) -> Path:
    """Write moving digits as H.264 video files with labels and, for the test clips, ground truth.

    Train clips are drawn independently; val and test clips are paired with their exact time
    reversals. `num_val`: as many as test clips, at most 560, if left out. A folder that already
    holds just this data set is left alone.

    Raises: ValueError where the clips cannot be made or read back, or `root` holds something else.
    """
    check_width(image_size)
    look: dict[str, Any] = {
        "seed": seed,
        "difficulty": difficulty,
        "num_frames": num_frames,
        "image_size": image_size,
    }
    num_val = min(num_test, 560) if num_val is None else num_val
    sizes = {"train": num_train, "val": num_val, "test": num_test}
    splits = [
        MovingDigits(split, count, paired=split != "train", **look)
        for split, count in sizes.items()
    ]
    description = {
        "name": MovingDigits.name,
        "classes": list(CLASSES),
        "reverse_of": {name: CLASSES[REVERSE_OF[i]] for i, name in enumerate(CLASSES)},
        "generator": {"version": GENERATOR_VERSION, **look},
        **{f"num_{split}": count for split, count in sizes.items()},
    }
    root = Path(root).resolve()
    if _holds(root, description):
        print(f"{root}: already there", file=sys.stderr)
        return root

    with whole_folder(root) as partial:
        bar = tqdm(total=sum(sizes.values()), unit="clip", disable=not progress)
        with bar, ThreadPoolExecutor(NUM_WORKERS) as threads:
            for clips in splits:
                _write_split(partial, clips, threads, bar)
        (partial / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")
    return root


def load_truth(root: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The test clips' ground truth in the order of test.csv: masks (n, T, H, W), moving (n, T).

    masks: bool, the mover's visible pixels. moving: bool, the frames in which it moves or changes.

    Raises: ValueError where `root` has no ground truth.
    """
    path = Path(root) / TRUTH_FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing; make the data set with `posmlp data make`")
    with np.load(path) as packed:
        masks, moving = (
            _unpack(packed[key], packed[f"{key}_shape"]) for key in ("masks", "moving")
        )
    return masks, moving


def _unpack(bits: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.unpackbits(bits, count=int(shape.prod())).reshape(shape).astype(bool)


def _holds(root: Path, description: dict[str, Any]) -> bool:
    """Whether `root` is this very data set; False where nothing is there yet."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise ValueError(f"{root} is a file; name a new folder")
    if not any(root.iterdir()):
        return False
    about = root / "dataset.json"
    if not about.is_file() or json.loads(about.read_text()) != description:
        raise ValueError(f"{root} holds something else; name another folder, or remove this one")
    return True


def _write_split(root: Path, clips: MovingDigits, threads: ThreadPoolExecutor, bar: tqdm) -> None:
    """Write one split's videos, list and, for test clips, ground truth.

    While a batch is encoded, which needs no interpreter, the next is rendered.
    """
    for name in CLASSES:
        (root / clips.split / name).mkdir(parents=True)
    rows, masks, moving = [], [], []
    encoded: Iterable[None] = ()
    for indices in torch.arange(len(clips)).split(RENDER_BATCH):
        batch = clips.render(indices)
        list(encoded)  # wait for the batch before, and raise what it raised
        paths = []
        for index, label in zip(indices.tolist(), batch.labels.tolist(), strict=True):
            paths.append(f"{clips.split}/{CLASSES[label]}/{index:05d}.mp4")
            rows.append((paths[-1], label, CLASSES[label], index, index // 2))
        encoded = threads.map(encode_clip, map(root.joinpath, paths), batch.clips.numpy())
        masks.append(batch.masks.numpy())
        moving.append(batch.moving.numpy())
        bar.update(len(indices))
    list(encoded)
    with open(root / f"{clips.split}.csv", "w", newline="") as file:
        csv.writer(file).writerows([CSV_HEADER, *rows])
    if clips.split == "test":
        _write_truth(root / TRUTH_FILE, np.concatenate(masks), np.concatenate(moving))


def _write_truth(path: Path, masks: np.ndarray, moving: np.ndarray) -> None:
    np.savez_compressed(
        path,
        masks=np.packbits(masks),
        masks_shape=np.array(masks.shape),
        moving=np.packbits(moving),
        moving_shape=np.array(moving.shape),
    )
