"""From a run folder and a video file to an explained clip: sheet, animation and shares of frames.

Shapes: T frames, S pixels a side, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analysis.animation import save_attribution_animation
from analysis.attribution import Attribution, attribute
from analysis.draw_attribution import draw_attribution
from analysis.pictures import png
from posmlp.checkpoint import write_atomically
from posmlp.config import one_of
from posmlp.data.clips import Draw, load_clip
from posmlp.predict import open_run
from posmlp.train import normalise

NUM_NAMED = 3  # classes whose probabilities are printed


def explain_video(
    run: str | Path,
    video: str | Path,
    *,
    method: str = "integrated_gradients",
    target: str | int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> Attribution:
    """Attribute a class of a run's model to the pixels of a video, and write what that shows.

    The clip is the centre crop and centre view that testing takes. `target` is a class's name or
    number, by default the predicted one; `options` are the method's (see `attribute`). Writes
    VIDEO-METHOD.png (contact sheet), .mp4 (animation) and .csv (a row a frame: frame of the clip,
    frame of the video, share of |relevance|, sum) to `out`, by default RUN/attribution. Raises
    ValueError or VideoError for a run, video, class or method that cannot be used.
    """
    trained = open_run(run, seed)
    found = load_clip(str(video), trained.rule, Draw())
    frames = torch.from_numpy(found.frames)[None]
    clips = normalise(frames)
    with torch.no_grad():
        probabilities = trained.model(clips)[0].softmax(-1)
    number = _class_number(target, trained.classes, probabilities)
    maps = attribute(trained.model, clips, number, method, **options)

    stem = Path(out or Path(run) / "attribution") / f"{Path(video).stem}-{method}"
    name = trained.classes[number]
    sheet = draw_attribution(maps, frames, target_name=name)[0].figure
    write_atomically(stem.with_name(f"{stem.name}.png"), png(sheet))
    save_attribution_animation(maps, frames, stem.with_name(f"{stem.name}.mp4"), target_name=name)
    _write_shares(maps, found.indices, stem.with_name(f"{stem.name}.csv"))
    best = probabilities.topk(min(NUM_NAMED, len(trained.classes)))
    print("  ".join(f"{trained.classes[i]} {p:.3f}" for p, i in zip(*best, strict=True)))
    print(f"{name}: {maps.caption(0)}")
    print(f"{stem}.png, .mp4, .csv")
    return maps


def _class_number(
    target: str | int | None, classes: tuple[str, ...], probabilities: torch.Tensor
) -> int:
    if target is None:
        return int(probabilities.argmax())
    if str(target).isdecimal() and str(target) not in classes:
        number = int(target)
        if number >= len(classes):
            raise ValueError(f"target {number} is out of range; use 0 to {len(classes) - 1}")
        return number
    one_of(target, classes, "target")
    return classes.index(str(target))


def _write_shares(maps: Attribution, indices: Any, path: Path) -> None:
    table = pd.DataFrame(
        {
            "frame": range(len(indices)),
            "video_frame": indices,
            "share": maps.frame_shares()[0].numpy(),
            "sum": maps.values[0].sum(dim=(1, 2)).numpy(),
        }
    )
    write_atomically(path, table.to_csv(index=False).encode())
