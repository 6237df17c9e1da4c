"""What is installed: a wheel that works away from the checkout, and the same by pip and conda."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

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
two = {**FIVE_GATES, "axes": {"gate": ["lrpe", "mean"]}, "seeds": 2}
assert "lrpe" in write_report(fill(folder / "grid", two, planted)).read_text()

from analysis import BiasExplorer

assert posmlp.cli.main(["try", "--out", str(folder / "try.html")]) == 0
assert posmlp.load("toy-ts").head.weight.dtype.itemsize == 4

BiasExplorer(posmlp.create_model("toy")).save(folder / "explorer.html")
assert "canvas" in (folder / "explorer.html").read_text()
"""


def test_pages_explorer_and_style_work_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    helpers = ROOT / "tests" / "ablations" / "report"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (wheel, helpers)))}
    command = [sys.executable, "-c", USE, str(wheel), str(tmp_path)]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)


# The environment


CONDA_NAMES = {
    "pytorch": "torch",
    "matplotlib-base": "matplotlib",
    "playwright-python": "playwright",
}
USER_CHOICE = (
    "torch",
    "jupyterlab",
    "matplotlib",
    "seaborn",
    "pandas",
    "fvcore",
    "captum",
    "decord",
)
MACHINES = {
    "Linux x86-64": {"sys_platform": "linux", "platform_machine": "x86_64"},
    "Linux arm64": {"sys_platform": "linux", "platform_machine": "aarch64"},
    "Windows": {"sys_platform": "win32", "platform_machine": "AMD64"},
    "Mac arm64": {"sys_platform": "darwin", "platform_machine": "arm64"},
}


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in lines]
    return {r.name: r for r in parsed}


@pytest.fixture(scope="module")
def pip() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return requirements(project["dependencies"] + project["optional-dependencies"]["dev"])


@pytest.fixture(scope="module")
def conda() -> dict[str, Requirement]:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (from_pip,) = (entry["pip"] for entry in listed if isinstance(entry, dict))
    plain = [entry for entry in listed if isinstance(entry, str)]
    own = {"python", "pip"}
    found = requirements([line for line in plain if Requirement(line).name not in own])
    found = {CONDA_NAMES.get(name, name): requirement for name, requirement in found.items()}
    return found | requirements([line for line in from_pip if not line.startswith("--editable")])


def test_environments_hold_the_same_packages_and_bounds(pip, conda):
    assert set(pip) == set(conda)
    for name, requirement in pip.items():
        assert requirement.specifier == conda[name].specifier, name
        assert requirement.marker == conda[name].marker, name


def test_bounds_are_lower_bounds(pip):
    for requirement in pip.values():
        assert [spec.operator for spec in requirement.specifier] == [">="], requirement


@pytest.mark.parametrize("machine", MACHINES)
def test_each_machine_gets_one_decord(pip, machine):
    def applies(requirement: Requirement) -> bool:
        return requirement.marker is None or requirement.marker.evaluate(MACHINES[machine])

    assert sum(applies(pip[name]) for name in ("decord", "decord2")) == 1


def test_the_chosen_packages_are_asked_for(pip):
    assert set(USER_CHOICE) <= set(pip)


def test_python_bounds_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert f"python{project['requires-python']}" in listed["dependencies"]
    assert listed["channels"] == ["conda-forge", "nodefaults"]


def test_the_demo_installs_no_test_tools_and_the_tests_install_once():
    def installs(*words: str) -> list[str]:
        command = ["make", "--dry-run", "--always-make", "UV=", *words]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return [line for line in shown.stdout.splitlines() if "pip install" in line]

    (demo,) = installs("demo", "TORCH=cpu")
    assert demo.endswith("--extra-index-url https://download.pytorch.org/whl/cpu --editable .")
    (tests,) = installs("dev", "check", "test")
    assert tests.endswith('--editable ".[dev]"')
