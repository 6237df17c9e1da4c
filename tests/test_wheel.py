"""The wheel holds what the packages need at run time, and works away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from posmlp.checkpoint import SHIPPED

ROOT = Path(__file__).parents[1]
PACKAGES = ("posmlp", "ablations", "analysis")
NOT_INSTALLED = ("ablations/results/", "ablations/FINDINGS.md")  # what was found, to be read


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", *PACKAGES], capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = [name for name in listed.stdout.split() if not name.startswith(NOT_INSTALLED)]
    return [name for name in found if not name.endswith("README.md") and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built wheel, unpacked. It is built from a copy, which leaves no build/ in the checkout."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in (*tracked(), "pyproject.toml", "README.md", "LICENSE"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    command = [sys.executable, "-m", "pip", "wheel", str(copy), *options, "--wheel-dir", str(out)]
    subprocess.run(command, check=True)
    (built,) = out.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    assert [name for name in tracked() if not (wheel / name).is_file()] == []


def test_shipped_model_is_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 1_000_000


USE = """
import sys
from pathlib import Path
import ablations, analysis, matplotlib, posmlp, posmlp.cli
wheel, folder = Path(sys.argv[1]), Path(sys.argv[2])
for package in (ablations, analysis, posmlp):
    assert Path(package.__file__).is_relative_to(wheel), package
matplotlib.use("Agg")

from report_folders import FIVE_GATES, fill, planted
from ablations.report import write_report
page = write_report(fill(folder / "grid", {**FIVE_GATES, "seeds": 2}, planted))
assert "lrpe" in page.read_text()

from analysis import BiasExplorer, write_page
from posmlp import TrainConfig, create_model, fit
from posmlp.data.digits.moving_digits import MovingDigits
from posmlp.data.sources import GeneratedClips
small = dict(num_frames=4, image_size=16, depths=(1,), dims=(8,), num_groups=2, windows=4,
             num_classes=14)
clips = [GeneratedClips(MovingDigits(split, 14, num_frames=4, image_size=16))
         for split in ("train", "test")]
fit(create_model("toy", **small).config, TrainConfig(epochs=1, batch_size=14),
    tuple(clips), out=folder / "run", progress=False)
assert "<h2" in write_page(folder / "run").read_text()

assert posmlp.cli.main(["try", "--out", str(folder / "try.html")]) == 0
assert posmlp.load("toy-ts").head.weight.dtype.itemsize == 4

BiasExplorer(create_model("toy", **small)).save(folder / "explorer.html")
assert "canvas" in (folder / "explorer.html").read_text()
"""


def test_pages_explorer_and_style_work_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    helpers = ROOT / "tests" / "ablations" / "report"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (wheel, helpers)))}
    command = [sys.executable, "-c", USE, str(wheel), str(tmp_path)]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
