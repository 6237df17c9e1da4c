"""Check a data set of 10,000 small videos of which 1% are broken.

`python -m tests.data.check.bench_check` prints the seconds that the check takes, and
whether its list is exactly the broken files.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from posmlp.data.check.check import check_data
from posmlp.data.clips import ClipRule

NUM_ORIGINALS = 10  # different videos; all others are links to them


def write_video(path: Path, seed: int, codec: str = "libx264") -> None:
    """Write 8 frames of 32x32 noise."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8, options={"preset": "ultrafast", "g": "1"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for pixels in rng.integers(0, 256, (8, 32, 32, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def make_spoilt_dataset(root: Path, num_files: int, bad_share: float) -> set[str]:
    """Write a data set in folder layout; returns the places of its broken files."""
    originals = [
        root.with_name(f"{root.name}-originals") / f"{i}.mp4" for i in range(NUM_ORIGINALS)
    ]
    for seed, path in enumerate(originals):
        write_video(path, seed)
    content = originals[0].read_bytes()
    spoilt = [b"", b"not a video\n" * 20, content[: len(content) // 2], bytes(len(content))]
    order = np.random.default_rng(0).permutation(num_files)
    bad_kind = {int(i): kind for kind, i in enumerate(order[: round(bad_share * num_files)])}
    bad = set()
    for i in range(num_files):
        place = f"{'test' if i % 10 == 0 else 'train'}/class{i // 10 % 7}/{i:05d}.mp4"
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if i in bad_kind:
            path.write_bytes(spoilt[bad_kind[i] % len(spoilt)])
            bad.add(place)
        else:
            os.link(originals[i % NUM_ORIGINALS], path)
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--bad-share", type=float, default=0.01)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        bad = make_spoilt_dataset(root, options.files, options.bad_share)
        started = time.perf_counter()
        found = check_data(root, ClipRule(8, 32), num_workers=options.workers)
        seconds = time.perf_counter() - started
    exact = {problem.place for _, problem, _ in found.problems} == bad
    rate = options.files / seconds
    print(
        f"{options.files:,} files, {len(bad):,} broken, {options.workers} workers: "
        f"{seconds:.1f} s, {rate:,.0f} files/s, the list is {'exact' if exact else 'WRONG'}"
    )


if __name__ == "__main__":
    main()
