"""From a run folder and a video file to an explained clip: sheet, animation and shares of frames.

Shapes: T frames, S pixels a side, K classes.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analysis.attribution.animation import save_attribution_animation
from analysis.attribution.attribution import Attribution, attribute, checked_method
from analysis.attribution.draw_attribution import draw_attribution
from analysis.attribution.method_options import check_names
from analysis.figures.pictures import png
from posmlp.checkpoint import write_atomically
from posmlp.config_checks import one_of
from posmlp.data.augment import normalise
from posmlp.data.clips import Draw, load_clip
from posmlp.data.layouts.listing import as_text
from posmlp.predict import open_run

NUM_NAMED = 3  # classes whose probabilities are printed


def explain_video(
    run: str | Path,
    video: str | Path,
    *,
    method: str = "integrated_gradients",
    target: str | int | None = None,
    seed: int | None = None,
    variant: str | None = None,
    out: str | Path | None = None,
    internal_batch_size: int = 16,
    **options: Any,
) -> Attribution:
    """Attribute a class of a run's model to the pixels of a video, and write what that shows.

    The clip is the centre crop and centre view that testing takes. `target` is a class's name or
    number, by default the predicted one; `options` are the method's (see `attribute`). Writes
    VIDEO-METHOD.png (contact sheet), .mp4 (animation) and .csv (a row a frame: frame of the clip,
    frame of the video, share of |relevance|, sum, and what was explained) to `out`, by default
    RUN/attribution. Where such files are of another video, model, class or options, a number is
    added: VIDEO-METHOD-2. Raises ValueError or VideoError for a run, video, class or method that
    cannot be used.
    """
    checked_method(method)
    check_names(method, options)
    trained = open_run(run, seed, variant)
    found = load_clip(str(video), trained.rule, Draw())
    frames = torch.from_numpy(found.frames)[None]
    clips = normalise(frames)
    like = next(trained.model.parameters())
    with torch.no_grad():
        logits = trained.model(clips.to(like))[0].cpu()
    probabilities = logits.sigmoid() if trained.multi_label else logits.softmax(-1)
    number = _class_number(target, trained.classes, probabilities)
    maps = attribute(
        trained.model, clips, number, method, internal_batch_size=internal_batch_size, **options
    )

    name = trained.classes[number]
    what = {
        "video": as_text(str(Path(video).resolve())),
        "model": as_text(f"{Path(run).resolve()}, {trained.variant} seed {trained.seed}"),
        "explained": f"{name}: {maps.made_by}",
    }
    wished = f"{Path(video).stem}-{method}"
    stem = _free_name(Path(out or Path(run) / "attribution"), wished, what)
    _write_shares(maps, found.indices, what, Path(f"{stem}.csv"))  # first: it says whose all are
    sheet = draw_attribution(maps, frames, target_name=name)[0].figure
    write_atomically(f"{stem}.png", png(sheet))
    save_attribution_animation(maps, frames, f"{stem}.mp4", target_name=name)
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


def _free_name(folder: Path, wished: str, what: dict[str, str]) -> Path:
    """The path without a suffix, numbered where files of something else have the name."""
    numbered = (f"{wished}-{number}" for number in itertools.count(2))
    names = (folder / name for name in itertools.chain([wished], numbered))
    return next(name for name in names if _is_free(name, what))


def _is_free(stem: Path, what: dict[str, str]) -> bool:
    """Whether there are no files of this name, or they are of the same."""
    table = Path(f"{stem}.csv")
    if not table.exists():
        return not any(Path(f"{stem}{suffix}").exists() for suffix in (".png", ".mp4"))
    try:
        first = pd.read_csv(table, dtype=str, keep_default_na=False, nrows=1)
    except ValueError:  # no table
        return False
    return any(what.items() <= row.items() for row in first.to_dict("records"))


def _write_shares(maps: Attribution, indices: Any, what: dict[str, str], path: Path) -> None:
    table = pd.DataFrame(
        {
            "frame": range(len(indices)),
            "video_frame": indices,
            "share": maps.frame_shares()[0].numpy(),
            "sum": maps.values[0].sum(dim=(1, 2)).numpy(),
            **what,
        }
    )
    write_atomically(path, table.to_csv(index=False).encode())
