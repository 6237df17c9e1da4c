"""Action detection: a head over the backbone's last stage judges boxes around a clip's key frame.

Source: the usual AVA head (SlowFast's): features averaged over time, RoIAlign, maximum over the
region, one logit an action, as an actor may do several. Needs torchvision.

Shapes: B clips, T frames, H x W tokens, C channels, p boxes a clip, K actions.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, roi_align
from tqdm import tqdm

from posmlp.checkpoint import read_tensors, write_atomically
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.augment import normalise
from posmlp.tasks.boxes import KeyFrames, Labelled, frame_map, overlaps, truth_of
from posmlp.train.batches import mixed
from posmlp.train.optimisation import learning_rate
from posmlp.train.population import seeded_model
from posmlp.train.run_folder import RunFolder, locked

REGION = 7  # places of a box, each way, at which features are read
MIN_OVERLAP = 0.5  # of a proposal that is taken for a true box in training
MAX_OVERLAP = 0.3  # of two detections of one action
MIN_SCORE = 0.01


class Detector(nn.Module):
    """clips (B, 3, T, H, W) float and B tensors of boxes (p, 4) -> logits (all boxes, K)."""

    def __init__(self, config: PosMLPConfig, num_actions: int, seed: int = 0, init_from: str = ""):
        super().__init__()
        self.backbone = seeded_model(replace(config, num_classes=0), seed, init_from)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.head = nn.Linear(config.dims[-1], num_actions)

    def forward(self, clips: Tensor, boxes: list[Tensor]) -> Tensor:
        tokens = self.backbone.norm(self.backbone.forward_features(clips)[-1])
        features = tokens.mean(1).permute(0, 3, 1, 2)  # (B, C, H, W)
        height, width = features.shape[-2:]
        scale = torch.tensor([width, height, width, height], device=clips.device)
        regions = roi_align(features, [b * scale for b in boxes], REGION, aligned=True)
        return self.head(regions.amax((-2, -1)))


def targets_of(proposals: Tensor, boxes: Tensor, actions: Tensor) -> Tensor:
    """Actions (p, K) float of proposals: those of the true box that each overlaps most."""
    if not len(boxes):
        return torch.zeros(len(proposals), actions.shape[1])
    overlap, nearest = overlaps(proposals, boxes).max(1)
    return actions[nearest].float() * (overlap >= MIN_OVERLAP)[:, None]


def train_detector(
    config: PosMLPConfig,
    train: TrainConfig,
    key_frames: tuple[KeyFrames, KeyFrames],
    out: str | Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> tuple[Detector, list[dict[str, float]]]:
    """Train on the first key frames, score frame-mAP on the second; the detector and its history.

    Epochs, batch, rate and decay are those of `train`; clips are not augmented. Its precision is
    float32. The run folder `out` gets config.json, metrics.csv and detector.safetensors; a run that
    is complete is returned, and one that was interrupted starts anew.
    """
    learn, test = key_frames
    device = torch.device(device)
    about = {
        split: {"name": part.name, "num_clips": len(part)}
        for split, part in (("train", learn), ("test", test))
    }
    described = {"model": config.to_dict(), "train": train.to_dict(), "data": about, "seed": seed}
    folder = RunFolder(out, {**described, "classes": list(learn.classes)})
    finished = folder.root / "detector.safetensors"
    if finished.exists():
        return load_detector(finished)[0].to(device), folder.rows()
    detector = Detector(config, len(learn.classes), seed, train.init_from).to(device)
    decayed = [p for p in detector.parameters() if p.dim() >= 2]
    others = [p for p in detector.parameters() if p.dim() < 2]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=train.lr, weight_decay=train.weight_decay)
    history: list[dict[str, Any]] = []
    num_steps = max(1, len(learn) // train.batch_size)
    bar = tqdm(range(train.epochs), unit="epoch", disable=None if progress else True)
    with locked(folder.root), torch.random.fork_rng(devices=[]):  # stochastic depth
        folder.begin(device)
        torch.default_generator.manual_seed(seed)
        for epoch in bar:
            draw = torch.Generator().manual_seed(mixed(seed, epoch))
            order, total = torch.randperm(len(learn), generator=draw), 0.0
            for step, chosen in enumerate(order.split(train.batch_size)[:num_steps]):
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(train, epoch + step / num_steps)
                loss = _loss(detector, learn, chosen.tolist())
                optimiser.zero_grad()
                loss.backward()
                if train.grad_clip:
                    nn.utils.clip_grad_norm_(detector.parameters(), train.grad_clip)
                optimiser.step()
                total += loss.item()
            scores = frame_map(detect(detector, test), truth_of(test), len(test.classes))
            row = {"epoch": epoch + 1, "seed": seed, "train_loss": total / num_steps}
            history.append({**row, **{f"test_{name}": value for name, value in scores.items()}})
            folder.write_rows(history)
            bar.set_postfix(map=f"{scores['map']:.3f}")
        save_detector(detector, finished, learn.classes)
    return detector, history


def _loss(detector: Detector, learn: KeyFrames, chosen: list[int]) -> Tensor:
    """The loss of a batch, the mean over boxes and actions."""
    device = next(detector.parameters()).device
    boxes = [torch.cat([learn.proposals[i], learn.boxes[i]]) for i in chosen]
    targets = [
        targets_of(b, learn.boxes[i], learn.actions[i]) for b, i in zip(boxes, chosen, strict=True)
    ]
    clips = normalise(torch.stack([learn.load(i) for i in chosen]).to(device))
    logits = detector.train()(clips, [b.to(device) for b in boxes])
    return F.binary_cross_entropy_with_logits(logits, torch.cat(targets).to(device))


@torch.no_grad()
def detect(detector: Detector, key_frames: KeyFrames, batch_size: int = 32) -> Labelled:
    """Boxes with an action and its probability, of each action those that overlap little."""
    detector.eval()
    device = next(detector.parameters()).device
    parts = []
    for chosen in torch.arange(len(key_frames)).split(batch_size):
        clips = torch.stack([key_frames.load(i) for i in chosen.tolist()])
        boxes = [key_frames.proposals[i] for i in chosen.tolist()]
        logits = detector(normalise(clips.to(device)), [b.to(device) for b in boxes])
        per_clip = logits.sigmoid().cpu().split([len(b) for b in boxes])
        parts += [_kept(int(i), b, s) for i, b, s in zip(chosen, boxes, per_clip, strict=True)]
    return Labelled(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _kept(frame: int, boxes: Tensor, scores: Tensor) -> Labelled:
    """The detections of one key frame: boxes (p, 4), scores (p, K)."""
    which, action = (scores >= MIN_SCORE).nonzero(as_tuple=True)
    score = scores[which, action]
    kept = batched_nms(boxes[which], score, action, MAX_OVERLAP)
    which, action, score = which[kept], action[kept], score[kept]
    return Labelled(torch.full_like(action, frame), boxes[which], action, score)


def save_detector(detector: Detector, path: Path, classes: tuple[str, ...]) -> None:
    """Write a detector's state, its backbone's config and its actions to one file."""
    header = {
        "config": json.dumps(detector.backbone.config.to_dict()),
        "actions": json.dumps(classes),
    }
    state = {name: tensor.contiguous().cpu() for name, tensor in detector.state_dict().items()}
    write_atomically(path, to_bytes(state, header))


def load_detector(path: str | Path) -> tuple[Detector, tuple[str, ...]]:
    """A detector in eval mode, and the names of its actions."""
    state, header = read_tensors(path)
    actions = tuple(json.loads(header["actions"]))
    detector = Detector(PosMLPConfig.from_dict(json.loads(header["config"])), len(actions))
    detector.load_state_dict(state)
    return detector.eval(), actions
